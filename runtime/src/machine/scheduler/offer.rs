//! From `accept` to the offer: who waits in which queue, whose turn it is, and whether the master accepts at all.

use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::{Action, ConnectionId};
use super::lane::{Gate, Lane};
use super::roster::{Applicant, Assembly, Choice};
use super::worker::{Channel, Seat, Word};
use super::{Connection, INTAKE_PAUSE, Intake, Scheduler, State};

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
        key: Option<u64>,
        actions: &mut Vec<Action>,
    ) {
        if self.knows(connection) {
            return;
        }
        self.connections.insert(connection, Connection { key, ..Connection::new(listener, None) });
        self.loads.count_accepted();
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
            let choice = self.choose(listener, connection, now);
            let sheds = choice == Choice::Nobody && self.sheds(listener, connection);
            let Some(lane) = self.lanes.get_mut(&listener).filter(|_| choice != Choice::Nobody || sheds) else {
                return;
            };
            if let Choice::Wait(until) = choice {
                return lane.wait(until);
            }
            lane.queue.pop_front();
            if let Choice::WaitFor(worker, until) = choice {
                lane.park(connection, worker, until);
                continue;
            }
            lane.given.remove(&connection);
            match choice {
                Choice::Worker(worker) => self.offer(connection, worker, now, actions),
                Choice::Unfit => self.hold_unfit(connection, now, actions),
                Choice::Nobody | Choice::WaitFor(..) | Choice::Wait(_) => self.shed(connection, actions),
            }
        }
    }

    fn choose(&mut self, listener: ListenerId, connection: ConnectionId, now: Instant) -> Choice {
        let (Some(lane), Some(waiting)) = (self.lanes.get_mut(&listener), self.connections.get(&connection)) else {
            return Choice::Nobody;
        };
        let applicant = Applicant { id: connection, waiting };
        let assembly = Assembly { workers: &self.workers, settings: &self.settings, now, connection: Some(applicant) };
        let mut rested = Vec::new();
        let choice = lane.roster.choose(&assembly, &mut rested);
        self.unseat(listener, &rested);
        choice
    }

    /// These could not take anything when they were chosen.
    fn unseat(&mut self, listener: ListenerId, workers: &[WorkerId]) {
        for id in workers {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.seats.insert(listener, Seat::Out);
                self.touched.push(*id);
            }
        }
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
        to.set_word(connection, if offered.is_awaited() { Word::Awaited } else { Word::Offered });
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
                returned.given.iter().for_each(|_| lane.count_given(connection));
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
                held.given.iter().for_each(|_| lane.count_given(connection));
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
    /// worker has credit, one connection for that. No more than the workers may have; whoever is to be shed is not theirs.
    pub(super) fn room_of(&self, listener: ListenerId, lane: &Lane) -> usize {
        if lane.users == 0 {
            return 0;
        }
        let waiting = lane.accepted();
        let room = match self.settings.queue.saturating_sub(waiting) {
            // It may have to wait for another one than that.
            0 if waiting > 0 && lane.roster.waits() => 0,
            0 => usize::from(lane.roster.has_credit(&self.workers, &self.settings)),
            room => room,
        };
        let places = self.places(listener, waiting.saturating_add(room)).saturating_sub(waiting);
        if room > places && self.are_all_full(listener, lane) { room } else { room.min(places) }
    }

    /// Takes those out of the roster that would be chosen, up to the first that can be offered something. With no room in
    /// the queue it depends on them whether the master accepts, so their news is awaited.
    fn skip_spent(&mut self, listener: ListenerId, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&listener) else {
            return;
        };
        if lane.accepted() >= self.settings.queue {
            let assembly = Assembly { workers: &self.workers, settings: &self.settings, now, connection: None };
            let mut rested = Vec::new();
            lane.roster.skip_spent(&assembly, &mut rested);
            self.unseat(listener, &rested);
        }
    }

    pub(super) fn set_gate(&mut self, listener: ListenerId, now: Instant, actions: &mut Vec<Action>) {
        self.skip_spent(listener, now);
        let Some(lane) = self.lanes.get(&listener) else {
            return;
        };
        let open = matches!(self.intake, Intake::Open { .. }) && self.room_of(listener, lane) > 0;
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
}
