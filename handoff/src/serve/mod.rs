//! HTTP/1.1 and HTTP/2 for applications of axum, tower and hyper, on connections that outlive their worker.
//!
//! [`serve()`] takes what `axum::serve` takes. The difference is in the drain: a connection of HTTP/1.1 on which no request
//! is in progress is taken out of hyper, with what the client has sent so far, and moves to another worker; the client
//! notices nothing. A busy one moves after its response.
//!
//! What cannot move (HTTP/2, or everything when no other worker is there) is never closed while a request is in
//! progress. HTTP/2 says GOAWAY and finishes its streams. HTTP/1.1 says `Connection: close` in its next response; if no
//! request comes it is closed before the soft deadline, each connection at a random moment. Closing is half-closing first:
//! what the client still sends is read until it has seen the end.
//!
//! As with `axum::serve`, the options of TCP are left as they are (`TCP_NODELAY` is off), a panic in the application ends
//! its connection, and idle connections live as long as their clients want. The head of a request must be there 30 seconds
//! after its first byte.
//!
//! - `app`: the forms of an application; `request`: its service, counted;
//! - `phase`: whether the server drains; `connection`, `http2`: one connection; `linger`: its gentle end;
//! - `wire`, `head`, `pulse`: what is seen of a connection from outside hyper, and when it can be taken apart;
//! - `transport`: how it moves; `upgrade`: how the application takes it;
//! - `carrier`: what is between the socket and HTTP: nothing, or `tls`.

mod app;
mod carrier;
mod connection;
mod head;
mod http2;
mod linger;
mod phase;
mod pulse;
mod request;
#[cfg(test)]
mod tests;
#[cfg(feature = "rustls")]
mod tls;
mod transport;
mod upgrade;
mod wire;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::marker::PhantomData;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

pub use self::app::{Accepted, App, form};
pub use self::carrier::{Carrier, Plain};
#[cfg(feature = "rustls")]
pub use self::tls::Tls;
pub use self::upgrade::downcast;
use crate::net::{ACCEPT_RETRY, Kind, Listener, Stream, is_the_clients};
use connection::elapsed;
use phase::{Drain, GRACE, Phase};

/// Serves an application on a listener: an axum `Router`, what its `into_make_service` and
/// `into_make_service_with_connect_info::<SocketAddr>` return, a tower service, or a hyper service.
///
/// In a worker it ends when the worker drains and every connection has moved, has ended or was upgraded: a `main` of one's
/// own waits for those by [`finished`](crate::worker::Worker::finished), as `everport::Builder::run` does. Without a master
/// it ends only by [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// ```
/// use axum::{Router, routing::get};
/// use everport_handoff::net::TcpListener;
///
/// # async fn example() -> std::io::Result<()> {
/// let app = Router::new().route("/", get(async || "hello"));
/// let listener = TcpListener::bind("127.0.0.1:8000").await?;
/// everport_handoff::serve::serve(listener, app).await
/// # }
/// ```
pub fn serve<K: Kind, A: App<K, Form>, Form>(listener: Listener<K>, app: A) -> Serve<K, A, Form> {
    Serve { listener, app, carrier: Plain, form: PhantomData }
}

/// What [`serve()`] returns; awaiting it serves.
#[must_use = "it serves only when it is awaited"]
pub struct Serve<K: Kind, A, Form, C = Plain> {
    listener: Listener<K>,
    app: A,
    carrier: C,
    form: PhantomData<fn() -> Form>,
}

/// A server that also ends when a future of the application's says so.
#[must_use = "it serves only when it is awaited"]
pub struct WithGracefulShutdown<K: Kind, A, Form, F, C = Plain> {
    serve: Serve<K, A, Form, C>,
    signal: F,
}

/// A server that is awaited.
pub struct ServeFuture(Pin<Box<dyn Future<Output = io::Result<()>> + Send>>);

impl<K: Kind, A: App<K, Form>, Form: 'static, C: Carrier<K>> Serve<K, A, Form, C> {
    /// Ends the server also when this future resolves: it accepts nothing more and lets its connections leave as in a
    /// drain without a successor. A worker drains without it; `worker.draining()` may be given all the same.
    pub fn with_graceful_shutdown<F>(self, signal: F) -> WithGracefulShutdown<K, A, Form, F, C>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        WithGracefulShutdown { serve: self, signal }
    }

    async fn run(self, signal: impl Future<Output = ()> + Send) {
        let Self { listener, mut app, carrier, .. } = self;
        let link = listener.link().cloned();
        let mut signal = pin!(signal);
        let mut begun = pin!(phase::begun(link.clone()));
        let mut over = pin!(phase::nothing_more_comes(link));
        let (phase, watching) = watch::channel(None);
        let mut signalled = false;
        let mut retry = None;
        let drains = loop {
            tokio::select! {
                biased;
                drain = &mut begun, if phase.borrow().is_none() => drop(phase.send_replace(Some(drain))),
                () = &mut over => break true,
                () = &mut signal, if !signalled => {
                    signalled = true;
                    // A drain says more than the signal, which may well follow from it.
                    if phase.borrow().is_none() {
                        phase.send_replace(Some(Drain { successor: false, deadline: Instant::now() + GRACE }));
                        break false;
                    }
                }
                () = elapsed(&mut retry), if retry.is_some() => retry = None,
                accepted = listener.accept(), if retry.is_none() => match accepted {
                    Ok((stream, peer)) => begin(&mut app, &carrier, (stream, peer), watching.clone()).await,
                    Err(error) if is_the_clients(&error) => {}
                    Err(error) => {
                        tracing::debug!(%error, "accept");
                        retry = Some(Box::pin(sleep(ACCEPT_RETRY)));
                    }
                },
            }
        };
        // What moves in a drain is handed over by its listener; otherwise the port is given up at once.
        let listener = drains.then_some(listener);
        drop(watching);
        phase.closed().await;
        drop(listener);
    }
}

/// Starts a connection's own task.
async fn begin<K: Kind, A: App<K, Form>, Form>(
    app: &mut A,
    carrier: &impl Carrier<K>,
    (stream, peer): (Stream<K>, K::Addr),
    phase: Phase,
) {
    match app.service(Accepted::new(&stream, &peer)).await {
        Ok(service) => drop(tokio::spawn(carrier.clone().serve(stream, service, phase))),
        Err(error) => tracing::debug!(%error, "the application has no service for a connection"),
    }
}

impl<K: Kind, A: App<K, Form>, Form: 'static, C: Carrier<K>> IntoFuture for Serve<K, A, Form, C> {
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        self.with_graceful_shutdown(std::future::pending()).into_future()
    }
}

impl<K: Kind, A: App<K, Form>, Form: 'static, F, C: Carrier<K>> IntoFuture for WithGracefulShutdown<K, A, Form, F, C>
where
    F: Future<Output = ()> + Send + 'static,
{
    type Output = io::Result<()>;
    type IntoFuture = ServeFuture;

    fn into_future(self) -> ServeFuture {
        ServeFuture(Box::pin(async move {
            self.serve.run(self.signal).await;
            Ok(())
        }))
    }
}

impl Future for ServeFuture {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<K: Kind, A, Form, C> fmt::Debug for Serve<K, A, Form, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<K: Kind, A, Form, F, C> fmt::Debug for WithGracefulShutdown<K, A, Form, F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithGracefulShutdown").field("serve", &self.serve).finish_non_exhaustive()
    }
}

impl fmt::Debug for ServeFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeFuture").finish_non_exhaustive()
    }
}
