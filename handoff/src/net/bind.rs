//! What `bind` comes to, for every kind of socket: the master's listener in a worker, else a socket of this process.

use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::address::{Kind, ListenAddress};
use crate::name::SocketName;
use crate::socket::{self, InheritedSockets, UnixFile};
use crate::worker::Worker;
use crate::worker::copy::Shared;
use crate::worker::link::Link;
use crate::worker::port::{Inbox, Port};

/// Where a socket's connections, or datagrams, come from.
pub(super) enum Source {
    /// This process has bound it, for there is no master.
    Plain {
        socket: OwnedFd,
        /// The file of a unix socket, unlinked on drop.
        file: Option<UnixFile>,
        local: SocketName,
    },
    /// The master has it, and shares it by the copy, or not.
    Handed(Port),
}

/// Binds. What the master shares arrives in `copy`.
pub(super) async fn bind(address: &ListenAddress, kind: Kind, copy: Arc<dyn Shared>) -> io::Result<Source> {
    if address.kind().is_some_and(|named| named != kind) {
        return Err(other_kind(address, kind));
    }
    let worker = Worker::current()?;
    bind_as(worker.link(), address, kind, copy).await
}

/// As [`bind`], by this link.
pub(super) async fn bind_as(
    link: Option<&Arc<Link>>,
    address: &ListenAddress,
    kind: Kind,
    copy: Arc<dyn Shared>,
) -> io::Result<Source> {
    let mut failure = None;
    for resolved in resolve(address).await? {
        let bound = match link {
            Some(link) => ask(link, &resolved, Arc::clone(&copy)).await.map(Source::Handed),
            None => plain(&resolved, kind),
        };
        match bound {
            Ok(source) => return Ok(source),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{address}: its host name has no address"))
    }))
}

/// Resolves a host name off the runtime, as tokio does.
async fn resolve(address: &ListenAddress) -> io::Result<Vec<ListenAddress>> {
    let Some(host_port) = address.host_port() else {
        return Ok(socket::resolve(address)?);
    };
    let mut addresses = Vec::new();
    for ip in tokio::net::lookup_host(host_port).await? {
        let resolved = address.with_ip(ip);
        if !addresses.contains(&resolved) {
            addresses.push(resolved);
        }
    }
    Ok(addresses)
}

async fn ask(link: &Arc<Link>, address: &ListenAddress, copy: Arc<dyn Shared>) -> io::Result<Port> {
    link.drive()?;
    match link.ask(address, Inbox::new(copy))?.await {
        Ok(answer) => {
            link.bound();
            answer
        }
        // No answer will come: the master is lost and the process about to end, by its own code.
        Err(_) => pending().await,
    }
}

fn plain(address: &ListenAddress, kind: Kind) -> io::Result<Source> {
    let bound = socket::bind(address, InheritedSockets::from_env()?)?;
    if bound.kind() != kind {
        return Err(other_kind(address, kind));
    }
    let local = bound.local().clone();
    let (socket, file) = bound.into_parts();
    Ok(Source::Plain { socket, file, local })
}

pub(super) fn other_kind(address: &ListenAddress, kind: Kind) -> io::Error {
    let wanted = match kind {
        Kind::Tcp => "a TCP listener",
        Kind::Unix => "a unix listener",
        Kind::Udp => "a UDP socket",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("bind {address}: it is not {wanted}"))
}
