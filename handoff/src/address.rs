//! Listener addresses: what an operator or a program writes to name a socket, how it is printed, and its key.
//!
//! | written | names |
//! |---|---|
//! | `127.0.0.1:8000`, `[::]:8000`, `localhost:0` | a TCP listener; a missing port is port 0 |
//! | `tcp:HOST:PORT` | the same; needed only for a host that is called `unix`, `udp`, `fd`, `systemd` or `tcp` |
//! | `udp:0.0.0.0:53` | a UDP socket |
//! | `unix:/run/app.sock`, `unix:@name` | a unix listener at a path, or in the abstract namespace |
//! | `fd:3` | descriptor 3, which the process inherited |
//! | `systemd:NAME`, `systemd:NAME:1` | the first, the second socket that systemd passed under this name |
//!
//! After `?`, joined with `&`: `backlog=N`, `reuseport` (TCP, UDP), `v6only` (IPv6), `mode=0660` (unix path),
//! `policy=P` (all but UDP), `name=NAME` (all). In paths and abstract names `%XX` stands for any byte, and `?`, `&` and `%` must be written so.
//!
//! Invariants: what a `ListenAddress` prints parses to an equal one, whichever way it was made; an option that a kind
//! of address cannot have is never in it. Nothing here asks the system: host names and relative paths stay as they are
//! until [`crate::socket::resolve`].

mod convert;
mod escape;
mod options;
mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

pub use convert::ToListenAddress;
pub(crate) use escape::Escaped;
use options::Options;

use crate::policy::Policy;

/// The longest address, as it is written and as it is printed: room for the longest path that Linux takes.
pub const MAX_ADDRESS: usize = 4096;
/// The longest name of a listener or of a socket from systemd, which has the same limit.
pub const MAX_NAME: usize = 255;
/// The longest name in the abstract namespace: `sun_path` without its leading zero byte.
pub const MAX_ABSTRACT_NAME: usize = 107;
/// The longest backlog that `listen` can be asked for.
pub const MAX_BACKLOG: u32 = i32::MAX as u32;

/// The address of a listener, with its options.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    target: Target,
    options: Options,
}

/// What kind of socket an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A TCP listener.
    Tcp,
    /// A unix stream listener.
    Unix,
    /// A UDP socket.
    Udp,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Tcp(Endpoint),
    Udp(Endpoint),
    /// Not empty, free of zero bytes and of `.` components, and with a file name.
    Path(PathBuf),
    /// Not empty, without the leading zero byte.
    Abstract(Vec<u8>),
    Descriptor(i32),
    Systemd {
        name: String,
        index: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Endpoint {
    Ip(SocketAddr),
    /// In lower case, and no IP address.
    Host {
        host: String,
        port: u16,
    },
}

/// Why a text is no listener address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("address {address:?}: {part}: found {found}, wanted {wanted}")]
#[non_exhaustive]
pub struct AddressError {
    /// The address as it was written, shortened if it is too long.
    pub address: String,
    /// The part that is wrong.
    pub part: Part,
    /// What stands there.
    pub found: String,
    /// What can stand there.
    pub wanted: Cow<'static, str>,
}

/// A part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The length of the whole.
    Length,
    /// Which kind of socket it leads to.
    Kind,
    /// What stands before the port.
    Host,
    /// What stands after the host.
    Port,
    /// The path of a unix socket.
    Path,
    /// A name in the abstract namespace.
    AbstractName,
    /// The number of an inherited descriptor.
    Descriptor,
    /// The name or the index of a socket from systemd.
    Systemd,
    /// An option's name.
    Option,
    /// The value of this option.
    Value(&'static str),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "length",
            Self::Kind => "kind",
            Self::Host => "host",
            Self::Port => "port",
            Self::Path => "path",
            Self::AbstractName => "abstract name",
            Self::Descriptor => "descriptor",
            Self::Systemd => "systemd socket",
            Self::Option => "option",
            Self::Value(option) => return write!(f, "option {option}"),
        })
    }
}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

impl ListenAddress {
    /// The TCP listener at this IP address and port.
    pub fn tcp(address: SocketAddr) -> Self {
        Self::plain(Target::Tcp(Endpoint::ip(address)))
    }

    /// The UDP socket at this IP address and port.
    pub fn udp(address: SocketAddr) -> Self {
        Self::plain(Target::Udp(Endpoint::ip(address)))
    }

    /// The unix listener at this path; a path that starts with a zero byte names the abstract namespace, as everywhere
    /// on Linux.
    ///
    /// # Errors
    ///
    /// The path names no file, has a zero byte within, or is too long.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, AddressError> {
        parse::unix(path.as_ref(), Options::default())
    }

    fn plain(target: Target) -> Self {
        Self { target, options: Options::default() }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What kind of socket this is; `None` for an inherited one, which says so itself once it is there.
    pub fn kind(&self) -> Option<Kind> {
        match self.target {
            Target::Tcp(_) => Some(Kind::Tcp),
            Target::Udp(_) => Some(Kind::Udp),
            Target::Path(_) | Target::Abstract(_) => Some(Kind::Unix),
            Target::Descriptor(_) | Target::Systemd { .. } => None,
        }
    }

    /// The longest queue of connections that nobody accepted yet, if the address says so.
    pub fn backlog(&self) -> Option<NonZeroU32> {
        self.options.backlog
    }

    /// Whether an IPv6 listener leaves the same port of IPv4 to others.
    pub fn v6only(&self) -> bool {
        self.options.v6only
    }

    /// The permissions of a unix socket's file, if the address says so.
    pub fn mode(&self) -> Option<u32> {
        self.options.mode
    }

    /// Whether other sockets with this option may bind the same address.
    pub fn reuseport(&self) -> bool {
        self.options.reuseport
    }

    /// How the listener's connections are spread, if the address says so. UDP is always shared.
    pub fn policy(&self) -> Option<Policy> {
        self.options.policy
    }

    /// The configured name of the listener.
    pub fn name(&self) -> Option<&str> {
        self.options.name.as_deref()
    }

    /// The IP address and port, where they are known.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.endpoint()? {
            Endpoint::Ip(address) => Some(*address),
            Endpoint::Host { .. } => None,
        }
    }

    /// The host name and port, where the name has yet to be resolved.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        match self.endpoint()? {
            Endpoint::Ip(_) => None,
            Endpoint::Host { host, port } => Some((host, *port)),
        }
    }

    /// The path of a unix socket's file.
    pub fn path(&self) -> Option<&Path> {
        match &self.target {
            Target::Path(path) => Some(path),
            _ => None,
        }
    }

    /// The same listener with its host name resolved. An address without a host name stays as it is.
    #[must_use]
    pub fn with_ip(&self, resolved: SocketAddr) -> Self {
        let mut address = self.clone();
        if let Target::Tcp(endpoint @ Endpoint::Host { .. }) | Target::Udp(endpoint @ Endpoint::Host { .. }) =
            &mut address.target
        {
            *endpoint = Endpoint::ip(resolved);
        }
        address
    }

    /// The same unix listener at another path.
    pub(crate) fn with_path(&self, path: &Path) -> Result<Self, AddressError> {
        parse::unix(path, self.options.clone())
    }

    /// The same endpoint as a UDP socket: for a `bind` that can mean nothing else. Inherited sockets stay as they are.
    ///
    /// # Errors
    ///
    /// It is a unix address, or it has a backlog or a policy.
    pub fn into_udp(self) -> Result<Self, AddressError> {
        parse::into_udp(self)
    }

    /// Whether the system picks the port, so that the address alone does not tell one listener from another.
    pub fn is_ephemeral(&self) -> bool {
        match self.endpoint() {
            Some(Endpoint::Ip(address)) => address.port() == 0,
            Some(Endpoint::Host { port, .. }) => *port == 0,
            None => false,
        }
    }

    /// The name by which the master knows this listener: the configured name, else the address without its options.
    ///
    /// `index` tells apart the listeners of one [ephemeral](Self::is_ephemeral) address and counts for nothing else: the
    /// n-th `bind(":0")` of every worker is the same listener. Resolve the address first, or `localhost:80` and
    /// `127.0.0.1:80` are two. A configured name never looks like an address, for it has no colon.
    pub fn key(&self, index: u32) -> String {
        match &self.options.name {
            Some(name) => name.clone(),
            None if self.is_ephemeral() => format!("{}#{index}", self.target),
            None => self.target.to_string(),
        }
    }

    fn endpoint(&self) -> Option<&Endpoint> {
        match &self.target {
            Target::Tcp(endpoint) | Target::Udp(endpoint) => Some(endpoint),
            _ => None,
        }
    }
}

impl Endpoint {
    /// Without the flow label of IPv6, which means nothing to a listener and is not printed.
    fn ip(address: SocketAddr) -> Self {
        Self::Ip(match address {
            SocketAddr::V4(_) => address,
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        })
    }

    fn is_v6(&self) -> bool {
        matches!(self, Self::Ip(address) if matches!(address.ip(), IpAddr::V6(_)))
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target, self.options)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(endpoint @ Endpoint::Host { host, .. }) if parse::is_prefix(host) => {
                write!(f, "tcp:{endpoint}")
            }
            Self::Tcp(endpoint) => endpoint.fmt(f),
            Self::Udp(endpoint) => write!(f, "udp:{endpoint}"),
            Self::Path(path) => write!(f, "unix:{}", Escaped::path(path)),
            Self::Abstract(name) => write!(f, "unix:@{}", Escaped::bytes(name)),
            Self::Descriptor(number) => write!(f, "fd:{number}"),
            Self::Systemd { name, index: 0 } => write!(f, "systemd:{name}"),
            Self::Systemd { name, index } => write!(f, "systemd:{name}:{index}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}
