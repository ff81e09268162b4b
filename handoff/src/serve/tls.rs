//! HTTP over TLS: the handshake, in the task of its connection, and what cannot move because of it.
//!
//! A connection that has said nothing yet moves as others do. From its first byte on it stays, for its keys do: in a drain
//! it lives until its next response, as it would without a successor.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Serve;
use super::carrier::private;
use super::connection::{self, HttpService};
use super::linger::linger;
use super::phase::{Phase, changed};
use super::transport::{Outcome, Transport};
use crate::net::{Kind, Stream};
use crate::worker::Activity;

/// How long a client may take from its connection to the end of the handshake: many times the slowest ordinary one, and
/// short enough that connections which never say anything are not held for long.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS by rustls.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl<K: Kind, A, Form> Serve<K, A, Form> {
    /// Serves over TLS. The handshake is awaited for 10 seconds, beside all other connections. A configuration without ALPN
    /// protocols offers HTTP/2 and HTTP/1.1.
    ///
    /// An encrypted connection cannot move to another worker. In a drain it is never closed while a request is in progress:
    /// HTTP/2 says GOAWAY, HTTP/1.1 says `Connection: close` in its next response, and an idle one is closed before the soft
    /// deadline. Let clients come back cheaply with [`ticketer`](crate::tls::ticketer).
    ///
    /// ```no_run
    /// # async fn example(app: axum::Router, mut config: rustls::ServerConfig) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    ///
    /// use everport_handoff::{net::TcpListener, serve::serve, tls, worker::Worker};
    ///
    /// config.ticketer = tls::ticketer(&Worker::current()?)?;
    /// let listener = TcpListener::bind("0.0.0.0:443").await?;
    /// serve(listener, app).tls(Arc::new(config)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tls(self, config: Arc<ServerConfig>) -> Serve<K, A, Form, Tls> {
        let Self { listener, app, form, .. } = self;
        Serve { listener, app, carrier: Tls::new(config), form }
    }
}

impl Tls {
    pub(super) fn new(mut config: Arc<ServerConfig>) -> Self {
        if config.alpn_protocols.is_empty() {
            Arc::make_mut(&mut config).alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        Self(TlsAcceptor::from(config))
    }

    /// Makes the handshake, and serves.
    pub(super) async fn secure<I: Transport, S: HttpService>(self, io: I, service: S, phase: Phase) {
        match timeout(HANDSHAKE_TIMEOUT, self.0.accept(io).into_fallible()).await {
            Ok(Ok(stream)) => connection::serve(stream, service, phase).await,
            Ok(Err((error, io))) => {
                tracing::trace!(%error, "handshake failed");
                // The client shall learn why.
                linger(io).await;
            }
            Err(_) => tracing::trace!("handshake took too long"),
        }
    }
}

impl<K: Kind> private::Carrier<K> for Tls {
    async fn serve<S: HttpService>(self, stream: Stream<K>, service: S, mut phase: Phase) {
        match timeout(HANDSHAKE_TIMEOUT, first_byte(stream, &mut phase)).await {
            Ok(Some(stream)) => self.secure(stream, service, phase).await,
            Ok(None) => {}
            Err(_) => tracing::trace!("nothing said in the time for a handshake"),
        }
    }
}

/// Waits until a new connection has something to say. Nothing, if it moved instead.
async fn first_byte<K: Kind>(mut stream: Stream<K>, phase: &mut Phase) -> Option<Stream<K>> {
    let mut moves = true;
    loop {
        let successor = phase.borrow_and_update().is_some_and(|drain| drain.successor);
        if successor && moves {
            match stream.hand_over(Bytes::new()).await {
                Outcome::Gone => return None,
                Outcome::Returned(returned, _) => (stream, moves) = (returned, false),
            }
        }
        tokio::select! {
            biased;
            _ = changed(phase), if moves => {}
            // An error is one of the handshake's, too.
            _ = stream.first_byte() => return Some(stream),
        }
    }
}

impl<I: Transport> Transport for TlsStream<I> {
    const MOVES: bool = false;

    async fn hand_over(self, unread: Bytes) -> Outcome<Self> {
        Outcome::Returned(self, unread)
    }

    fn activity(&self) -> Activity {
        self.get_ref().0.activity()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
