//! The address at one end of a socket, as it travels in messages: pure data, printed as operators write it.

use std::fmt;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixSocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use socket2::SockAddr;

use crate::address::Escaped;

/// The local or peer address of a socket.
///
/// Peer addresses travel with the connection, for `getpeername` fails once the client has gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketName {
    /// An IP address and port.
    Inet(#[serde(with = "inet")] SocketAddr),
    /// A unix socket bound to a path.
    Path(#[serde(with = "path_bytes")] PathBuf),
    /// A unix socket in the abstract namespace, without the leading zero byte.
    Abstract(Vec<u8>),
    /// A unix socket that is not bound to anything, as most clients are.
    Unnamed,
}

impl SocketName {
    /// The IP address and port, unless this is a unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Path(_) | Self::Abstract(_) | Self::Unnamed => None,
        }
    }

    /// The path, if this is a unix socket bound to one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Path(path) => Some(path),
            Self::Inet(_) | Self::Abstract(_) | Self::Unnamed => None,
        }
    }

    /// The address as the standard library has it, if this is a unix socket.
    ///
    /// A path too long for the system's structure, which only a `bind` through a directory can have, is unnamed there.
    pub fn unix(&self) -> Option<UnixSocketAddr> {
        let address = match self {
            Self::Inet(_) => return None,
            Self::Path(path) => UnixSocketAddr::from_pathname(path),
            Self::Abstract(name) => UnixSocketAddr::from_abstract_name(name),
            Self::Unnamed => UnixSocketAddr::from_pathname(""),
        };
        address.or_else(|_| UnixSocketAddr::from_pathname("")).ok()
    }
}

impl From<SocketAddr> for SocketName {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl From<&UnixSocketAddr> for SocketName {
    fn from(address: &UnixSocketAddr) -> Self {
        match (address.as_pathname(), address.as_abstract_name()) {
            (Some(path), _) => Self::Path(path.to_owned()),
            (None, Some(name)) => Self::Abstract(name.to_owned()),
            (None, None) => Self::Unnamed,
        }
    }
}

impl From<&SockAddr> for SocketName {
    /// A family that is neither IP nor unix, which no socket of this crate has, counts as unnamed.
    fn from(address: &SockAddr) -> Self {
        if let Some(inet) = address.as_socket() {
            return Self::Inet(inet);
        }
        if !address.is_unix() || address.is_unnamed() {
            return Self::Unnamed;
        }
        match (address.as_pathname(), address.as_abstract_namespace()) {
            (Some(path), _) => Self::Path(path.to_owned()),
            (None, Some(name)) => Self::Abstract(name.to_owned()),
            (None, None) => Self::Unnamed,
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Path(path) => write!(f, "unix:{}", Escaped::path(path)),
            Self::Abstract(name) => write!(f, "unix:@{}", Escaped::bytes(name)),
            Self::Unnamed => f.write_str("unix:"),
        }
    }
}

/// An IP address and port, whole: serde's own form leaves out the scope, without which a link-local client has no name.
mod inet {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum Inet {
        V4(Ipv4Addr, u16),
        /// With flow label and scope.
        V6(Ipv6Addr, u16, u32, u32),
    }

    pub(super) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        match address {
            SocketAddr::V4(v4) => Inet::V4(*v4.ip(), v4.port()),
            SocketAddr::V6(v6) => Inet::V6(*v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id()),
        }
        .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        Ok(match Inet::deserialize(deserializer)? {
            Inet::V4(ip, port) => (ip, port).into(),
            Inet::V6(ip, port, flow, scope) => SocketAddrV6::new(ip, port, flow, scope).into(),
        })
    }
}

/// A path as its bytes: it need not be UTF-8, and any local client picks its own.
mod path_bytes {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = SocketName> {
        prop_oneof![
            any::<SocketAddr>().prop_map(SocketName::Inet),
            any::<Vec<u8>>().prop_map(|path| SocketName::Path(OsString::from_vec(path).into())),
            any::<Vec<u8>>().prop_map(SocketName::Abstract),
            Just(SocketName::Unnamed),
        ]
    }

    proptest! {
        #[test]
        fn every_name_can_be_sent(name in names()) {
            let bytes = postcard::to_stdvec(&name).unwrap();
            prop_assert_eq!(postcard::from_bytes::<SocketName>(&bytes).unwrap(), name);
        }
    }

    #[test]
    fn a_client_s_path_travels_as_its_bytes() {
        let path = SocketName::Path(OsString::from_vec(b"/cl\xff".to_vec()).into());
        assert_eq!(postcard::to_stdvec(&path).unwrap(), [1, 4, b'/', b'c', b'l', 0xff]);
    }

    #[test]
    fn the_system_s_addresses_become_names_and_back() {
        let inet: SocketAddr = "[::1]:80".parse().unwrap();
        assert_eq!(SocketName::from(&SockAddr::from(inet)), SocketName::from(inet));
        assert_eq!(SocketName::from(inet).unix().map(|_| ()), None);

        for (written, name) in [
            ("/run/app.sock", SocketName::Path("/run/app.sock".into())),
            ("\0app", SocketName::Abstract(b"app".to_vec())),
            ("", SocketName::Unnamed),
        ] {
            assert_eq!(SocketName::from(&SockAddr::unix(written).unwrap()), name);
            assert_eq!(SocketName::from(&name.unix().unwrap()), name);
            assert_eq!(name.inet(), None);
        }
    }

    #[test]
    fn a_name_prints_as_the_address_is_written() {
        assert_eq!(SocketName::Path("/run/what?".into()).to_string(), "unix:/run/what%3F");
        assert_eq!(SocketName::Abstract(vec![b'a', 0xff]).to_string(), "unix:@a%FF");
        assert_eq!(SocketName::Unnamed.to_string(), "unix:");
    }
}
