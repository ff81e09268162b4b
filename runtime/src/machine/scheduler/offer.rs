//! From `accept` to the offer: who waits in which queue, whose turn it is, and whether the master accepts at all.

use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::{Action, ConnectionId};
use super::lane::{Gate, Lane};
use super::worker::{Channel, Seat, Word};
use super::{Connection, INTAKE_PAUSE, Intake, Scheduler, State};

/// What the front of a queue finds in the rotation.
enum Pick {
    Worker(WorkerId),
    /// When all whose turn could come have refused this connection, or still have a revoked copy of it.
    Unfit,
    Nobody,
}

/// How long a connection is held back that everybody refused, or that was stolen too often: long enough that trying
/// again costs nothing, short enough for a client to wait.
const HOLD: Duration = Duration::from_millis(250);
/// How often a connection that everybody refuses is held back before it is given up: half a minute.
const REFUSED_ROUNDS: u8 = 120;
const INTAKE_PAUSE_MAX: Duration = Duration::from_secs(1);

impl Scheduler {
    pub(in crate::machine) fn accepted(
        &mut self,
        listener: ListenerId,
        connection: ConnectionId,
        actions: &mut Vec<Action>,
    ) {
        if self.knows(connection) {
            return;
        }
        self.connections.insert(connection, Connection::new(listener, None));
        self.enqueue(connection, actions);
        if let Intake::Open { pause } = &mut self.intake {
            *pause = INTAKE_PAUSE;
        }
    }

    pub(in crate::machine) fn exhausted(&mut self, now: Instant) {
        if let Intake::Open { pause } = self.intake {
            self.intake = Intake::Exhausted { until: now + pause, pause: (pause * 2).min(INTAKE_PAUSE_MAX) };
            self.stir_all();
        }
    }

    pub(in crate::machine) fn offer_failed(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        actions: &mut Vec<Action>,
    ) {
        if self.is_on_offer(worker, connection) {
            self.free_word(worker, connection);
            if let Some(full) = self.workers.get_mut(&worker) {
                full.counters.offered -= 1;
                full.set_channel(Channel::Full);
            }
            self.enqueue(connection, actions);
            self.forget_if_settled(worker, actions);
        }
    }

    pub(in crate::machine) fn writable(&mut self, worker: WorkerId) {
        if let Some(open) = self.workers.get_mut(&worker) {
            open.set_channel(Channel::Open);
            self.seat(worker);
        }
    }

    pub(super) fn dispatch(&mut self, listener: ListenerId, now: Instant, actions: &mut Vec<Action>) {
        while let Some(&connection) = self.lanes.get(&listener).and_then(|lane| lane.queue.front()) {
            let pick = self.pick(listener, connection);
            if let (Some(lane), Pick::Worker(_) | Pick::Unfit) = (self.lanes.get_mut(&listener), &pick) {
                lane.queue.pop_front();
                lane.given.remove(&connection);
            }
            match pick {
                Pick::Worker(worker) => self.offer(connection, worker, now, actions),
                Pick::Unfit => self.hold_unfit(connection, now, actions),
                Pick::Nobody => break,
            }
        }
    }

    fn pick(&mut self, listener: ListenerId, connection: ConnectionId) -> Pick {
        let Some(lane) = self.lanes.get_mut(&listener) else {
            return Pick::Nobody;
        };
        let Some(waiting) = self.connections.get(&connection) else {
            return Pick::Nobody;
        };
        let mut pick = Pick::Nobody;
        for _ in 0..lane.rotation.len() {
            let Some(next) = lane.rotation.pop_front() else {
                break;
            };
            let Some(worker) = self.workers.get_mut(&next) else {
                continue;
            };
            if !worker.can_be_offered(&self.settings) {
                worker.seats.insert(listener, Seat::Out);
                self.touched.push(next);
                continue;
            }
            lane.rotation.push_back(next);
            if waiting.fits(connection, next, worker) && !waiting.refused_by.contains(&next) {
                return Pick::Worker(next);
            }
            pick = Pick::Unfit;
        }
        pick
    }

    pub(super) fn offer(
        &mut self,
        connection: ConnectionId,
        worker: WorkerId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let (Some(offered), Some(to)) = (self.connections.get_mut(&connection), self.workers.get_mut(&worker)) else {
            debug_assert!(false, "offer of {connection:?} to {worker:?}: no such thing");
            return;
        };
        offered.state = State::Offered { worker, since: now };
        to.set_word(connection, if offered.steals > 0 { Word::Awaited } else { Word::Offered });
        to.counters.offered += 1;
        self.overdue.remove(&connection);
        self.clock.push_back((now, connection));
        self.touched.push(worker);
        actions.push(Action::Offer { worker, connection });
    }

    /// Puts a connection back to where its age belongs: the front of the queue.
    pub(super) fn enqueue(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        self.overdue.remove(&connection);
        let Some(returned) = self.connections.get_mut(&connection) else {
            return;
        };
        match self.lanes.get_mut(&returned.listener) {
            Some(lane) => {
                returned.state = State::Queued;
                lane.enqueue(connection);
                lane.given.extend(returned.given.map(|_| connection));
                self.stirred.push(returned.listener);
            }
            None => self.end(connection, actions),
        }
    }

    /// Lets the others of the queue pass.
    pub(super) fn hold(&mut self, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        self.overdue.remove(&connection);
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        match self.lanes.get_mut(&held.listener) {
            Some(lane) => {
                held.state = State::Held;
                lane.held += 1;
                lane.given.extend(held.given.map(|_| connection));
                self.stirred.push(held.listener);
                self.held.push_back((now + HOLD, connection));
            }
            None => self.end(connection, actions),
        }
    }

    fn hold_unfit(&mut self, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        let Some(refused) = self.connections.get_mut(&connection) else {
            return;
        };
        if refused.rounds < REFUSED_ROUNDS {
            refused.rounds += u8::from(!refused.refused_by.is_empty());
            self.hold(connection, now, actions);
        } else {
            self.end(connection, actions);
        }
    }

    pub(super) fn unhold(&mut self, connection: ConnectionId) {
        self.held.retain(|(_, other)| *other != connection);
        if let Some(held) = self.connections.get(&connection)
            && let Some(lane) = self.lanes.get_mut(&held.listener)
        {
            lane.held -= 1;
            lane.given.remove(&connection);
            self.stirred.push(held.listener);
        }
    }

    /// Offers what is held back to a worker that has just shown itself willing.
    pub(super) fn serve_held(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let mut passed = 0;
        while let Some(&(_, connection)) = self.held.get(passed) {
            let Some(willing) = self.workers.get(&worker) else {
                return;
            };
            if !willing.can_be_offered(&self.settings) {
                return;
            }
            let fits = self
                .connections
                .get(&connection)
                .is_some_and(|held| held.fits(connection, worker, willing) && !held.refused_by.contains(&worker));
            if fits {
                self.unhold(connection);
                self.offer(connection, worker, now, actions);
            } else {
                passed += 1;
            }
        }
    }

    /// The room of the queue: then whatever becomes of the workers, the queue keeps its bound. If there is none, but a
    /// worker has credit, one connection for that.
    pub(super) fn room_of(&self, lane: &Lane) -> usize {
        if lane.users == 0 {
            return 0;
        }
        let has_credit = |id| self.workers.get(id).is_some_and(|worker| worker.can_be_offered(&self.settings));
        match self.settings.queue.saturating_sub(lane.accepted()) {
            0 => usize::from(lane.rotation.iter().any(has_credit)),
            room => room,
        }
    }

    /// Takes those out of the rotation whose turn it would be, up to the first that can be offered something. With no
    /// room in the queue it depends on them whether the master accepts, so their news is awaited.
    fn skip_spent(&mut self, listener: ListenerId) {
        let Some(lane) = self.lanes.get_mut(&listener) else {
            return;
        };
        while lane.accepted() >= self.settings.queue
            && let Some(next) = lane.rotation.front()
            && let Some(worker) = self.workers.get_mut(next)
            && !worker.can_be_offered(&self.settings)
        {
            worker.seats.insert(listener, Seat::Out);
            self.touched.push(*next);
            lane.rotation.pop_front();
        }
    }

    pub(super) fn set_gate(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        self.skip_spent(listener);
        let Some(lane) = self.lanes.get(&listener) else {
            return;
        };
        let open = matches!(self.intake, Intake::Open { .. }) && self.room_of(lane) > 0;
        let gate = match lane.gate {
            Gate::Accepting if !open => Gate::Stopped,
            // Not before the queue is half empty, or each connection would cost an order to start and one to stop.
            Gate::Stopped if open && lane.accepted() <= self.settings.queue / 2 => Gate::Accepting,
            unchanged => unchanged,
        };
        if gate != lane.gate {
            actions.push(match gate {
                Gate::Accepting => Action::StartAccepting { listener },
                Gate::Stopped | Gate::Shared => Action::StopAccepting { listener },
            });
        }
        if let Some(lane) = self.lanes.get_mut(&listener) {
            lane.gate = gate;
        }
    }

    /// Gives a worker its place in the rotations again that it left.
    pub(super) fn seat(&mut self, worker: WorkerId) {
        let Some(seated) = self.workers.get_mut(&worker) else {
            return;
        };
        self.touched.push(worker);
        if !seated.can_be_offered(&self.settings) {
            return;
        }
        for (listener, seat) in &mut seated.seats {
            if let (Seat::Out, Some(lane)) = (*seat, self.lanes.get_mut(listener)) {
                *seat = Seat::In;
                lane.rotation.push_back(worker);
                self.stirred.push(*listener);
            }
        }
    }
}
