//! The address at one end of a socket, as it travels in messages: pure data, printed as operators write it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The local or peer address of a socket.
///
/// Peer addresses travel with the connection, for `getpeername` fails once the client has gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketName {
    /// An IP address and port.
    Inet(SocketAddr),
    /// A unix socket bound to a path.
    Path(PathBuf),
    /// A unix socket in the abstract namespace, without the leading zero byte.
    Abstract(Vec<u8>),
    /// A unix socket that is not bound to anything, as most clients are.
    Unnamed,
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Path(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", name.escape_ascii()),
            Self::Unnamed => f.write_str("unix:"),
        }
    }
}
