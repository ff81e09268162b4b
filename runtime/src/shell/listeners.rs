//! The listeners: binding them, finding one again by its key, accepting from it.
//!
//! Invariant: a listener is one kernel socket from the day it is bound until the machine closes it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use everport_handoff::address::ListenAddress;
use everport_handoff::id::ListenerId;
use everport_handoff::name::SocketName;
use everport_handoff::socket::{self, BindError, Bound, InheritedSockets, Kind};
use rustix::io::Errno;

use super::connections::Connection;
use crate::config::Policy;
use crate::machine::Spread;

/// The last descriptors are not for connections: the control socket and the log need some too. Of a small limit they are a
/// quarter.
const RESERVE: u64 = 32;

/// So many more are for each worker of the next generation: its channel, process, bell and output, with one to spare.
const RESERVE_PER_WORKER: u64 = 6;

/// One listener.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) key: String,
    pub(crate) bound: Bound,
    pub(crate) spread: Spread,
    /// What the settings say of how its connections are spread.
    pub(crate) policy: Policy,
    /// How many connections the master has accepted from it.
    pub(crate) accepted: u64,
    /// How many of them it has closed because no worker might have them.
    pub(crate) shed: u64,
    /// When that was last said.
    pub(crate) shedding_said: Option<Instant>,
    pub(crate) accepting: bool,
}

/// What accepting came to.
#[derive(Debug)]
pub(crate) enum Accept {
    /// A client.
    Connection(Connection),
    /// A client that takes one of the last descriptors: accept no more for now.
    Last(Connection),
    /// Nobody waits.
    Empty,
    /// The system has no descriptor or memory for a connection.
    Exhausted(io::Error),
}

/// All listeners of the master.
#[derive(Debug)]
pub(crate) struct Listeners {
    held: BTreeMap<ListenerId, Listener>,
    last: u32,
    inherited: &'static InheritedSockets,
    /// How many descriptors this process may have.
    limit: u64,
    /// Connections above this descriptor number eat into the reserve.
    ceiling: u64,
    /// The last connection was above it.
    is_short: bool,
}

impl Listeners {
    pub(crate) fn new(inherited: &'static InheritedSockets) -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let ceiling = ceiling(limit, 0);
        Self { held: BTreeMap::new(), last: 0, inherited, limit, ceiling, is_short: false }
    }

    /// Keeps enough descriptors for another generation of so many workers.
    pub(crate) fn reserve_for(&mut self, workers: u32) {
        self.ceiling = ceiling(self.limit, workers);
    }

    /// The listener that this address means, if the master holds it: by its key, or by the address that it is bound to.
    /// `index` counts the port 0 binds of one worker.
    pub(crate) fn find(&self, address: &ListenAddress, index: u32) -> Option<ListenerId> {
        let key = address.key(index);
        let local = address.socket_addr().filter(|ip| ip.port() != 0).map(SocketName::Inet);
        let means = |listener: &Listener| {
            let is_bound_there = local.as_ref() == Some(listener.bound.local());
            listener.key == key || is_bound_there && address.kind() == Some(listener.bound.kind())
        };
        self.held.iter().find(|(_, listener)| means(listener)).map(|(id, _)| *id)
    }

    /// Binds a new listener; `default` is its policy unless its address says another.
    pub(crate) fn bind(
        &mut self,
        address: &ListenAddress,
        index: u32,
        default: Policy,
    ) -> Result<ListenerId, BindError> {
        let wanted = address.policy().unwrap_or(default);
        let bound = match wanted {
            Policy::Split if address.kind() != Some(Kind::Udp) => socket::bind_group(address)?,
            _ => socket::bind(address, self.inherited)?,
        };
        let policy = if bound.kind() == Kind::Udp { Policy::None } else { wanted };
        let spread = match policy {
            Policy::Split => Spread::Split,
            policy if policy.is_offered() => Spread::Offered,
            _ => Spread::Shared,
        };
        self.last += 1;
        let id = ListenerId(self.last);
        let key = bound.address().key(index);
        self.held.insert(
            id,
            Listener { key, bound, spread, policy, accepted: 0, shed: 0, shedding_said: None, accepting: false },
        );
        Ok(id)
    }

    pub(crate) fn get(&self, id: ListenerId) -> Option<&Listener> {
        self.held.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.held.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ListenerId, &Listener)> {
        self.held.iter().map(|(id, listener)| (*id, listener))
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Closes a listener and unlinks its file, if it has one.
    pub(crate) fn close(&mut self, id: ListenerId) {
        self.held.remove(&id);
    }

    /// Whether a descriptor that came in eats into the reserve: then nothing is accepted for now.
    pub(crate) fn is_last(&mut self, socket: &OwnedFd) -> bool {
        self.is_short = self.is_short || number(socket) >= self.ceiling;
        self.is_short
    }

    /// Nothing is accepted until descriptors are free again.
    pub(crate) fn note_shortage(&mut self) {
        self.is_short = true;
    }

    /// Accepts one connection.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Accept {
        let Some(listener) = self.held.get_mut(&id) else { return Accept::Empty };
        // Else every new attempt would take one more of the reserve.
        if self.is_short {
            self.is_short = next_number(listener.as_fd()).is_none_or(|number| number >= self.ceiling);
        }
        if self.is_short {
            return Accept::Exhausted(io::Error::other("the last descriptors are kept for workers and control"));
        }
        loop {
            let error = match socket::accept(&*listener) {
                Ok((socket, peer)) => {
                    listener.accepted += 1;
                    self.is_short = number(&socket) >= self.ceiling;
                    let connection = Connection::new(socket, peer, id);
                    return if self.is_short { Accept::Last(connection) } else { Accept::Connection(connection) };
                }
                Err(error) => error,
            };
            match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => return Accept::Empty,
                // A client that left before it was accepted, or an error of its network: accept(2) says to go on.
                Some(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH
                    | Errno::PERM,
                ) => {}
                // For want of descriptors or memory; or for a reason unknown, and then a pause is right too.
                _ => return Accept::Exhausted(error),
            }
        }
    }
}

/// From which number on descriptors are not for connections.
fn ceiling(limit: u64, workers: u32) -> u64 {
    let reserve = RESERVE + u64::from(workers) * RESERVE_PER_WORKER;
    limit - reserve.min(limit / 4)
}

/// The number of a descriptor.
fn number(fd: &impl AsRawFd) -> u64 {
    u64::try_from(fd.as_raw_fd()).unwrap_or(u64::MAX)
}

/// The number that the next descriptor of this process gets, if it can get any.
fn next_number(any: BorrowedFd<'_>) -> Option<u64> {
    rustix::io::fcntl_dupfd_cloexec(any, 0).ok().map(|copy| number(&copy))
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bound.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_grows_with_the_workers_and_is_at_most_a_quarter() {
        assert_eq!(ceiling(1_048_576, 4), 1_048_576 - 32 - 24);
        assert_eq!(ceiling(1024, 4), 1024 - 56);
        assert_eq!(ceiling(1024, 1024), 768);
        assert_eq!(ceiling(64, 2), 48);
    }
}
