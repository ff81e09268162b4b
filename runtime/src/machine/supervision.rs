//! The workers, the state and the deadline of each, and how they come and go in their slots.
//!
//! ```text
//! Starting --> Ready --> Active <--> Paused --+--> Leaving --+--> Draining --> Drained --> gone
//!     |          |          |                 +--------------+       |            |
//!     |          |          +--> Hung --+                            |            |
//!     +----------+----------------------+--> Killed <----------------+------------+
//! ```
//!
//! One that closes its channel before it is told to drain is *silent* until it exits, or for a second, and then killed.
//!
//! A worker fills its slot from its start until it dies, asks to leave, or has served enough: from then on the slot belongs
//! to its replacement, while it serves on until that is ready.
//!
//! Invariant: a worker is in the table from `Spawn` to `WorkerExited` or `SpawnFailed`, and a slot names only such workers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::recycling::{Limits, Wear};
use super::slots::Slots;
use super::watchdog::ABORT_GRACE;
use super::{Action, Exit, KillReason, Settings};

/// Where a worker is in its life, each since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// When its process was started. Waits for `WorkerReady`, at the latest by `ready_by`.
    Starting { since: Instant, ready_by: Instant },
    /// When it can serve, and waits for the rest of its generation.
    Ready { since: Instant },
    /// When it takes connections.
    Active { since: Instant },
    /// When it takes nothing, keeps what it has, and can take connections at once.
    Paused { since: Instant },
    /// When it asked to leave, or has served enough. Takes connections until its replacement is ready; if it asked itself, at
    /// the latest until `drain_at`.
    Leaving { since: Instant, drain_at: Option<Instant> },
    /// When it was told to drain. Waits for its exit, at the latest until `deadline`.
    Draining { since: Instant, deadline: Instant },
    /// When it has nothing left. Waits for its exit, at the latest until `deadline`.
    Drained { since: Instant, deadline: Instant },
    /// When it closed its channel before it was told to drain, most likely because it is exiting. Waits for its exit, at the
    /// latest until `deadline`.
    Silent { since: Instant, deadline: Instant },
    /// When it showed no life for too long and was told to abort. Waits for its exit, at the latest until `deadline`.
    Hung { since: Instant, deadline: Instant },
    /// When it was killed. Waits for its exit.
    Killed { since: Instant, why: KillReason },
}

impl WorkerState {
    /// When the worker came into this state.
    pub(crate) fn since(self) -> Instant {
        match self {
            Self::Starting { since, .. }
            | Self::Ready { since }
            | Self::Active { since }
            | Self::Paused { since }
            | Self::Leaving { since, .. }
            | Self::Draining { since, .. }
            | Self::Drained { since, .. }
            | Self::Silent { since, .. }
            | Self::Hung { since, .. }
            | Self::Killed { since, .. } => since,
        }
    }

    /// When something is done about a worker that is still in this state, if ever.
    pub(crate) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Starting { ready_by: at, .. }
            | Self::Draining { deadline: at, .. }
            | Self::Drained { deadline: at, .. }
            | Self::Silent { deadline: at, .. }
            | Self::Hung { deadline: at, .. } => Some(at),
            Self::Leaving { drain_at, .. } => drain_at,
            Self::Ready { .. } | Self::Active { .. } | Self::Paused { .. } | Self::Killed { .. } => None,
        }
    }

    /// Whether a worker that exits in this state does what it was told, and has finished what it had.
    pub(crate) fn ends_well(self, exit: Exit) -> bool {
        matches!(self, Self::Draining { .. } | Self::Drained { .. }) && exit == Exit::Code(0)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) state: WorkerState,
    pub(super) started: Instant,
    /// The settings of its generation.
    pub(super) terms: Settings,
    pub(super) wear: Wear,
    /// Why it is killed if it drains to its deadline.
    pub(super) dies_of: KillReason,
}

impl Worker {
    /// When the worker has served for as long as it may, if that is not known yet.
    pub(super) fn old_at(&self) -> Option<Instant> {
        match self.wear {
            Wear::Fresh(Limits { age: Some(age), .. }) => Some(self.started + age),
            _ => None,
        }
    }
}

/// How long a worker may live on after it closed its channel: a process that exits closes it a moment before its end.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Supervision {
    /// What each generation was started with.
    terms: BTreeMap<Generation, Settings>,
    workers: BTreeMap<WorkerId, Worker>,
    slots: Slots,
    last: u64,
}

impl Supervision {
    pub(super) fn new(settings: Settings) -> Self {
        let slots = Slots::new(settings.workers, settings.care);
        Self { terms: BTreeMap::new(), workers: BTreeMap::new(), slots, last: 0 }
    }

    /// The generation is started with these settings, and keeps them to its end.
    pub(super) fn agree(&mut self, generation: Generation, settings: Settings) {
        self.terms.insert(generation, settings);
    }

    pub(super) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(super) fn slots_mut(&mut self) -> &mut Slots {
        &mut self.slots
    }

    pub(super) fn get(&self, worker: WorkerId) -> Option<Worker> {
        self.workers.get(&worker).copied()
    }

    pub(super) fn workers(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        self.workers.iter().map(|(id, worker)| (*id, worker))
    }

    pub(super) fn of_generation(&self, generation: Generation) -> Vec<WorkerId> {
        self.workers().filter(|(_, worker)| worker.generation == generation).map(|(id, _)| id).collect()
    }

    pub(super) fn of_slot(&self, generation: Generation, slot: Slot) -> Vec<WorkerId> {
        self.workers()
            .filter(|(_, worker)| worker.generation == generation && worker.slot == slot)
            .map(|(id, _)| id)
            .collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    pub(super) fn restarts(&self, worker: &Worker) -> u32 {
        self.slots.restarts(worker.generation, worker.slot)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let states = self.workers.values().filter_map(|worker| worker.state.deadline());
        let ages = self.workers.values().filter_map(|worker| match worker.state {
            WorkerState::Active { .. } => worker.old_at(),
            _ => None,
        });
        states.chain(ages).chain(self.slots.next_deadline()).min()
    }

    /// The workers whose deadline has come.
    pub(super) fn due(&self, now: Instant) -> Vec<WorkerId> {
        let due = |worker: &Worker| worker.state.deadline().is_some_and(|at| at <= now);
        self.workers().filter(|(_, worker)| due(worker)).map(|(id, _)| id).collect()
    }

    /// Opens every slot of a new generation, each to be filled at once.
    pub(super) fn add_generation(&mut self, generation: Generation, now: Instant) {
        self.slots.open(generation, now);
    }

    /// Closes every slot of a generation: nobody is started there any more.
    pub(super) fn vacate(&mut self, generation: Generation) {
        self.slots.vacate(generation);
    }

    pub(super) fn remove_generation(&mut self, generation: Generation) {
        self.slots.remove(generation);
        self.terms.remove(&generation);
    }

    /// Whether every slot of a generation is filled by a worker that is ready.
    pub(super) fn all_ready(&self, generation: Generation) -> bool {
        let is_ready = |worker: Option<WorkerId>| worker.is_some_and(|worker| self.is_ready(worker));
        self.slots.occupants(generation).all(is_ready)
    }

    /// Whether a slot is filled by a worker that is ready.
    pub(super) fn slot_is_ready(&self, generation: Generation, slot: Slot) -> bool {
        self.slots.occupant(generation, slot).is_some_and(|worker| self.is_ready(worker))
    }

    fn is_ready(&self, worker: WorkerId) -> bool {
        matches!(self.get(worker), Some(Worker { state: WorkerState::Ready { .. }, .. }))
    }

    /// Whether the slot is filled by a worker that has been activated, or would be if there was no pause.
    pub(super) fn is_served(&self, generation: Generation, slot: Slot) -> bool {
        self.slots
            .occupant(generation, slot)
            .and_then(|worker| self.get(worker))
            .is_some_and(|worker| matches!(worker.state, WorkerState::Active { .. } | WorkerState::Paused { .. }))
    }

    /// Starts a worker in every slot that has waited long enough, and names them.
    pub(super) fn fill(&mut self, now: Instant, actions: &mut Vec<Action>) -> Vec<WorkerId> {
        let mut started = Vec::new();
        for (generation, slot) in self.slots.due(now) {
            let Some(&terms) = self.terms.get(&generation) else { continue };
            self.last += 1;
            let worker = WorkerId(self.last);
            self.slots.fill((generation, slot), worker, now);
            let state = WorkerState::Starting { since: now, ready_by: now + terms.ready_timeout };
            let wear = Wear::Fresh(terms.care.recycle.draw(self.slots.random()));
            let dies_of = KillReason::DrainTimeout;
            self.workers.insert(worker, Worker { slot, generation, state, started: now, terms, wear, dies_of });
            actions.push(Action::Spawn { worker, slot, generation });
            started.push(worker);
        }
        started
    }

    pub(super) fn ready(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Ready { since: now });
    }

    pub(super) fn activate(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.set_state(worker, WorkerState::Active { since: now });
        actions.push(Action::Activate { worker });
    }

    /// The worker may not take connections for now.
    pub(super) fn pause(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.hold(worker, now);
        actions.push(Action::Pause { worker });
    }

    /// The worker, which takes no connections yet, comes up paused.
    pub(super) fn hold(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Paused { since: now });
    }

    /// The worker leaves, and its slot waits for a replacement.
    pub(super) fn leave(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Worker { terms, .. }) = self.get(worker) {
            let drain_at = Some(now + terms.ready_timeout);
            self.set_state(worker, WorkerState::Leaving { since: now, drain_at });
            self.refill_after(worker, false, now, actions);
        }
    }

    /// Somebody wants the end of the worker: its slot waits for the next one as after a crash.
    pub(super) fn dismiss(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.refill_after(id, true, now, actions);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.dies_of = KillReason::Asked;
        }
    }

    /// The worker has served enough: it leaves once its replacement is ready, and not before.
    pub(super) fn replace(&mut self, id: WorkerId, now: Instant) {
        self.set_state(id, WorkerState::Leaving { since: now, drain_at: None });
        self.set_wear(id, Wear::Replaced);
        if let Some(Worker { generation, slot, .. }) = self.get(id) {
            self.slots.refill_at_once((generation, slot), id, now);
        }
    }

    pub(super) fn set_wear(&mut self, worker: WorkerId, wear: Wear) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.wear = wear;
        }
    }

    /// The worker drains, for no longer than `most`.
    pub(super) fn drain(
        &mut self,
        worker: WorkerId,
        successor: bool,
        most: Duration,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(Worker { terms, .. }) = self.get(worker) {
            let deadline = now + terms.drain_timeout.min(most);
            self.set_state(worker, WorkerState::Draining { since: now, deadline });
            actions.push(Action::Drain { worker, deadline, successor });
        }
    }

    pub(super) fn drained(&mut self, worker: WorkerId, now: Instant) {
        if let Some(Worker { state: WorkerState::Draining { deadline, .. }, .. }) = self.get(worker) {
            self.set_state(worker, WorkerState::Drained { since: now, deadline });
        }
    }

    pub(super) fn silence(&mut self, worker: WorkerId, now: Instant) {
        self.set_state(worker, WorkerState::Silent { since: now, deadline: now + SILENCE });
    }

    /// The worker hangs: it shall die and leave a core.
    pub(super) fn abort(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.set_state(worker, WorkerState::Hung { since: now, deadline: now + ABORT_GRACE });
        actions.push(Action::Abort { worker });
    }

    pub(super) fn kill(&mut self, worker: WorkerId, why: KillReason, now: Instant, actions: &mut Vec<Action>) {
        self.set_state(worker, WorkerState::Killed { since: now, why });
        actions.push(Action::Kill { worker, why });
    }

    /// Drops a worker that has gone; if it filled a slot, that waits for the next one.
    pub(super) fn gone(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.refill_after(worker, true, now, actions);
        self.workers.remove(&worker);
    }

    fn set_state(&mut self, worker: WorkerId, state: WorkerState) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.state = state;
        }
    }

    /// Lets the slot that a worker fills, if it fills one, wait for the next one.
    fn refill_after(&mut self, id: WorkerId, crashed: bool, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Worker { generation, slot, .. }) = self.get(id) {
            self.slots.refill((generation, slot), id, crashed, now, actions);
        }
    }
}
