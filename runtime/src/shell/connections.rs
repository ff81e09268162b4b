//! The master's copies of the connections that it accepted, or that workers handed over, until a worker has taken them for good.

use std::collections::HashMap;
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

/// All connections of which the master has a copy.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: HashMap<ConnectionId, Connection>,
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
