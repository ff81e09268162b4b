//! Listening sockets: bound or adopted, and set up, as their address says. Called in the master, and in a process
//! without a master.
//!
//! Invariants: every socket is close-on-exec and non-blocking from birth, before it is shared, for the latter is a
//! property of the open file that all its holders share. No socket has a receive timeout, which every accepted
//! connection would inherit. A failed bind leaves nothing behind.

mod error;
mod group;
mod inherited;
mod live;
mod shut_out;
#[cfg(test)]
mod tests;
mod unix;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::net::SocketFlags;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

pub use error::{BindCause, BindError};
pub use group::bind_group;
pub use inherited::{InheritedError, InheritedSockets};
pub use live::{NotLive, check_live};
pub use unix::UnixFile;

use self::group::Sole;
pub use crate::address::Kind;
use crate::address::{Endpoint, ListenAddress, Target};
use crate::name::SocketName;

/// The backlog of an address that says nothing: what the kernel's own cap, `net.core.somaxconn`, is since Linux 5.4.
///
/// It is long on purpose: when no worker is alive, this is where clients wait. The kernel cuts it to its cap.
pub const DEFAULT_BACKLOG: NonZeroU32 = NonZeroU32::new(4096).unwrap();

/// A socket that listens, or receives, at an address.
///
/// It may be a [group](bind_group) of several. Dropping it closes this process's copy, after it has unlinked the file of a
/// unix socket.
#[derive(Debug)]
pub struct Bound {
    address: ListenAddress,
    // Dropped before the socket, which keeps the file's inode from being used again.
    file: Option<UnixFile>,
    socket: OwnedFd,
    /// The others of a group, in the order in which they began to listen.
    others: Vec<OwnedFd>,
    kind: Kind,
    local: SocketName,
    backlog: Option<NonZeroU32>,
    mode: Option<u32>,
    /// Whether nobody new gets in.
    shut: bool,
}

/// Binds `address`, or adopts the inherited socket that it names.
///
/// A host name is resolved here, which blocks, and its addresses are tried in their order until one can be bound.
///
/// # Errors
///
/// [`BindError`] says what was refused for which address; as an [`io::Error`] it is that of a plain bind.
pub fn bind(address: &ListenAddress, inherited: &InheritedSockets) -> Result<Bound, BindError> {
    let bound = match address.target() {
        Target::Tcp(endpoint) => inet(endpoint, Kind::Tcp, address, Sole::Socket),
        Target::Udp(endpoint) => inet(endpoint, Kind::Udp, address, Sole::Socket),
        Target::Path(path) => unix_path(path, address),
        Target::Abstract(name) => abstract_name(name, address),
        Target::Descriptor(number) => adopt(*number, address, inherited),
        Target::Systemd { name, index } => inherited
            .number_of(name, *index)
            .map_err(BindCause::Inherited)
            .and_then(|number| adopt(number, address, inherited)),
    };
    bound.map_err(|cause| BindError::new(address, cause))
}

/// Accepts one connection from a non-blocking listener: the socket, non-blocking and close-on-exec from birth, and the
/// client's address. The caller owns the socket. Called in the master, and in a worker that shares the listener.
///
/// # Errors
///
/// Those of accept(2); `WouldBlock` when nobody waits.
pub fn accept(listener: impl AsFd) -> io::Result<(OwnedFd, SocketName)> {
    // Not by rustix 1.1, which panics on the longest path that a unix client can be bound to.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (socket, peer) = SockRef::from(&listener).accept4(flags.bits() as i32)?;
    Ok((socket.into(), SocketName::from(&peer)))
}

/// The same listener by addresses that mean the same everywhere: with the IP addresses of a host name, which blocks, and
/// with an absolute path. Never empty.
///
/// # Errors
///
/// The host name is not known, the working directory is gone, or the absolute path is too long.
pub fn resolve(address: &ListenAddress) -> Result<Vec<ListenAddress>, BindError> {
    let resolved = match address.target() {
        Target::Tcp(endpoint) | Target::Udp(endpoint) => {
            look_up(endpoint).map(|ips| ips.into_iter().map(|ip| address.with_ip(ip)).collect())
        }
        Target::Path(path) => absolute(path, address).map(|(_, address)| vec![address]),
        _ => Ok(vec![address.clone()]),
    };
    resolved.map_err(|cause| BindError::new(address, cause))
}

/// The working directory may change, and that of a worker may be another.
fn absolute(path: &Path, address: &ListenAddress) -> Result<(PathBuf, ListenAddress), BindCause> {
    let path = std::path::absolute(path).map_err(BindCause::step("make its path absolute"))?;
    let address = address.with_path(&path).map_err(BindCause::Address)?;
    Ok((path, address))
}

fn look_up(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, BindCause> {
    let (host, port) = match endpoint {
        Endpoint::Ip(address) => return Ok(vec![*address]),
        Endpoint::Host { host, port } => (host.as_str(), *port),
    };
    let mut addresses = Vec::new();
    let found = (host, port).to_socket_addrs().map_err(BindCause::step("resolve its host name"))?;
    for address in found {
        // The resolver repeats an address that it has from two sources.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(BindCause::NoAddress) } else { Ok(addresses) }
}

fn inet(endpoint: &Endpoint, kind: Kind, address: &ListenAddress, sole: Sole) -> Result<Bound, BindCause> {
    let mut failure = BindCause::NoAddress;
    for ip in look_up(endpoint)? {
        match inet_one(ip, kind, &address.with_ip(ip), sole) {
            Ok(bound) => return Ok(bound),
            Err(error) => failure = BindCause::System(error),
        }
    }
    Err(failure)
}

fn inet_one(ip: SocketAddr, kind: Kind, address: &ListenAddress, sole: Sole) -> io::Result<Bound> {
    let socket = match kind {
        Kind::Udp => new(Domain::for_address(ip), Type::DGRAM)?,
        Kind::Tcp | Kind::Unix => stream(Domain::for_address(ip))?,
    };
    if ip.is_ipv6() {
        // Both ways, for the system's default can be either.
        socket.set_only_v6(address.v6only())?;
    }
    if kind == Kind::Tcp {
        // Connections of a listener that has gone would hold the port for a minute.
        socket.set_reuse_address(true)?;
    }
    if address.reuseport() {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&ip.into())?;
    let local = SocketName::from(&socket.local_addr()?);
    if kind == Kind::Udp {
        return Ok(Bound::new(address, socket, kind, local));
    }
    if sole == Sole::Group {
        // Not before the bind, which proves that the port is free: with it the socket would join another's silently.
        socket.set_reuse_port(true)?;
    }
    listen(socket, kind, local, address)
}

fn unix_path(path: &Path, address: &ListenAddress) -> Result<Bound, BindCause> {
    let (path, address) = absolute(path, address)?;
    let (socket, file) = unix::bind(&path, address.mode())?;
    // The system's own answer would name a long path by the way that led there.
    let bound = listen(socket, Kind::Unix, SocketName::Path(path), &address)?;
    Ok(Bound { file: Some(file), mode: address.mode(), ..bound })
}

fn abstract_name(name: &[u8], address: &ListenAddress) -> Result<Bound, BindCause> {
    use std::os::unix::ffi::OsStrExt;
    let written = [b"\0", name].concat();
    let bind = || -> io::Result<Bound> {
        let socket = stream(Domain::UNIX)?;
        socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&written))?)?;
        listen(socket, Kind::Unix, SocketName::Abstract(name.to_owned()), address)
    };
    bind().map_err(BindCause::System)
}

fn adopt(number: i32, address: &ListenAddress, inherited: &InheritedSockets) -> Result<Bound, BindCause> {
    let (fd, kind) = inherited.take(number).map_err(BindCause::Inherited)?;
    let socket = Socket::from(fd);
    socket.set_nonblocking(true)?;
    socket.set_read_timeout(None)?;
    let local = SocketName::from(&socket.local_addr()?);
    Ok(Bound::new(address, socket, kind, local))
}

fn stream(domain: Domain) -> io::Result<Socket> {
    new(domain, Type::STREAM)
}

/// Close-on-exec and non-blocking from birth.
fn new(domain: Domain, kind: Type) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking(), None)
}

fn listen(socket: Socket, kind: Kind, local: SocketName, address: &ListenAddress) -> io::Result<Bound> {
    let backlog = address.backlog().unwrap_or(DEFAULT_BACKLOG);
    // An address has no backlog above `i32::MAX`.
    socket.listen(i32::try_from(backlog.get()).unwrap_or(i32::MAX))?;
    Ok(Bound { backlog: Some(backlog), ..Bound::new(address, socket, kind, local) })
}

impl Bound {
    fn new(address: &ListenAddress, socket: Socket, kind: Kind, local: SocketName) -> Self {
        let address = address.clone();
        let socket = socket.into();
        let others = Vec::new();
        Self { address, file: None, socket, others, kind, local, backlog: None, mode: None, shut: false }
    }

    /// The address that was asked for, as [`resolve`] has it: with the IP address of the host name, and an absolute path.
    /// Its port is 0 if 0 was asked for. It gives the listener its [key](ListenAddress::key).
    pub fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// What kind of socket it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The address that it is bound to, with the real port.
    pub fn local(&self) -> &SocketName {
        &self.local
    }

    /// The backlog that the kernel was asked for; `None` for UDP, and for an inherited socket, which has that of its maker.
    pub fn backlog(&self) -> Option<NonZeroU32> {
        self.backlog
    }

    /// Gives the socket the backlog, and its file the mode, of this address: the same listener, with options that may have
    /// changed. Without a mode the file keeps the one that it has; so does an inherited socket its backlog. Returns whether
    /// anything changed.
    ///
    /// # Errors
    ///
    /// Those of listen(2) and chmod(2).
    pub fn retune(&mut self, address: &ListenAddress) -> io::Result<bool> {
        let mut changed = false;
        let backlog = address.backlog().unwrap_or(DEFAULT_BACKLOG);
        if self.backlog.is_some_and(|before| before != backlog) {
            for socket in self.sockets() {
                rustix::net::listen(socket, i32::try_from(backlog.get()).unwrap_or(i32::MAX))?;
            }
            self.backlog = Some(backlog);
            changed = true;
        }
        if let (Some(file), Some(mode)) = (&self.file, address.mode())
            && self.mode != Some(mode)
        {
            file.set_mode(mode)?;
            self.mode = Some(mode);
            changed = true;
        }
        Ok(changed)
    }

    /// The options of this address, the same listener, that only a new socket could have.
    pub fn fixed_options(&self, address: &ListenAddress) -> Vec<&'static str> {
        let differs = [
            ("v6only", self.address.v6only() != address.v6only()),
            ("reuseport", self.address.reuseport() != address.reuseport()),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// The first socket, whose owner is then the caller, and its file, which must be dropped first.
    pub fn into_parts(self) -> (OwnedFd, Option<UnixFile>) {
        (self.socket, self.file)
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
