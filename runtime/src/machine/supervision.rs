//! The slots, which worker fills each, when a crashed one is started again, and the deadline of every worker.
//!
//! ```text
//! Starting --> Ready --> Active --+--> Leaving --+--> Draining --> Drained --> gone
//!     |          |       |  ^     +--------------+       |            |
//!     |          |       v  |     |                      |            |
//!     |          |      Paused ---+                      |            |
//!     +----------+----------+--------> Killed <----------+------------+
//! ```
//!
//! One that closes its channel before it is told to drain is *silent* until it exits, or for a second, and then killed.
//!
//! A worker fills its slot from its start until it dies, or asks to leave: from then on the slot belongs to its
//! replacement, while the leaver serves on until that is ready.
//!
//! Invariant: a worker is in the table from `Spawn` to `WorkerExited` or `SpawnFailed`, and a slot names only such workers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::{Action, Settings};

/// Where a worker is in its life, each since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// When its process was started. Waits for `WorkerReady`, at the latest by `ready_by`.
    Starting { since: Instant, ready_by: Instant },
    /// When it can serve, and waits for the rest of its generation.
    Ready { since: Instant },
    /// When it takes connections.
    Active { since: Instant },
    /// When it takes nothing, keeps what it has, and can take connections again at once.
    Paused { since: Instant },
    /// When it asked to leave. Takes connections until its replacement is ready, at the latest until `drain_at`.
    Leaving { since: Instant, drain_at: Instant },
    /// When it was told to drain. Waits for its exit, at the latest until `deadline`.
    Draining { since: Instant, deadline: Instant },
    /// When it has nothing left. Waits for its exit, at the latest until `deadline`.
    Drained { since: Instant, deadline: Instant },
    /// When it closed its channel before it was told to drain, most likely because it is exiting. Waits for its exit, at the
    /// latest until `deadline`.
    Silent { since: Instant, deadline: Instant },
    /// When it was killed. Waits for its exit.
    Killed { since: Instant },
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
            | Self::Killed { since } => since,
        }
    }

    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Starting { ready_by: at, .. }
            | Self::Leaving { drain_at: at, .. }
            | Self::Draining { deadline: at, .. }
            | Self::Drained { deadline: at, .. }
            | Self::Silent { deadline: at, .. } => Some(at),
            Self::Ready { .. } | Self::Active { .. } | Self::Paused { .. } | Self::Killed { .. } => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) state: WorkerState,
    started: Instant,
    /// The settings of its generation.
    pub(super) terms: Settings,
}

/// Who fills a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Worker(WorkerId),
    /// When the last one crashed, and the next one is started then.
    Waiting {
        until: Instant,
    },
    /// When nobody is started here any more.
    Vacant,
}

#[derive(Debug)]
struct Place {
    occupant: Occupant,
    restarts: u32,
    /// How many workers in a row did not live for `STEADY`.
    failures: u32,
}

/// How long the second of two workers in a row that did not live for `STEADY` is kept waiting; doubles from then on. The
/// first is replaced at once.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a worker may live on after it closed its channel: a process that exits closes it a moment before its end.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a worker must live for its slot to be trusted again.
const STEADY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Supervision {
    /// What each generation was started with.
    terms: BTreeMap<Generation, Settings>,
    workers: BTreeMap<WorkerId, Worker>,
    places: BTreeMap<(Generation, Slot), Place>,
    last: u64,
}

impl Supervision {
    /// The generation is started with these settings, and keeps them to its end.
    pub(super) fn agree(&mut self, generation: Generation, settings: Settings) {
        self.terms.insert(generation, settings);
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
        self.places.get(&(worker.generation, worker.slot)).map_or(0, |place| place.restarts)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(|worker| worker.state.deadline());
        let places = self.places.values().filter_map(|place| match place.occupant {
            Occupant::Waiting { until } => Some(until),
            Occupant::Worker(_) | Occupant::Vacant => None,
        });
        workers.chain(places).min()
    }

    /// The workers whose deadline has come.
    pub(super) fn due(&self, now: Instant) -> Vec<WorkerId> {
        let due = |worker: &Worker| worker.state.deadline().is_some_and(|at| at <= now);
        self.workers().filter(|(_, worker)| due(worker)).map(|(id, _)| id).collect()
    }

    /// Opens every slot of a new generation, each to be filled at once.
    pub(super) fn add_generation(&mut self, generation: Generation, now: Instant) {
        let workers = self.terms.get(&generation).map_or(0, |terms| terms.workers);
        for slot in (0..workers).map(Slot) {
            self.open(generation, slot, now);
        }
    }

    /// Opens one slot of a generation, to be filled at once.
    pub(super) fn open(&mut self, generation: Generation, slot: Slot, now: Instant) {
        let place = Place { occupant: Occupant::Waiting { until: now }, restarts: 0, failures: 0 };
        self.places.insert((generation, slot), place);
    }

    /// Closes every slot of a generation: nobody is started there any more.
    pub(super) fn vacate(&mut self, generation: Generation) {
        for (_, place) in self.places.iter_mut().filter(|((of, _), _)| *of == generation) {
            place.occupant = Occupant::Vacant;
        }
    }

    pub(super) fn remove_generation(&mut self, generation: Generation) {
        self.places.retain(|(of, _), _| *of != generation);
        self.terms.remove(&generation);
    }

    /// Whether every slot of a generation is filled by a worker that is ready.
    pub(super) fn all_ready(&self, generation: Generation) -> bool {
        self.places.keys().filter(|(of, _)| *of == generation).all(|(_, slot)| self.is_ready(generation, *slot))
    }

    /// Whether a slot is filled by a worker that is ready.
    pub(super) fn is_ready(&self, generation: Generation, slot: Slot) -> bool {
        self.places.get(&(generation, slot)).is_some_and(|place| match place.occupant {
            Occupant::Worker(worker) => {
                matches!(self.get(worker), Some(Worker { state: WorkerState::Ready { .. }, .. }))
            }
            Occupant::Waiting { .. } | Occupant::Vacant => false,
        })
    }

    /// Whether the slot is filled by a worker that has been activated.
    pub(super) fn is_served(&self, generation: Generation, slot: Slot) -> bool {
        self.places.get(&(generation, slot)).is_some_and(|place| match place.occupant {
            Occupant::Worker(worker) => {
                matches!(self.get(worker), Some(Worker { state: WorkerState::Active { .. }, .. }))
            }
            Occupant::Waiting { .. } | Occupant::Vacant => false,
        })
    }

    /// Starts a worker in every slot that has waited long enough, and names them.
    pub(super) fn fill(&mut self, now: Instant, actions: &mut Vec<Action>) -> Vec<WorkerId> {
        let mut started = Vec::new();
        for (&(generation, slot), place) in &mut self.places {
            if let Occupant::Waiting { until } = place.occupant
                && until <= now
                && let Some(&terms) = self.terms.get(&generation)
            {
                self.last += 1;
                let worker = WorkerId(self.last);
                place.occupant = Occupant::Worker(worker);
                let state = WorkerState::Starting { since: now, ready_by: now + terms.ready_timeout };
                self.workers.insert(worker, Worker { slot, generation, state, started: now, terms });
                actions.push(Action::Spawn { worker, slot, generation });
                started.push(worker);
            }
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

    pub(super) fn pause(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.set_state(worker, WorkerState::Paused { since: now });
        actions.push(Action::Pause { worker });
    }

    /// The worker leaves, and its slot waits for a replacement.
    pub(super) fn leave(&mut self, worker: WorkerId, now: Instant) {
        if let Some(Worker { terms, .. }) = self.get(worker) {
            self.set_state(worker, WorkerState::Leaving { since: now, drain_at: now + terms.ready_timeout });
            self.refill_after(worker, now);
        }
    }

    pub(super) fn drain(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Worker { terms, .. }) = self.get(worker) {
            let deadline = now + terms.drain_timeout;
            self.set_state(worker, WorkerState::Draining { since: now, deadline });
            actions.push(Action::Drain { worker, deadline });
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

    pub(super) fn kill(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.set_state(worker, WorkerState::Killed { since: now });
        actions.push(Action::Kill { worker });
    }

    /// Drops a worker that has gone; if it filled a slot, that waits for the next one.
    pub(super) fn gone(&mut self, worker: WorkerId, now: Instant) {
        if let Some(place) = self.refill_after(worker, now) {
            place.restarts = place.restarts.saturating_add(1);
        }
        self.workers.remove(&worker);
    }

    fn set_state(&mut self, worker: WorkerId, state: WorkerState) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.state = state;
        }
    }

    /// Lets the slot that a worker fills wait for the next one; `None` if it fills none any more.
    fn refill_after(&mut self, id: WorkerId, now: Instant) -> Option<&mut Place> {
        let Worker { generation, slot, started, .. } = self.get(id)?;
        let place = self.places.get_mut(&(generation, slot)).filter(|place| place.occupant == Occupant::Worker(id))?;
        if now.saturating_duration_since(started) >= STEADY {
            place.failures = 0;
        }
        place.occupant = Occupant::Waiting { until: now + backoff(place.failures) };
        place.failures = place.failures.saturating_add(1);
        Some(place)
    }
}

/// How long a slot waits after that many failures in a row.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => BACKOFF.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX),
    }
}
