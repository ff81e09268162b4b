//! Unix stream sockets, as in [`tokio::net`].

use std::io;
use std::path::Path;

use tokio::net::unix::{SocketAddr, UCred};

use super::kind::Unix;
use super::listener::Listener;
use super::stream::Stream;
use crate::address::{ListenAddress, ToListenAddress};

/// A unix listener, as [`tokio::net::UnixListener`].
pub type UnixListener = Listener<Unix>;

/// A unix connection, as [`tokio::net::UnixStream`].
pub type UnixStream = Stream<Unix>;

/// The reading half of a [`UnixStream`], borrowed.
pub type ReadHalf<'a> = super::split::ReadHalf<'a, Unix>;

/// The reading half of a [`UnixStream`].
pub type OwnedReadHalf = super::split::OwnedReadHalf<Unix>;

/// The writing half of a [`UnixStream`].
pub type OwnedWriteHalf = super::split::OwnedWriteHalf<Unix>;

/// When two halves are not of one [`UnixStream`].
pub type ReuniteError = super::split::ReuniteError<Unix>;

impl Listener<Unix> {
    /// Listens at a path, as tokio does, but waits for the master's answer. A text that starts with `unix:`, `fd:` or
    /// `systemd:` is an address, with its options.
    ///
    /// In a worker the master binds, and all workers that ask for one path get the same listener. Only the master binds
    /// and unlinks the file. Without a master this process does. Cancelling leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Those of a plain bind, as the master met them; `InvalidInput` for what is no address of a unix listener.
    pub async fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        let address = match path.to_str() {
            Some(text) if ["unix:", "fd:", "systemd:"].iter().any(|kind| text.starts_with(kind)) => text.parse()?,
            _ => ListenAddress::unix(path)?,
        };
        Self::bind_address(&address).await
    }

    /// Listens at an address.
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind).
    pub async fn bind_addr(address: impl ToListenAddress) -> io::Result<Self> {
        Self::bind_address(&address.to_listen_address()?).await
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    ///
    /// None in a worker; without a master, as tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local()
    }
}

impl Stream<Unix> {
    /// As tokio's: who the client was when it connected.
    pub fn peer_cred(&self) -> io::Result<UCred> {
        self.tokio()?.peer_cred()
    }
}
