//! Live connections that move: a worker gives one away, and another takes it.
//!
//! ```text
//! new, or Taken by the giver --> Queued --> Offered … --> Taken: the giver is told that it moved
//!                                  |
//!                                  +--> returned to its giver, when nobody could take it, or did in [`RETURN_AFTER`]
//! ```
//!
//! Nobody could take it when no active worker but the giver uses its listener, in a pause too, or when all of them have
//! refused it. Nobody does when all that could are full, or hang. A giver that has been killed, hangs, has closed its channel, or broke the protocol gets nothing back: then the
//! connection waits on, and is given up like any other.
//!
//! Invariants: who hands a connection over hears once what became of it, while it can hear. Only what is queued or held is
//! returned, so that nobody else can take it meanwhile. The master keeps no copy of what it returns: if a hung worker still
//! has a revoked copy, the client sees the end of the connection only when that one is gone too.

use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::{Action, ConnectionId, HandoverId};
use super::worker::{Standing, Worker};
use super::{Connection, Scheduler, State, Then};

/// Who handed a connection over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::machine) struct Given {
    pub(in crate::machine) by: WorkerId,
    pub(in crate::machine) handover: HandoverId,
}

/// How long a connection waits for another owner while its giver could serve it: many times what a worker takes that lives,
/// and little beside the time that a worker has to drain.
pub(in crate::machine) const RETURN_AFTER: Duration = Duration::from_secs(2);

impl Scheduler {
    /// A worker has closed its copy of a connection, which waits for another from now on.
    pub(in crate::machine) fn handed_over(
        &mut self,
        given: Given,
        listener: ListenerId,
        connection: ConnectionId,
        key: Option<u64>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match self.connections.get_mut(&connection) {
            None => {
                self.connections.insert(connection, Connection { key, ..Connection::new(listener, Some(given)) });
            }
            // Revoked copies of it may lie elsewhere, and count on.
            Some(known) if known.state == (State::Taken { by: given.by }) => {
                let (copies, listener) = (known.copies, known.listener);
                *known = Connection { copies, key, ..Connection::new(listener, Some(given)) };
                if self.workers.get(&given.by).is_some_and(|giver| giver.standing != Standing::Dead) {
                    actions.push(Action::FreeWord { worker: given.by, connection });
                }
                self.free_word(given.by, connection);
            }
            Some(_) => return,
        }
        self.moving.push_back((now + RETURN_AFTER, connection, given));
        self.enqueue(connection, actions);
    }

    /// What has moved to nobody for too long goes back, once no offer of it can be taken any more.
    pub(super) fn recall_overdue(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Some(&(until, connection, given)) = self.moving.front()
            && until <= now
        {
            self.moving.pop_front();
            if self.way_back(connection) == Some(given) {
                self.recall(connection, actions);
            }
        }
    }

    fn recall(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        let Some(recalled) = self.connections.get_mut(&connection) else { return };
        recalled.is_recalled = true;
        match recalled.state {
            State::Offered { worker, .. } | State::Overdue { worker } | State::Revoking { worker, .. } => {
                self.revoke(worker, connection, Then::Enqueue, actions);
            }
            State::Queued | State::Held | State::Taken { .. } => {
                let listener = recalled.listener;
                if let Some(lane) = self.lanes.get_mut(&listener) {
                    lane.doubtful.insert(connection);
                }
                self.stirred.push(listener);
            }
        }
    }

    /// Forgets what has moved, or was returned.
    pub(super) fn forget_moved(&mut self) {
        while let Some((_, connection, given)) = self.moving.front()
            && self.connections.get(connection).and_then(|known| known.given) != Some(*given)
        {
            self.moving.pop_front();
        }
    }

    /// From now on nothing comes back to this worker.
    pub(in crate::machine) fn forsake(&mut self, worker: WorkerId) {
        if let Some(forsaken) = self.workers.get_mut(&worker) {
            forsaken.takes_back = false;
        }
    }

    /// A connection was taken: if it was handed over, its giver need not keep it in mind any longer.
    pub(super) fn moved(&mut self, owner: WorkerId, connection: ConnectionId, actions: &mut Vec<Action>) {
        let given = self.connections.get_mut(&connection).and_then(|taken| taken.given.take());
        let Some(Given { by, handover }) = given else {
            return;
        };
        if let Some(owner) = self.workers.get_mut(&owner) {
            owner.counters.received += 1;
        }
        if let Some(giver) = self.workers.get_mut(&by) {
            // Else it is not told, and it counts among those that are under way when its giver ends.
            if giver.takes_back {
                giver.counters.given += 1;
                actions.push(Action::TellMoved { worker: by, handover });
            }
        }
    }

    /// Ends a connection that waits for nobody any more: it goes back to its giver, or is shut down.
    pub(super) fn end(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        let Some(Given { by, handover }) = self.way_back(connection) else {
            return self.shut_down(connection, actions);
        };
        self.connections.remove(&connection);
        actions.push(Action::Return { worker: by, handover, connection });
    }

    /// Returns what waits for this listener and nobody could take.
    pub(super) fn return_unwanted(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        let Some(lane) = self.lanes.get_mut(&listener).filter(|lane| !lane.doubtful.is_empty()) else {
            return;
        };
        for connection in std::mem::take(&mut lane.doubtful) {
            let waits = self.lanes.get(&listener).is_some_and(|lane| lane.given.contains(&connection));
            if !waits || self.way_back(connection).is_none() || self.has_taker(connection) {
                continue;
            }
            match self.connections.get(&connection).map(|waiting| waiting.state) {
                Some(State::Held) => self.unhold(connection),
                _ => self.leave_queue(listener, connection),
            }
            self.end(connection, actions);
        }
    }

    fn leave_queue(&mut self, listener: ListenerId, connection: ConnectionId) {
        if let Some(lane) = self.lanes.get_mut(&listener) {
            lane.leave(connection);
        }
    }

    /// The giver of a connection, if that can have it back.
    fn way_back(&self, connection: ConnectionId) -> Option<Given> {
        let given = self.connections.get(&connection)?.given?;
        self.workers.get(&given.by).is_some_and(|giver| giver.takes_back).then_some(given)
    }

    /// Whether some active worker may still take a connection that was handed over, now or later.
    fn has_taker(&self, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|waiting| {
            let is_giver = |id| waiting.given.is_some_and(|given| given.by == id);
            let may_take = |(id, worker): (&WorkerId, &Worker)| {
                worker.serves(waiting.listener) && !is_giver(*id) && !waiting.refused_by.contains(id)
            };
            !waiting.is_recalled && self.workers.iter().any(may_take)
        })
    }
}
