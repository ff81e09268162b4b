//! When a worker has served enough: its memory, its age or its connections reached a limit, and it is replaced by overlap.
//!
//! The new worker is ready before the old one drains, however long that takes. Paused ones wait. At most `recycle_at_once` workers are being
//! replaced at a time, counted until the old one has gone, and none while a reload is under way, which replaces them all.
//!
//! Each worker has limits of its own, within `JITTER` of the settings: workers that were started together are not replaced
//! together.

use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;

use super::generation::Course;
use super::random::Random;
use super::{Action, Machine, WorkerState};

/// How many per cent the limits of a worker differ from the settings, up or down.
const JITTER: u64 = 10;

/// How often the workers are measured, while a limit of memory or connections is set.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// How much a worker may serve, or has served. In the settings `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Bytes of resident memory.
    pub(crate) memory: Option<u64>,
    /// Time from its start.
    pub(crate) age: Option<Duration>,
    /// Connections taken.
    pub(crate) connections: Option<u64>,
}

/// Which limit a worker reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worn {
    Memory { bytes: u64 },
    Age { age: Duration },
    Connections { taken: u64 },
}

/// How far the replacement of one worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wear {
    /// When it has reached none of these limits.
    Fresh(Limits),
    /// When it has, and waits for its turn.
    Worn(Worn),
    /// When its replacement was ordered.
    Replaced,
}

impl Limits {
    /// The limits of one worker.
    pub(super) fn draw(self, random: &mut Random) -> Self {
        let nanos = |age: Duration| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self {
            memory: self.memory.map(|bytes| random.within(JITTER, bytes)),
            age: self.age.map(|age| Duration::from_nanos(random.within(JITTER, nanos(age)))),
            connections: self.connections.map(|count| random.within(JITTER, count)),
        }
    }

    fn are_measured(&self) -> bool {
        self.memory.is_some() || self.connections.is_some()
    }

    fn are_none(&self) -> bool {
        *self == Self::default()
    }
}

/// When the workers are measured next.
#[derive(Debug, Default)]
pub(super) struct Measuring {
    next: Option<Instant>,
}

impl Measuring {
    /// The first time comes after one interval, if anything is measured at all.
    pub(super) fn start(&mut self, limits: Limits, now: Instant) {
        self.next = limits.are_measured().then(|| now + MEASURE_EVERY);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }
}

impl Machine {
    /// The figures of a worker, as the shell has just found them.
    pub(super) fn measured(&mut self, id: WorkerId, memory: Option<u64>, taken: u64) {
        let Some(Wear::Fresh(limits)) = self.supervision.get(id).map(|worker| worker.wear) else { return };
        let reached = |limit: Option<u64>, value: Option<u64>| {
            limit.zip(value).filter(|(limit, value)| value >= limit).map(|(_, value)| value)
        };
        if let Some(bytes) = reached(limits.memory, memory) {
            self.supervision.set_wear(id, Wear::Worn(Worn::Memory { bytes }));
        } else if let Some(taken) = reached(limits.connections, Some(taken)) {
            self.supervision.set_wear(id, Wear::Worn(Worn::Connections { taken }));
        }
    }

    /// Orders the measuring, if it is time, and finds those that are too old.
    pub(super) fn look_for_wear(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let serving: Vec<_> = self.supervision.workers().filter(|(_, worker)| serves(worker.state)).collect();
        if self.measuring.next.is_some_and(|next| next <= now) {
            self.measuring.next = Some(now + MEASURE_EVERY);
            actions.extend(serving.iter().map(|(worker, _)| Action::Measure { worker: *worker }));
        }
        let too_old: Vec<_> = serving
            .iter()
            .filter(|(_, worker)| worker.old_at().is_some_and(|at| at <= now))
            .map(|(id, worker)| (*id, now.saturating_duration_since(worker.started)))
            .collect();
        for (id, age) in too_old {
            self.supervision.set_wear(id, Wear::Worn(Worn::Age { age }));
        }
    }

    /// Replaces the workers that have served enough, as many as may be at a time, the oldest first.
    pub(super) fn recycle(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.settings.care.recycle.are_none() || !matches!(self.course, Course::Serving { .. }) {
            return;
        }
        let at_once = usize::try_from(self.settings.care.recycle_at_once).unwrap_or(usize::MAX);
        let under_way = self.supervision.workers().filter(|(_, worker)| worker.wear == Wear::Replaced).count();
        let worn: Vec<_> = self
            .supervision
            .workers()
            .filter(|(_, worker)| serves(worker.state))
            .filter_map(|(id, worker)| if let Wear::Worn(why) = worker.wear { Some((id, why)) } else { None })
            .take(at_once.saturating_sub(under_way))
            .collect();
        for (worker, why) in &worn {
            self.supervision.replace(*worker, now);
            actions.push(Action::Recycling { worker: *worker, why: *why });
        }
        if !worn.is_empty() {
            self.fill_slots(now, actions);
        }
    }
}

/// Whether a worker in this state can be replaced by overlap.
fn serves(state: WorkerState) -> bool {
    matches!(state, WorkerState::Active { .. })
}
