//! The master's copies of the connections that it accepted, until a worker has taken them for good.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use everport_handoff::id::ListenerId;
use everport_handoff::name::SocketName;
use rustix::net::Shutdown;

use crate::machine::ConnectionId;

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// The master's copy; a worker that was offered the connection may have another.
    pub(crate) socket: OwnedFd,
    pub(crate) peer: SocketName,
    pub(crate) listener: ListenerId,
}

/// All connections of which the master has a copy.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    held: HashMap<ConnectionId, Connection>,
    last: u64,
}

impl Connections {
    /// Keeps a connection that was just accepted.
    pub(crate) fn keep(&mut self, connection: Connection) -> ConnectionId {
        self.last += 1;
        let id = ConnectionId(self.last);
        self.held.insert(id, connection);
        id
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        self.held.get(&id)
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
