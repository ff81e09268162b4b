//! TCP, as in [`tokio::net`].

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::ReadBuf;

use super::kind::Tcp;
use super::listener::Listener;
use super::stream::Stream;
use crate::address::ToListenAddress;

/// A TCP listener, as [`tokio::net::TcpListener`].
pub type TcpListener = Listener<Tcp>;

/// A TCP connection, as [`tokio::net::TcpStream`].
pub type TcpStream = Stream<Tcp>;

/// The reading half of a [`TcpStream`], borrowed.
pub type ReadHalf<'a> = super::split::ReadHalf<'a, Tcp>;

/// The reading half of a [`TcpStream`].
pub type OwnedReadHalf = super::split::OwnedReadHalf<Tcp>;

/// The writing half of a [`TcpStream`].
pub type OwnedWriteHalf = super::split::OwnedWriteHalf<Tcp>;

/// When two halves are not of one [`TcpStream`].
pub type ReuniteError = super::split::ReuniteError<Tcp>;

impl Listener<Tcp> {
    /// Listens at an address: what tokio takes, and every [`ListenAddress`](crate::address::ListenAddress) as text.
    ///
    /// In a worker the master binds, and all workers that ask for one address get the same listener. Without a master it
    /// is a plain bind. Cancelling leaves nothing behind. The addresses of a host name are tried in turn.
    ///
    /// # Errors
    ///
    /// Those of a plain bind, as the master met them; `InvalidInput` for what is no address of a TCP listener.
    pub async fn bind(address: impl ToListenAddress) -> io::Result<Self> {
        Self::bind_address(&address.to_listen_address()?).await
    }

    /// The address that it is bound to, with the real port.
    ///
    /// # Errors
    ///
    /// None in a worker; without a master, as tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local()
    }
}

/// As tokio's.
impl Stream<Tcp> {
    /// As tokio's.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread().peek(buf) {
            Some(count) => Ok(count),
            None => self.tokio()?.peek(buf).await,
        }
    }

    /// As tokio's.
    pub fn poll_peek(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        match self.unread().peek_some(buf) {
            Some(count) => Poll::Ready(Ok(count)),
            None => self.tokio()?.poll_peek(cx, buf),
        }
    }

    /// As tokio's.
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket(|socket| socket.tcp_nodelay())
    }

    /// As tokio's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// As tokio's.
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket(|socket| socket.ttl_v4())
    }

    /// As tokio's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket(|socket| socket.set_ttl_v4(ttl))
    }

    /// As tokio's.
    pub fn quickack(&self) -> io::Result<bool> {
        self.socket(|socket| socket.tcp_quickack())
    }

    /// As tokio's.
    pub fn set_quickack(&self, quickack: bool) -> io::Result<()> {
        self.socket(|socket| socket.set_tcp_quickack(quickack))
    }

    /// As tokio's.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        self.socket(|socket| socket.linger())
    }

    /// As tokio's.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.socket(|socket| socket.set_linger(linger))
    }

    /// What needs no runtime.
    fn socket<R>(&self, act: impl FnOnce(SockRef<'_>) -> io::Result<R>) -> io::Result<R> {
        self.io().with_fd(|fd| act(SockRef::from(&fd)))
    }
}
