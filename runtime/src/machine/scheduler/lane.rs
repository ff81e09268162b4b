//! One listener: who waits for its workers, and whose turn it is.

use std::collections::{BTreeSet, VecDeque};

use everport_handoff::id::WorkerId;

use super::super::{ConnectionId, Spread};

/// Invariant: `queue` is sorted by age, and so the returned connections of a lane come before those never offered.
#[derive(Debug)]
pub(super) struct Lane {
    /// The connections that wait for a worker.
    pub(super) queue: VecDeque<ConnectionId>,
    /// How many connections of this listener are held back.
    pub(super) held: usize,
    /// Those of both that were handed over. They do not count against the bound of the queue.
    pub(super) given: BTreeSet<ConnectionId>,
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
    /// When the workers accept from the listener themselves: it is never told anything.
    Shared,
}

impl Lane {
    pub(super) fn new(spread: Spread) -> Self {
        let gate = match spread {
            Spread::Offered => Gate::Stopped,
            Spread::Shared => Gate::Shared,
        };
        let (queue, given, rotation) = (VecDeque::new(), BTreeSet::new(), VecDeque::new());
        Self { queue, held: 0, given, rotation, users: 0, gate }
    }

    /// Puts a connection where its age belongs: cheap at both ends.
    pub(super) fn enqueue(&mut self, connection: ConnectionId) {
        let place = self.queue.partition_point(|other| *other < connection);
        self.queue.insert(place, connection);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.held
    }

    /// How many of them the master itself accepted.
    pub(super) fn accepted(&self) -> usize {
        self.waiting() - self.given.len()
    }
}
