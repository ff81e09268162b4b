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
//! Policy `rr`: each listener has a rotation of its workers. One that cannot take anything when its turn comes leaves the
//! rotation, and comes back when it can, so a connection costs the same with any number of workers.
//!
//! Invariants: a connection of this table has exactly one copy with the master, and is in exactly one [`State`]. Each word
//! that is not free is in the table of its worker. A worker never has more untaken and revoked words than its credit.
//! Decisions follow the age of connections and the order of ids, never that of a hash.

mod lane;
mod steal;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, WorkerId};

use self::lane::{Gate, Lane};
use self::worker::{Channel, Pace, Seat, Standing, Word, Worker};
use super::{Action, ConnectionId, Counters, Settings, Settled};

#[derive(Debug)]
pub(super) struct Scheduler {
    settings: Settings,
    lanes: BTreeMap<ListenerId, Lane>,
    workers: BTreeMap<WorkerId, Worker>,
    connections: HashMap<ConnectionId, Connection>,
    /// Every offer in its order; the settled ones are dropped when they come to the front.
    clock: VecDeque<(Instant, ConnectionId)>,
    /// The connections in state `Overdue`, and those of them that are being revoked for a thief.
    overdue: BTreeSet<ConnectionId>,
    /// The connections in state `Held`, and until when.
    held: VecDeque<(Instant, ConnectionId)>,
    /// When the wanted workers are asked for a beat again.
    ask_again: Option<Instant>,
    intake: Intake,
    /// The listeners to look after at the end of this event.
    stirred: Vec<ListenerId>,
    /// The workers to look after at the end of this event.
    touched: Vec<WorkerId>,
}

#[derive(Debug)]
struct Connection {
    listener: ListenerId,
    state: State,
    /// How many workers may still have a revoked copy.
    copies: usize,
    /// How often it was stolen.
    steals: u8,
    /// Who refused it since it was last held back.
    refused_by: Vec<WorkerId>,
    /// How often it was held back because everybody had refused it.
    rounds: u8,
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
/// How long accepting pauses when descriptors are short, doubling from the first to the second.
const INTAKE_PAUSE: Duration = Duration::from_millis(100);
const INTAKE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What the other machines tell the scheduler.
impl Scheduler {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: BTreeMap::new(),
            workers: BTreeMap::new(),
            connections: HashMap::new(),
            clock: VecDeque::new(),
            overdue: BTreeSet::new(),
            held: VecDeque::new(),
            ask_again: None,
            intake: Intake::Open {
                pause: INTAKE_PAUSE,
            },
            stirred: Vec::new(),
            touched: Vec::new(),
        }
    }

    pub(super) fn open(&mut self, listener: ListenerId) {
        self.lanes.entry(listener).or_insert_with(Lane::new);
    }

    /// Ends every connection that waits for this listener. Those on offer may still be taken.
    pub(super) fn close(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        let Some(lane) = self.lanes.remove(&listener) else {
            return;
        };
        for connection in lane.queue {
            self.shut_down(connection, actions);
        }
        for (until, connection) in std::mem::take(&mut self.held) {
            match self.connections.get(&connection) {
                Some(held) if held.listener == listener => self.shut_down(connection, actions),
                _ => self.held.push_back((until, connection)),
            }
        }
    }

    pub(super) fn close_intake(&mut self) {
        self.intake = Intake::Closed;
        self.stir_all();
    }

    pub(super) fn join(&mut self, worker: WorkerId) {
        self.workers.insert(worker, Worker::new());
    }

    /// Drops a worker whose process never was.
    pub(super) fn never_started(&mut self, worker: WorkerId) {
        self.workers.remove(&worker);
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
                lane.rotation.retain(|other| *other != worker);
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
            activated.standing = Standing::Active {
                pace: Pace::Prompt,
                channel: Channel::Open,
            };
            self.seat(worker);
            self.recount_all(worker);
            self.serve_held(worker, now, actions);
        }
    }

    /// The worker is offered nothing more, and loses what it has not taken.
    pub(super) fn stop(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        self.retire(worker, Standing::Stopped, actions);
    }

    /// As `stop`; and what this worker says that it took is shut down when it has gone.
    pub(super) fn distrust(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        self.retire(worker, Standing::Broken, actions);
    }

    /// The worker has gone: what it owned ends, what it had not taken returns, its revoked copies are no more.
    pub(super) fn exited(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
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

    /// Whether nothing waits that an active worker could still be given.
    pub(super) fn is_settled(&self) -> bool {
        let mut active = self
            .workers
            .values()
            .filter(|worker| worker.is_active())
            .peekable();
        let nobody = active.peek().is_none();
        nobody
            || (active.all(|worker| worker.untaken() == 0)
                && self.lanes.values().all(|lane| lane.waiting() == 0))
    }

    /// Whether every worker has been forgotten.
    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn counters(&self, worker: WorkerId) -> Counters {
        self.workers
            .get(&worker)
            .map_or_else(Counters::default, |worker| worker.counters)
    }

    pub(super) fn queued(&self, listener: ListenerId) -> usize {
        self.lanes.get(&listener).map_or(0, Lane::waiting)
    }

    pub(super) fn knows(&self, connection: ConnectionId) -> bool {
        self.connections.contains_key(&connection)
    }

    pub(super) fn is_on_offer(&self, worker: WorkerId, connection: ConnectionId) -> bool {
        matches!(
            self.word(worker, connection),
            Some(Word::Offered | Word::Awaited)
        )
    }

    pub(super) fn room(&self, listener: ListenerId) -> usize {
        match self.lanes.get(&listener) {
            Some(lane) if lane.gate == Gate::Accepting => self.room_of(lane),
            _ => 0,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let overdue = self
            .clock
            .front()
            .map(|(since, _)| *since + self.settings.steal_after);
        let hold = self.held.front().map(|(until, _)| *until);
        let intake = match self.intake {
            Intake::Exhausted { until, .. } => Some(until),
            Intake::Open { .. } | Intake::Closed => None,
        };
        [overdue, hold, intake, self.ask_again]
            .into_iter()
            .flatten()
            .min()
    }
}

/// What the outside tells the scheduler.
impl Scheduler {
    pub(super) fn accepted(
        &mut self,
        listener: ListenerId,
        connection: ConnectionId,
        actions: &mut Vec<Action>,
    ) {
        if self.knows(connection) {
            return;
        }
        let state = State::Queued;
        let accepted = Connection {
            listener,
            state,
            copies: 0,
            steals: 0,
            refused_by: Vec::new(),
            rounds: 0,
        };
        self.connections.insert(connection, accepted);
        self.enqueue(connection, actions);
        if let Intake::Open { pause } = &mut self.intake {
            *pause = INTAKE_PAUSE;
        }
    }

    pub(super) fn exhausted(&mut self, now: Instant) {
        if let Intake::Open { pause } = self.intake {
            self.intake = Intake::Exhausted {
                until: now + pause,
                pause: (pause * 2).min(INTAKE_PAUSE_MAX),
            };
            self.stir_all();
        }
    }

    pub(super) fn settled(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        how: Settled,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match (self.word(worker, connection), how) {
            (Some(Word::Offered | Word::Awaited), Settled::Taken) => {
                self.taken(worker, connection, now, actions)
            }
            (Some(Word::Offered | Word::Awaited), Settled::Refused) => {
                self.refused(worker, connection, now, actions)
            }
            (Some(Word::Offered | Word::Awaited), Settled::Revoked) => {
                self.revoked(worker, connection, now, actions)
            }
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

    pub(super) fn offer_failed(
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

    pub(super) fn writable(&mut self, worker: WorkerId) {
        if let Some(open) = self.workers.get_mut(&worker) {
            open.set_channel(Channel::Open);
            self.seat(worker);
        }
    }

    /// The worker showed that it lives.
    pub(super) fn alive(&mut self, worker: WorkerId, now: Instant) {
        let Some(living) = self.workers.get_mut(&worker) else {
            return;
        };
        living.life = Some(now);
        if let Standing::Active {
            pace: Pace::Late, ..
        } = living.standing
        {
            living.set_pace(Pace::Prompt);
        }
        self.seat(worker);
    }

    /// All boards with unsettled offers have just been read.
    pub(super) fn deadline(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Intake::Exhausted { until, pause } = self.intake
            && until <= now
        {
            self.intake = Intake::Open { pause };
            self.stir_all();
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
    }

    /// Carries out what the event made possible. Called at the end of every event.
    pub(super) fn run(&mut self, now: Instant, actions: &mut Vec<Action>) {
        // First: a worker that could steal gets nothing from the queues.
        self.deal_overdue(now, actions);
        while let Some(listener) = self.stirred.pop() {
            self.dispatch(listener, now, actions);
            self.set_gate(listener, actions);
        }
        while let Some(worker) = self.touched.pop() {
            self.set_ring(worker, actions);
        }
        while let Some(&(since, connection)) = self.clock.front()
            && self.offered_since(connection) != Some(since)
        {
            self.clock.pop_front();
        }
    }
}

/// The moves of a connection.
impl Scheduler {
    fn dispatch(&mut self, listener: ListenerId, now: Instant, actions: &mut Vec<Action>) {
        while let Some(&connection) = self
            .lanes
            .get(&listener)
            .and_then(|lane| lane.queue.front())
        {
            let pick = self.pick(listener, connection);
            if let (Some(lane), Pick::Worker(_) | Pick::Unfit) =
                (self.lanes.get_mut(&listener), &pick)
            {
                lane.queue.pop_front();
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
        let refused_by = self
            .connections
            .get(&connection)
            .map_or(&[][..], |waiting| &waiting.refused_by);
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
            if worker.fits(connection, listener) && !refused_by.contains(&next) {
                return Pick::Worker(next);
            }
            pick = Pick::Unfit;
        }
        pick
    }

    fn offer(
        &mut self,
        connection: ConnectionId,
        worker: WorkerId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let (Some(offered), Some(to)) = (
            self.connections.get_mut(&connection),
            self.workers.get_mut(&worker),
        ) else {
            debug_assert!(
                false,
                "offer of {connection:?} to {worker:?}: no such thing"
            );
            return;
        };
        offered.state = State::Offered { worker, since: now };
        to.set_word(
            connection,
            if offered.steals > 0 {
                Word::Awaited
            } else {
                Word::Offered
            },
        );
        to.counters.offered += 1;
        self.overdue.remove(&connection);
        self.clock.push_back((now, connection));
        self.touched.push(worker);
        actions.push(Action::Offer { worker, connection });
    }

    fn taken(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.overdue.remove(&connection);
        let Some(owner) = self.workers.get_mut(&worker) else {
            return;
        };
        owner.counters.taken += 1;
        owner.set_word(connection, Word::Taken);
        self.touched.push(worker);
        if owner.standing == Standing::Dead {
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

    fn refused(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
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

    fn revoked(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let (Some(loser), Some(revoked)) = (
            self.workers.get_mut(&worker),
            self.connections.get_mut(&connection),
        ) else {
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
            self.touched.push(worker);
        }
        match then {
            Then::Enqueue => self.enqueue(connection, actions),
            Then::Hold => self.hold(connection, now, actions),
            Then::GiveTo(thief) => self.give(connection, thief, now, actions),
        }
    }

    /// A revoked copy is no more.
    fn release(&mut self, worker: WorkerId, connection: ConnectionId, actions: &mut Vec<Action>) {
        self.free_word(worker, connection);
        if let Some(released) = self.connections.get_mut(&connection) {
            released.copies = released.copies.saturating_sub(1);
            self.close_if_safe(connection, actions);
        }
    }

    /// Closes the master's copy of a connection that has a trusted owner and nothing but this owner.
    fn close_if_safe(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        if let Some(Connection {
            state: State::Taken { by },
            copies: 0,
            ..
        }) = self.connections.get(&connection)
        {
            let owner = *by;
            if self
                .workers
                .get(&owner)
                .is_some_and(|worker| worker.standing != Standing::Broken)
            {
                self.connections.remove(&connection);
                self.free_word(owner, connection);
                actions.push(Action::Close { connection });
                actions.push(Action::FreeWord {
                    worker: owner,
                    connection,
                });
            }
        }
    }

    fn shut_down(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        if self.connections.remove(&connection).is_some() {
            self.overdue.remove(&connection);
            actions.push(Action::Shutdown { connection });
        }
    }

    /// Puts a connection back to where its age belongs: the front of the queue.
    fn enqueue(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        self.overdue.remove(&connection);
        let Some(returned) = self.connections.get_mut(&connection) else {
            return;
        };
        match self.lanes.get_mut(&returned.listener) {
            Some(lane) => {
                returned.state = State::Queued;
                lane.enqueue(connection);
                self.stirred.push(returned.listener);
            }
            None => self.shut_down(connection, actions),
        }
    }

    /// Lets the others of the queue pass.
    fn hold(&mut self, connection: ConnectionId, now: Instant, actions: &mut Vec<Action>) {
        self.overdue.remove(&connection);
        let Some(held) = self.connections.get_mut(&connection) else {
            return;
        };
        match self.lanes.get_mut(&held.listener) {
            Some(lane) => {
                held.state = State::Held;
                lane.held += 1;
                self.stirred.push(held.listener);
                self.held.push_back((now + HOLD, connection));
            }
            None => self.shut_down(connection, actions),
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
            self.shut_down(connection, actions);
        }
    }

    fn unhold(&mut self, connection: ConnectionId) {
        self.held.retain(|(_, other)| *other != connection);
        if let Some(held) = self.connections.get(&connection)
            && let Some(lane) = self.lanes.get_mut(&held.listener)
        {
            lane.held -= 1;
            self.stirred.push(held.listener);
        }
    }

    /// Offers what is held back to a worker that has just shown itself willing.
    fn serve_held(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let mut passed = 0;
        while let Some(&(_, connection)) = self.held.get(passed) {
            let Some(willing) = self.workers.get(&worker) else {
                return;
            };
            if !willing.can_be_offered(&self.settings) {
                return;
            }
            let fits = self.connections.get(&connection).is_some_and(|held| {
                willing.fits(connection, held.listener) && !held.refused_by.contains(&worker)
            });
            if fits {
                self.unhold(connection);
                self.offer(connection, worker, now, actions);
            } else {
                passed += 1;
            }
        }
    }
}

/// Bookkeeping.
impl Scheduler {
    fn word(&self, worker: WorkerId, connection: ConnectionId) -> Option<Word> {
        self.workers
            .get(&worker)
            .and_then(|worker| worker.word(connection))
    }

    fn free_word(&mut self, worker: WorkerId, connection: ConnectionId) {
        if let Some(holder) = self.workers.get_mut(&worker) {
            holder.free_word(connection);
            self.touched.push(worker);
            self.seat(worker);
        }
    }

    fn offered_since(&self, connection: ConnectionId) -> Option<Instant> {
        match self.connections.get(&connection)?.state {
            State::Offered { since, .. } => Some(since),
            _ => None,
        }
    }

    /// Gives a worker its place in the rotations again that it left.
    fn seat(&mut self, worker: WorkerId) {
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

    fn retire(&mut self, worker: WorkerId, to: Standing, actions: &mut Vec<Action>) {
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
                lane.rotation.retain(|other| *other != worker);
            }
        }
        let untaken: Vec<_> = retired
            .words()
            .filter(|(_, word)| matches!(word, Word::Offered | Word::Awaited))
            .collect();
        self.recount_all(worker);
        for (connection, _) in untaken {
            self.revoke(worker, connection, Then::Enqueue, actions);
        }
    }

    fn revoke(
        &mut self,
        worker: WorkerId,
        connection: ConnectionId,
        then: Then,
        actions: &mut Vec<Action>,
    ) {
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

    fn forget_if_settled(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        if let Some(dead) = self.workers.get(&worker)
            && dead.standing == Standing::Dead
            && !dead.has_words()
        {
            self.workers.remove(&worker);
            actions.push(Action::Forget { worker });
        }
    }

    fn recount(&mut self, listener: ListenerId) {
        let users = self
            .workers
            .values()
            .filter(|worker| worker.is_active() && worker.seats.contains_key(&listener))
            .count();
        if let Some(lane) = self.lanes.get_mut(&listener) {
            lane.users = users;
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

    /// The room of the queue: then whatever becomes of the workers, the queue keeps its bound. If there is none, but a
    /// worker has credit, one connection for that.
    fn room_of(&self, lane: &Lane) -> usize {
        if lane.users == 0 {
            return 0;
        }
        let has_credit = |id| {
            self.workers
                .get(id)
                .is_some_and(|worker| worker.can_be_offered(&self.settings))
        };
        match self.settings.queue.saturating_sub(lane.waiting()) {
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
        while lane.waiting() >= self.settings.queue
            && let Some(next) = lane.rotation.front()
            && let Some(worker) = self.workers.get_mut(next)
            && !worker.can_be_offered(&self.settings)
        {
            worker.seats.insert(listener, Seat::Out);
            self.touched.push(*next);
            lane.rotation.pop_front();
        }
    }

    fn set_gate(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        self.skip_spent(listener);
        let Some(lane) = self.lanes.get(&listener) else {
            return;
        };
        let open = matches!(self.intake, Intake::Open { .. }) && self.room_of(lane) > 0;
        let gate = match lane.gate {
            Gate::Accepting if !open => Gate::Stopped,
            // Not before the queue is half empty, or each connection would cost an order to start and one to stop.
            Gate::Stopped if open && lane.waiting() <= self.settings.queue / 2 => Gate::Accepting,
            unchanged => unchanged,
        };
        if gate != lane.gate {
            actions.push(match gate {
                Gate::Accepting => Action::StartAccepting { listener },
                Gate::Stopped => Action::StopAccepting { listener },
            });
        }
        if let Some(lane) = self.lanes.get_mut(&listener) {
            lane.gate = gate;
        }
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
