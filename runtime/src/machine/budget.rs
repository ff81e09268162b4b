//! When a reload may begin beside the generations that still drain.
//!
//! Each generation that drains keeps processes and memory. Their number, their age and their memory have limits; while one
//! of these is reached, a reload waits. It never makes a connection end earlier: the budget is free again when a generation
//! has ended, or at its own deadline, when what is left of it is killed.
//!
//! Invariant: at most `drain_generations` generations have workers that drain.

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, WorkerId};

use super::generation::Course;
use super::{Action, GenerationState, Machine, WorkerState};

/// Why a reload that was asked for does not begin yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delay {
    /// When as many generations drain as may.
    Generations { draining: u32 },
    /// When this one has drained for longer than `drain_age`.
    Age { generation: Generation },
    /// When those that drain hold as much memory as they may, or more.
    Memory { bytes: u64 },
    /// When it is being found out how much memory they hold.
    Measuring,
}

/// How often memory is measured while a reload waits for it.
const MEASURE_EVERY: Duration = Duration::from_secs(1);

/// What is known of the memory of the generations that drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Memory {
    #[default]
    Unknown,
    /// When the shell was told to measure.
    Asked,
    /// What it found then.
    Measured { bytes: u64, at: Instant },
}

impl Machine {
    /// Whether the reload that waits must go on waiting; says so once.
    pub(super) fn is_delayed(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        let delay = self.find_delay(now, actions);
        if let Some(why) = delay
            && why != Delay::Measuring
            && self.delay.is_none_or(|before| before == Delay::Measuring)
        {
            actions.push(Action::ReloadDelayed { why });
        }
        // Measured again and again, it is still the same delay.
        if delay != Some(Delay::Measuring) || self.delay.is_none() {
            self.delay = delay;
        }
        delay.is_some()
    }

    fn find_delay(&mut self, now: Instant, actions: &mut Vec<Action>) -> Option<Delay> {
        let draining = self.draining_generations();
        let Some((oldest, since)) = draining.first().copied() else {
            self.memory = Memory::Unknown;
            return None;
        };
        let count = u32::try_from(draining.len()).unwrap_or(u32::MAX);
        if count >= self.settings.drain_generations.max(1) {
            return Some(Delay::Generations { draining: count });
        }
        if self.settings.drain_age.is_some_and(|age| now.saturating_duration_since(since) >= age) {
            return Some(Delay::Age { generation: oldest });
        }
        let limit = self.settings.drain_memory?;
        match self.memory {
            Memory::Measured { bytes, at } if now.saturating_duration_since(at) < MEASURE_EVERY => {
                (bytes >= limit).then_some(Delay::Memory { bytes })
            }
            Memory::Asked => Some(Delay::Measuring),
            Memory::Unknown | Memory::Measured { .. } => {
                self.memory = Memory::Asked;
                actions.push(Action::MeasureDraining { workers: self.draining_workers() });
                Some(Delay::Measuring)
            }
        }
    }

    pub(super) fn draining_measured(&mut self, bytes: u64, now: Instant) {
        self.memory = Memory::Measured { bytes, at: now };
    }

    /// When a waiting reload must be looked at again, if nothing happens before.
    pub(super) fn budget_deadline(&self) -> Option<Instant> {
        match (&self.course, self.delay, self.memory) {
            (Course::Serving { .. }, Some(Delay::Memory { .. }), Memory::Measured { at, .. }) => {
                Some(at + MEASURE_EVERY)
            }
            _ => None,
        }
    }

    /// The generations on their way out that nobody has killed yet, by age, each since when.
    fn draining_generations(&self) -> Vec<(Generation, Instant)> {
        let workers = self.draining_workers();
        let has_workers = |generation| {
            workers.iter().any(|id| self.supervision.get(*id).is_some_and(|worker| worker.generation == generation))
        };
        let all = self.generations.iter().map(|(generation, state)| (*generation, state.since()));
        all.filter(|(generation, _)| has_workers(*generation)).collect()
    }

    fn draining_workers(&self) -> Vec<WorkerId> {
        let drains = |generation| {
            matches!(
                self.generation_state(generation),
                Some(GenerationState::Draining { .. } | GenerationState::Failed { .. })
            )
        };
        let lives = |state| !matches!(state, WorkerState::Killed { .. });
        let workers = self.supervision.workers();
        workers.filter(|(_, worker)| lives(worker.state) && drains(worker.generation)).map(|(id, _)| id).collect()
    }
}
