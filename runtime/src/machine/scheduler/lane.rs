//! One listener: who waits for its workers, and who may get it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use everport_handoff::id::WorkerId;

use super::super::{ConnectionId, Spread};
use super::roster::Roster;

/// Invariant: `queue` is sorted by age, and so the returned connections of a lane come before those never offered.
#[derive(Debug)]
pub(super) struct Lane {
    /// The connections that wait for a worker.
    pub(super) queue: VecDeque<ConnectionId>,
    /// How many connections of this listener are held back.
    pub(super) held: usize,
    /// The connections that wait for one worker, which has no credit; under policy `hash`.
    parked: BTreeMap<WorkerId, Parked>,
    /// Until when the queue waits for a worker that should have its first; under policy `least`.
    waits: Option<Instant>,
    /// Those of all these that were handed over. They do not count against the bound of the queue.
    pub(super) given: BTreeSet<ConnectionId>,
    /// Those of them for which there may be nobody: they are looked at once, and again when that may have changed.
    pub(super) doubtful: BTreeSet<ConnectionId>,
    /// The workers that may be offered something, but for those that could not take anything when they were chosen.
    pub(super) roster: Roster,
    /// How many active workers use the listener.
    pub(super) users: usize,
    pub(super) gate: Gate,
}

#[derive(Debug)]
struct Parked {
    /// When they wait for that worker no longer.
    until: Instant,
    connections: Vec<ConnectionId>,
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
    pub(super) fn new(spread: Spread, roster: Roster) -> Self {
        let gate = match spread {
            Spread::Offered => Gate::Stopped,
            Spread::Shared | Spread::Split => Gate::Shared,
        };
        let (queue, given, doubtful) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        Self { queue, held: 0, parked: BTreeMap::new(), waits: None, given, doubtful, roster, users: 0, gate }
    }

    /// The connection waits here, and was handed over.
    pub(super) fn count_given(&mut self, connection: ConnectionId) {
        self.given.insert(connection);
        self.doubtful.insert(connection);
    }

    /// Puts a connection where its age belongs: cheap at both ends.
    pub(super) fn enqueue(&mut self, connection: ConnectionId) {
        let place = self.queue.partition_point(|other| *other < connection);
        self.queue.insert(place, connection);
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len() + self.held + self.parked.values().map(|parked| parked.connections.len()).sum::<usize>()
    }

    /// The connection, which is queued or waits for one worker, waits no more.
    pub(super) fn leave(&mut self, connection: ConnectionId) {
        self.given.remove(&connection);
        self.queue.retain(|other| *other != connection);
        for parked in self.parked.values_mut() {
            parked.connections.retain(|other| *other != connection);
        }
    }

    /// The connection, which is in no queue, waits for this worker alone until then.
    pub(super) fn park(&mut self, connection: ConnectionId, worker: WorkerId, until: Instant) {
        let parked = self.parked.entry(worker).or_insert(Parked { until, connections: Vec::new() });
        parked.connections.push(connection);
    }

    /// Who waits for this worker alone is back in the queue. Returns whether there was anybody.
    pub(super) fn unpark(&mut self, worker: WorkerId) -> bool {
        let parked = self.parked.remove(&worker);
        let connections = parked.into_iter().flat_map(|parked| parked.connections);
        connections.map(|connection| self.enqueue(connection)).count() > 0
    }

    /// The queue waits, until then at most.
    pub(super) fn wait(&mut self, until: Instant) {
        self.waits = Some(until);
    }

    /// As `unpark`, for every worker that has been waited for long enough. Returns whether anybody need not wait any longer.
    pub(super) fn unpark_due(&mut self, now: Instant) -> bool {
        let waited = self.waits.take_if(|until| *until <= now).is_some();
        let due: Vec<_> = self.parked.iter().filter(|(_, parked)| parked.until <= now).map(|(id, _)| *id).collect();
        waited | (due.into_iter().filter(|worker| self.unpark(*worker)).count() > 0)
    }

    /// As `unpark`, for every worker.
    pub(super) fn unpark_all(&mut self) {
        while let Some(&worker) = self.parked.keys().next() {
            self.unpark(worker);
        }
    }

    pub(super) fn next_unpark(&self) -> Option<Instant> {
        self.parked.values().map(|parked| parked.until).chain(self.waits).min()
    }

    /// Who waits here, but for those held back, by age.
    pub(super) fn into_waiting(mut self) -> VecDeque<ConnectionId> {
        self.unpark_all();
        self.queue
    }

    /// How many of them the master itself accepted.
    pub(super) fn accepted(&self) -> usize {
        self.waiting() - self.given.len()
    }
}
