//! Which worker is offered which connection, when an offer is revoked, and when the master accepts.
//!
//! ```text
//! accepted --> Queued --> Offered --+--> Taken --> closed, once no revoked copy is left
//!                ^  ^        |      +--> refused --> Queued, or Held when everybody refused
//!                |  |        | untaken for `steal_after`
//!                | Held      v
//!                |  ^     Overdue --> Revoking --> Offered to the worker that steals it
//!                +--+----------------------+
//! ```
//!
//! A connection that a worker handed over goes the same way, in every policy; see `handover`.
//!
//! Each listener has a roster of the workers that may be offered its connections, kept by its policy. One that cannot take
//! anything when it is chosen leaves the roster, and comes back when it can, so a connection costs the same with any number
//! of workers, or next to the same.
//!
//! Invariants: a connection of this table has exactly one copy with the master, and is in exactly one [`State`]. Each word
//! that is not free is in the table of its worker. A worker never has more untaken and revoked words than its credit.
//! Decisions follow the age of connections and the order of ids, never that of a hash.

mod handover;
mod lane;
mod limit;
mod offer;
mod roster;
mod settle;
mod steal;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, Slot, WorkerId};

pub(super) use self::handover::Given;
#[cfg(test)]
pub(super) use self::handover::RETURN_AFTER;
use self::lane::{Gate, Lane};
use self::limit::Loads;
use self::worker::{Channel, Pace, Seat, Standing, Word, Worker};
use super::random::Random;
use super::{Action, ConnectionId, Counters, OfferedPolicy, Settings, Spread};

#[derive(Debug)]
pub(super) struct Scheduler {
    settings: Settings,
    lanes: BTreeMap<ListenerId, Lane>,
    workers: BTreeMap<WorkerId, Worker>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Every offer in its order; the settled ones are dropped when they come to the front.
    clock: VecDeque<(Instant, ConnectionId)>,
    /// The connections in state `Overdue`, and those of them that are being revoked for a thief.
    overdue: BTreeSet<ConnectionId>,
    /// The connections in state `Held`, and until when.
    held: VecDeque<(Instant, ConnectionId)>,
    /// The connections that were handed over, in that order, and until when each waits; those that have moved are dropped when
    /// they come to the front.
    moving: VecDeque<(Instant, ConnectionId, Given)>,
    /// When the wanted workers are asked for a beat again.
    ask_again: Option<Instant>,
    intake: Intake,
    /// How many workers have a limit of connections.
    limited: usize,
    /// How much each slot shall get, where somebody said so; else one.
    weights: BTreeMap<Slot, u32>,
    loads: Loads,
    random: Random,
    /// The listeners to look after at the end of this event.
    stirred: Vec<ListenerId>,
    /// The workers to look after at the end of this event.
    touched: Vec<WorkerId>,
}

#[derive(Debug)]
struct Connection {
    listener: ListenerId,
    /// The client, for who goes by that.
    key: Option<u64>,
    state: State,
    /// How many workers may still have a revoked copy.
    copies: usize,
    /// How often it was stolen.
    steals: u8,
    /// Who refused it since it was last held back.
    refused_by: Vec<WorkerId>,
    /// How often it was held back because everybody had refused it.
    rounds: u8,
    /// Who handed it over, until it is taken.
    given: Option<Given>,
    /// Whether it has waited for so long that it goes back.
    is_recalled: bool,
}

impl Connection {
    fn new(listener: ListenerId, given: Option<Given>) -> Self {
        let state = State::Queued;
        let refused_by = Vec::new();
        Self { listener, key: None, state, copies: 0, steals: 0, refused_by, rounds: 0, given, is_recalled: false }
    }

    /// Whether somebody waits for what becomes of its offer: a client that has waited for long, or its giver.
    fn is_awaited(&self) -> bool {
        self.steals > 0 || self.given.is_some()
    }

    /// Whether this worker can be offered the connection: it is not the one that wants to be rid of it.
    fn fits(&self, own: ConnectionId, id: WorkerId, worker: &Worker) -> bool {
        worker.fits(own, self.listener) && self.given.is_none_or(|given| given.by != id)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// When it waits in the queue of its listener.
    Queued,
    /// When it waits for a worker that shows itself willing, or for the end of `HOLD`.
    Held,
    /// When it lies before a worker since then.
    Offered { worker: WorkerId, since: Instant },
    /// When it has lain there for `steal_after`, and waits for a worker that may steal it.
    Overdue { worker: WorkerId },
    /// When the offer is being revoked.
    Revoking { worker: WorkerId, then: Then },
    /// When a worker owns it, and the master must keep its copy.
    Taken { by: WorkerId },
}

/// What becomes of a connection whose offer was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Enqueue,
    Hold,
    GiveTo(WorkerId),
}

/// Whether the master may accept at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    /// When descriptors are not known to be short; if they get short, accepting pauses for `pause`.
    Open { pause: Duration },
    /// When they were short a moment ago.
    Exhausted { until: Instant, pause: Duration },
    /// When the master stops.
    Closed,
}

/// How long accepting pauses when descriptors are short, doubling from the first to the second.
const INTAKE_PAUSE: Duration = Duration::from_millis(100);

/// What the other machines tell the scheduler.
impl Scheduler {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: BTreeMap::new(),
            workers: BTreeMap::new(),
            connections: BTreeMap::new(),
            clock: VecDeque::new(),
            overdue: BTreeSet::new(),
            held: VecDeque::new(),
            moving: VecDeque::new(),
            ask_again: None,
            limited: 0,
            weights: BTreeMap::new(),
            loads: Loads::default(),
            random: Random::new(settings.care.seed),
            intake: Intake::Open { pause: INTAKE_PAUSE },
            stirred: Vec::new(),
            touched: Vec::new(),
        }
    }

    pub(super) fn open(&mut self, listener: ListenerId, spread: Spread) {
        let roster = self.roster(OfferedPolicy::RoundRobin);
        self.lanes.entry(listener).or_insert_with(|| Lane::new(spread, roster));
    }

    /// Ends every connection that waits for this listener, or returns it to its giver. Those on offer may still be taken.
    pub(super) fn close(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        let Some(lane) = self.lanes.remove(&listener) else {
            return;
        };
        for connection in lane.into_waiting() {
            self.end(connection, actions);
        }
        for (until, connection) in std::mem::take(&mut self.held) {
            match self.connections.get(&connection) {
                Some(held) if held.listener == listener => self.end(connection, actions),
                _ => self.held.push_back((until, connection)),
            }
        }
        for worker in self.workers.values_mut() {
            worker.seats.remove(&listener);
        }
    }

    pub(super) fn close_intake(&mut self) {
        self.intake = Intake::Closed;
        self.stir_all();
    }

    /// A worker is started. `limit`: how many connections it may have.
    pub(super) fn join(&mut self, worker: WorkerId, slot: Slot, limit: Option<u64>) {
        let weight = self.weight(slot);
        self.limited += usize::from(limit.is_some());
        self.workers.insert(worker, Worker::new(slot, weight, limit));
    }

    /// Drops a worker whose process never was.
    pub(super) fn never_started(&mut self, worker: WorkerId) {
        self.forget(worker);
    }

    fn forget(&mut self, worker: WorkerId) {
        if let Some(forgotten) = self.workers.remove(&worker) {
            self.limited -= usize::from(forgotten.is_limited());
        }
    }

    /// The worker uses the listener from now on.
    pub(super) fn add_use(&mut self, worker: WorkerId, listener: ListenerId) {
        if let Some(user) = self.workers.get_mut(&worker)
            && self.lanes.contains_key(&listener)
        {
            user.seats.entry(listener).or_insert(Seat::Out);
            self.seat(worker);
            self.recount(listener);
        }
    }

    pub(super) fn remove_use(&mut self, worker: WorkerId, listener: ListenerId) {
        if let Some(user) = self.workers.get_mut(&worker)
            && user.seats.remove(&listener).is_some()
        {
            if let Some(lane) = self.lanes.get_mut(&listener) {
                lane.roster.remove(worker);
                lane.unpark(worker);
            }
            self.recount(listener);
        }
    }

    /// The worker takes connections from now on.
    pub(super) fn activate(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(activated) = self.workers.get_mut(&worker) else {
            return;
        };
        if activated.standing == Standing::Idle {
            activated.standing = Standing::Active { pace: Pace::Prompt, channel: Channel::Open };
            self.seat(worker);
            self.recount_all(worker);
            self.serve_held(worker, now, actions);
        }
    }

    /// The worker loses what it has not taken, and is offered nothing until it is activated again.
    pub(super) fn pause(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if self.workers.get(&worker).is_some_and(Worker::is_active) {
            self.retire(worker, Standing::Idle, actions);
        }
    }

    /// The worker is offered nothing more, and loses what it has not taken.
    pub(super) fn stop(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        self.retire(worker, Standing::Stopped, actions);
    }

    /// As `stop`; and what this worker says that it took is shut down when it has gone.
    pub(super) fn distrust(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        self.forsake(worker);
        self.retire(worker, Standing::Broken, actions);
    }

    /// Whether nothing waits that an active worker could still be given.
    pub(super) fn is_settled(&self) -> bool {
        let mut active = self.workers.values().filter(|worker| worker.is_active()).peekable();
        let nobody = active.peek().is_none();
        nobody || (active.all(|worker| worker.untaken() == 0) && self.lanes.values().all(|lane| lane.waiting() == 0))
    }

    /// Whether every worker has been forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn counters(&self, worker: WorkerId) -> Counters {
        self.workers.get(&worker).map_or_else(Counters::default, |worker| worker.counters)
    }

    pub(super) fn queued(&self, listener: ListenerId) -> usize {
        self.lanes.get(&listener).map_or(0, Lane::waiting)
    }

    /// Whether no connection of this listener waits or lies untaken.
    pub(super) fn is_clear(&self, listener: ListenerId) -> bool {
        let open = |connection: &Connection| !matches!(connection.state, State::Taken { .. });
        !self.connections.values().any(|connection| connection.listener == listener && open(connection))
    }

    pub(super) fn knows(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    pub(super) fn is_on_offer(&self, worker: WorkerId, connection: ConnectionId) -> bool {
        matches!(self.word(worker, connection), Some(Word::Offered | Word::Awaited))
    }

    pub(super) fn is_taken_by(&self, worker: WorkerId, connection: ConnectionId) -> bool {
        self.connections.get(&connection).is_some_and(|known| known.state == State::Taken { by: worker })
    }

    pub(super) fn room(&self, listener: ListenerId) -> usize {
        match self.lanes.get(&listener) {
            Some(lane) if lane.gate == Gate::Accepting => self.room_of(listener, lane),
            _ => 0,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let overdue = self.clock.front().map(|(since, _)| *since + self.settings.steal_after);
        let hold = self.held.front().map(|(until, _)| *until);
        let intake = match self.intake {
            Intake::Exhausted { until, .. } => Some(until),
            Intake::Open { .. } | Intake::Closed => None,
        };
        let parked = self.lanes.values().filter_map(Lane::next_unpark).min();
        let recall = self.moving.front().map(|(until, ..)| *until);
        [overdue, hold, intake, self.ask_again, parked, recall].into_iter().flatten().min()
    }
}

/// What the outside tells the scheduler.
impl Scheduler {
    /// All boards with unsettled offers have just been read.
    pub(super) fn deadline(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Intake::Exhausted { until, pause } = self.intake
            && until <= now
        {
            self.intake = Intake::Open { pause };
            self.stir_all();
        }
        for (listener, lane) in &mut self.lanes {
            if lane.unpark_due(now) {
                self.stirred.push(*listener);
            }
        }
        while let Some(&(until, connection)) = self.held.front()
            && until <= now
        {
            self.unhold(connection);
            if let Some(held) = self.connections.get_mut(&connection) {
                held.refused_by.clear();
            }
            self.enqueue(connection, actions);
        }
        self.find_overdue(now, actions);
        self.recall_overdue(now, actions);
    }

    /// Carries out what the event made possible. Called at the end of every event.
    pub(super) fn run(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // First: a worker that could steal gets nothing from the queues.
        self.deal_overdue(now, actions);
        while let Some(listener) = self.stirred.pop() {
            self.return_unwanted(listener, actions);
            self.dispatch(listener, now, actions);
            self.set_gate(listener, now, actions);
        }
        while let Some(worker) = self.touched.pop() {
            if self.touched.last() != Some(&worker) {
                self.set_ring(worker, actions);
                self.set_watch(worker, actions);
            }
        }
        while let Some(&(since, connection)) = self.clock.front()
            && self.holder_since(connection, since).is_none()
        {
            self.clock.pop_front();
        }
        self.forget_moved();
    }
}

/// Bookkeeping.
impl Scheduler {
    fn word(&self, worker: WorkerId, connection: ConnectionId) -> Option<Word> {
        self.workers.get(&worker).and_then(|worker| worker.word(connection))
    }

    fn free_word(&mut self, worker: WorkerId, connection: ConnectionId) {
        if let Some(holder) = self.workers.get_mut(&worker) {
            holder.free_word(connection);
            self.seat(worker);
        }
    }

    /// The worker before which the connection has lain since then, if it still does.
    fn holder_since(&self, connection: ConnectionId, then: Instant) -> Option<WorkerId> {
        match self.connections.get(&connection)?.state {
            State::Offered { worker, since } if since == then => Some(worker),
            _ => None,
        }
    }

    fn recount(&mut self, listener: ListenerId) {
        let users = self.workers.values().filter(|worker| worker.serves(listener)).count();
        if let Some(lane) = self.lanes.get_mut(&listener) {
            lane.users = users;
            lane.doubtful.extend(&lane.given);
            self.stirred.push(listener);
        }
    }

    fn recount_all(&mut self, worker: WorkerId) {
        let Some(counted) = self.workers.get(&worker) else {
            return;
        };
        let listeners: Vec<_> = counted.seats.keys().copied().collect();
        for listener in listeners {
            self.recount(listener);
        }
    }

    fn stir_all(&mut self) {
        self.stirred.extend(self.lanes.keys());
    }

    fn set_ring(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(touched) = self.workers.get_mut(&worker) else {
            return;
        };
        let on = touched.is_awaited(&self.settings);
        if touched.rings != on && touched.standing != Standing::Dead {
            touched.rings = on;
            actions.push(Action::Ring { worker, on });
        }
    }
}
