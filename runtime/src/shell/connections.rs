//! The master's copies of the connections that it accepted, or that workers handed over, until a worker has taken them for good.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use everport_handoff::id::ListenerId;
use everport_handoff::message::Parcel;
use everport_handoff::name::SocketName;
use rustix::net::Shutdown;

use crate::machine::ConnectionId;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The master's copy; a worker that was offered the connection may have another.
    pub(crate) socket: OwnedFd,
    pub(crate) peer: SocketName,
    pub(crate) listener: ListenerId,
    /// What its last owner gave with it.
    pub(crate) parcel: Parcel,
    /// The memfd of the parcel, if it is in one. Nobody here looks into it.
    pub(crate) memfd: Option<OwnedFd>,
}

impl Connection {
    /// One that was just accepted.
    pub(crate) fn new(socket: OwnedFd, peer: SocketName, listener: ListenerId) -> Self {
        Self { socket, peer, listener, parcel: Parcel::Nothing, memfd: None }
    }
}

impl Connection {
    /// What stands for the client: the same for all its connections, and as good as never that of another. An IPv4 address
    /// counts the same in whichever form it comes. Nothing for a client without an address.
    pub(crate) fn key(&self) -> Option<u64> {
        let SocketName::Inet(address) = &self.peer else { return None };
        Some(match address.ip().to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => {
                // The halves alone are often the same: the network of many clients, or the ::1 of many networks.
                let [high, low] = [ip.to_bits() >> 64, ip.to_bits()].map(|half| half as u64);
                high.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) ^ low
            }
        })
    }
}

/// All connections of which the master has a copy.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: BTreeMap<ConnectionId, Connection>,
    last: u64,
}

impl Connections {
    /// Keeps a connection.
    pub(crate) fn keep(&mut self, connection: Connection) -> ConnectionId {
        self.last += 1;
        let id = ConnectionId(self.last);
        self.held.insert(id, connection);
        id
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.held.get(&id)
    }

    /// Puts a parcel to a connection whose owner gives it away.
    pub(crate) fn load(&mut self, id: ConnectionId, parcel: Parcel, memfd: Option<OwnedFd>) {
        if let Some(held) = self.held.get_mut(&id) {
            (held.parcel, held.memfd) = (parcel, memfd);
        }
    }

    /// Gives the master's copy away.
    pub(crate) fn take(&mut self, id: ConnectionId) -> Option<Connection> {
        self.held.remove(&id)
    }

    /// Closes the master's copy, plainly: the owner has its own.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        self.held.remove(&id);
    }

    /// Ends the connection for the client, whoever holds another copy.
    pub(crate) fn shut_down(&mut self, id: ConnectionId) {
        if let Some(connection) = self.held.remove(&id) {
            // It fails only when the client has gone already.
            let _ = rustix::net::shutdown(&connection.socket, Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use everport_handoff::message::Parcel;

    use super::*;

    fn key(peer: SocketName) -> Option<u64> {
        let socket = everport_handoff::board::bell().unwrap();
        Connection { socket, peer, listener: ListenerId(1), parcel: Parcel::Nothing, memfd: None }.key()
    }

    fn key_of(text: &str) -> Option<u64> {
        key(SocketName::Inet(text.parse::<SocketAddr>().unwrap()))
    }

    #[test]
    fn a_client_has_one_key_from_every_port_and_in_every_form_of_its_address() {
        assert_eq!(key_of("10.0.0.1:1"), key_of("10.0.0.1:2"));
        assert_eq!(key_of("10.0.0.1:1"), key_of("[::ffff:10.0.0.1]:1"));
        assert_eq!(key_of("[2001:db8::1]:1"), key_of("[2001:db8::1]:2"));
        let clients =
            ["10.0.0.1:1", "10.0.0.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:1::1]:1", "[::1]:1"];
        let keys: std::collections::BTreeSet<_> = clients.iter().map(|client| key_of(client).unwrap()).collect();
        assert_eq!(keys.len(), clients.len());
    }

    #[test]
    fn a_client_without_an_address_has_no_key() {
        assert_eq!(key(SocketName::Unnamed), None);
        assert_eq!(key(SocketName::Path("/tmp/client".into())), None);
    }
}
