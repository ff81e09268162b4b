//! `axum::serve` on Everport's listeners, as they are, and with the client's address as `ConnectInfo`.

use std::io;
#[cfg(feature = "http")]
use std::net::SocketAddr;

#[cfg(feature = "http")]
use axum::extract::connect_info::Connected;
use axum::serve::{ListenerExt, TapIo};

use crate::net::{ACCEPT_RETRY, Kind, Listener, TcpListener, TcpStream, is_the_clients};

/// What [`with_peer`] returns.
pub type WithPeer = TapIo<TcpListener, fn(&mut TcpStream)>;

/// Makes `Router::into_make_service_with_connect_info::<SocketAddr>()` work: axum knows the client's address only for its
/// own listener and for `TapIo`.
///
/// ```
/// use std::net::SocketAddr;
///
/// use axum::{Router, extract::ConnectInfo, routing::get};
/// use everport_handoff::{adapter::axum::with_peer, net::TcpListener};
///
/// # async fn serve() -> std::io::Result<()> {
/// let app = Router::new().route("/", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()));
/// let listener = TcpListener::bind("127.0.0.1:8000").await?;
/// axum::serve(with_peer(listener), app.into_make_service_with_connect_info::<SocketAddr>()).await
/// # }
/// ```
pub fn with_peer(listener: TcpListener) -> WithPeer {
    listener.tap_io(|_| {})
}

impl<K: Kind> axum::serve::Listener for Listener<K> {
    type Io = crate::net::Stream<K>;
    type Addr = K::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match Self::accept(self).await {
                Ok(accepted) => return accepted,
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.local()
    }
}

/// `into_make_service_with_connect_info::<SocketAddr>()` on [`serve`](crate::serve).
#[cfg(feature = "http")]
impl Connected<crate::serve::Accepted<'_, crate::net::Tcp>> for SocketAddr {
    fn connect_info(accepted: crate::serve::Accepted<'_, crate::net::Tcp>) -> Self {
        *accepted.peer_addr()
    }
}
