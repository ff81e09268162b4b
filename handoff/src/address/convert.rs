//! What a `bind` takes besides text.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{ListenAddress, parse};

/// What names a listener: everything that a `bind` of tokio takes, and every [`ListenAddress`] as text.
///
/// Lists of addresses, which tokio tries in turn, are left out: a listener has one address.
pub trait ToListenAddress {
    /// The address, with its host name not yet resolved.
    ///
    /// # Errors
    ///
    /// `InvalidInput` with an [`AddressError`](super::AddressError) inside.
    fn to_listen_address(&self) -> io::Result<ListenAddress>;
}

impl<T: ToListenAddress + ?Sized> ToListenAddress for &T {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        (**self).to_listen_address()
    }
}

impl ToListenAddress for ListenAddress {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        Ok(self.clone())
    }
}

impl ToListenAddress for str {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        Ok(self.parse()?)
    }
}

impl ToListenAddress for String {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        self.as_str().to_listen_address()
    }
}

impl ToListenAddress for (&str, u16) {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        Ok(parse::host_and_port(self.0, self.1)?)
    }
}

impl ToListenAddress for (String, u16) {
    fn to_listen_address(&self) -> io::Result<ListenAddress> {
        (self.0.as_str(), self.1).to_listen_address()
    }
}

/// What turns into a `SocketAddr` by `From`.
macro_rules! socket_address {
    ($($type:ty),*) => {$(
        impl ToListenAddress for $type {
            fn to_listen_address(&self) -> io::Result<ListenAddress> {
                Ok(ListenAddress::tcp(SocketAddr::from(*self)))
            }
        }
    )*};
}

socket_address!(SocketAddr, SocketAddrV4, SocketAddrV6, (IpAddr, u16), (Ipv4Addr, u16), (Ipv6Addr, u16));
