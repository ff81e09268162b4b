//! One listener whose connections the master offers: who waits, and whose turn it is.

use std::collections::VecDeque;

use everport_handoff::id::WorkerId;

use super::super::ConnectionId;

/// Invariant: `queue` is sorted by age, and so the returned connections of a lane come before those never offered.
#[derive(Debug)]
pub(super) struct Lane {
    /// The connections that wait for a worker.
    pub(super) queue: VecDeque<ConnectionId>,
    /// How many connections of this listener are held back.
    pub(super) held: usize,
    /// The workers whose turn comes, in turn. Those that cannot take anything leave when their turn comes.
    pub(super) rotation: VecDeque<WorkerId>,
    /// How many active workers use the listener.
    pub(super) users: usize,
    pub(super) gate: Gate,
}

/// What the shell was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Accepting,
    Stopped,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { queue: VecDeque::new(), held: 0, rotation: VecDeque::new(), users: 0, gate: Gate::Stopped }
    }

    /// Puts a connection where its age belongs: cheap at both ends.
    pub(super) fn enqueue(&mut self, connection: ConnectionId) {
        let place = self.queue.partition_point(|other| *other < connection);
        self.queue.insert(place, connection);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.held
    }
}
