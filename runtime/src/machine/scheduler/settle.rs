//! From the offer to the end: taken, refused, revoked, released; and who closes which copy when.
//!
//! The master closes its copy of a connection when that was taken and no revoked copy of it is left anywhere. If the owner
//! dies before that, the master shuts the connection down, so that the client sees the end.

use std::time::Instant;

use everport_handoff::id::WorkerId;

use super::super::{Action, ConnectionId, Settled};
use super::worker::{Pace, Seat, Standing, Word};
use super::{Connection, Scheduler, State, Then};

impl Scheduler {
    pub(in crate::machine) fn settled(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        how: Settled,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match (self.word(worker, connection), how) {
            (Some(Word::Offered | Word::Awaited), Settled::Taken) => self.taken(worker, connection, now, actions),
            (Some(Word::Offered | Word::Awaited), Settled::Refused) => self.refused(worker, connection, now, actions),
            (Some(Word::Offered | Word::Awaited), Settled::Revoked) => self.revoked(worker, connection, now, actions),
            (Some(Word::Revoked), Settled::Released) => {
                self.release(worker, connection, actions);
                self.alive(worker, now);
                self.serve_held(worker, now, actions);
            }
            // A move that this word does not know, or a worker that has been forgotten.
            _ => {}
        }
        self.forget_if_settled(worker, actions);
    }

    fn taken(&mut self, worker: WorkerId, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        self.overdue.remove(&connection);
        let Some(owner) = self.workers.get_mut(&worker) else {
            return;
        };
        owner.counters.taken += 1;
        owner.load.count_taken();
        owner.set_word(connection, Word::Taken);
        self.touched.push(worker);
        let is_dead = owner.standing == Standing::Dead;
        self.moved(worker, connection, actions);
        if is_dead {
            self.free_word(worker, connection);
            self.shut_down(connection, actions);
            return;
        }
        if let Some(taken) = self.connections.get_mut(&connection) {
            taken.state = State::Taken { by: worker };
        }
        self.close_if_safe(connection, actions);
        self.alive(worker, now);
        self.serve_held(worker, now, actions);
    }

    fn refused(&mut self, worker: WorkerId, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        let Some(refuser) = self.workers.get_mut(&worker) else {
            return;
        };
        refuser.counters.refused += 1;
        if refuser.standing != Standing::Dead {
            actions.push(Action::FreeWord { worker, connection });
        }
        self.free_word(worker, connection);
        if let Some(refused) = self.connections.get_mut(&connection) {
            refused.refused_by.push(worker);
        }
        self.enqueue(connection, actions);
        self.alive(worker, now);
    }

    fn revoked(&mut self, worker: WorkerId, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        let (Some(loser), Some(revoked)) = (self.workers.get_mut(&worker), self.connections.get_mut(&connection))
        else {
            return;
        };
        let then = match revoked.state {
            State::Revoking { then, .. } => then,
            _ => Then::Enqueue,
        };
        loser.counters.revoked += 1;
        if loser.standing == Standing::Dead {
            loser.free_word(connection);
        } else {
            loser.set_word(connection, Word::Revoked);
            revoked.copies += 1;
            self.seat(worker);
        }
        match then {
            Then::Enqueue => self.enqueue(connection, actions),
            Then::Hold => self.hold(connection, now, actions),
            Then::GiveTo(thief) => self.give(connection, thief, now, actions),
        }
    }

    /// A revoked copy is no more.
    pub(super) fn release(&mut self, worker: WorkerId, connection: ConnectionId, actions: &mut Vec<Action>) {
        self.free_word(worker, connection);
        if let Some(released) = self.connections.get_mut(&connection) {
            released.copies = released.copies.saturating_sub(1);
            self.close_if_safe(connection, actions);
        }
    }

    /// Closes the master's copy of a connection that has a trusted owner and nothing but this owner.
    fn close_if_safe(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        if let Some(Connection { state: State::Taken { by }, copies: 0, .. }) = self.connections.get(&connection) {
            let owner = *by;
            if self.workers.get(&owner).is_some_and(|worker| worker.standing != Standing::Broken) {
                self.connections.remove(&connection);
                self.free_word(owner, connection);
                actions.push(Action::Close { connection });
                actions.push(Action::FreeWord { worker: owner, connection });
            }
        }
    }

    pub(super) fn shut_down(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        if self.connections.remove(&connection).is_some() {
            self.overdue.remove(&connection);
            actions.push(Action::Shutdown { connection });
        }
    }

    pub(super) fn revoke(&mut self, worker: WorkerId, connection: ConnectionId, then: Then, actions: &mut Vec<Action>) {
        let Some(revoked) = self.connections.get_mut(&connection) else {
            return;
        };
        // What is promised to a thief counts as overdue until it is there, so that the thief gets nothing else.
        if !matches!(then, Then::GiveTo(_)) {
            self.overdue.remove(&connection);
        }
        // The answer to an earlier order is on its way.
        if !matches!(revoked.state, State::Revoking { .. }) {
            actions.push(Action::Revoke { worker, connection });
        }
        revoked.state = State::Revoking { worker, then };
    }

    pub(super) fn retire(&mut self, worker: WorkerId, to: Standing, actions: &mut Vec<Action>) {
        let Some(retired) = self.workers.get_mut(&worker) else {
            return;
        };
        if (retired.standing, to) != (Standing::Broken, Standing::Stopped) {
            retired.standing = to;
        }
        self.touched.push(worker);
        for (listener, seat) in &mut retired.seats {
            *seat = Seat::Out;
            if let Some(lane) = self.lanes.get_mut(listener) {
                lane.roster.remove(worker);
                lane.unpark(worker);
            }
        }
        let untaken: Vec<_> =
            retired.words().filter(|(_, word)| matches!(word, Word::Offered | Word::Awaited)).collect();
        self.recount_all(worker);
        for (connection, _) in untaken {
            self.revoke(worker, connection, Then::Enqueue, actions);
        }
    }

    /// The worker has gone: what it owned ends, what it had not taken returns, its revoked copies are no more.
    pub(in crate::machine) fn exited(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        self.forsake(worker);
        self.retire(worker, Standing::Dead, actions);
        let Some(dead) = self.workers.get(&worker) else {
            return;
        };
        let words: Vec<_> = dead.words().collect();
        for (connection, word) in words {
            match word {
                Word::Offered | Word::Awaited => {}
                Word::Taken => {
                    self.free_word(worker, connection);
                    self.shut_down(connection, actions);
                }
                Word::Revoked => self.release(worker, connection, actions),
            }
        }
        self.forget_if_settled(worker, actions);
    }

    pub(super) fn forget_if_settled(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if let Some(dead) = self.workers.get(&worker)
            && dead.standing == Standing::Dead
            && !dead.has_words()
        {
            self.forget(worker);
            actions.push(Action::Forget { worker });
        }
    }

    /// The worker showed that it lives.
    pub(in crate::machine) fn alive(&mut self, worker: WorkerId, now: Instant) {
        let Some(living) = self.workers.get_mut(&worker) else {
            return;
        };
        living.life = Some(now);
        if let Standing::Active { pace: Pace::Late, .. } = living.standing {
            living.set_pace(Pace::Prompt);
        }
        self.seat(worker);
    }
}
