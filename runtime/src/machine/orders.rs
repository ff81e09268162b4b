//! What an operator orders beside reloads and stops: how many workers there are, whether they take connections, the end of
//! one of them. Each order may be given again at any time, and then changes nothing.

use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;

use super::generation::Course;
use super::reload::Duty;
use super::{Action, KillReason, Machine, WorkerState};

/// How many workers are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    To(u32),
    Up(u32),
    Down(u32),
}

/// The highest weight of a slot.
pub(crate) const MAX_WEIGHT: u32 = 100;

/// Whether the master's workers may take connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Open,
    /// When they stay warm, and clients wait.
    Paused,
}

/// How long a worker that an operator wants killed may hand over and finish what it has: as long as a hung one has between
/// `ABRT` and `KILL`. Who cannot wait asks once more.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(5);

impl Machine {
    /// Somebody wants the end of this worker. One that serves hands over first what it can.
    pub(super) fn kill_asked(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        match self.supervision.get(id).map(|worker| worker.state) {
            Some(WorkerState::Active { .. } | WorkerState::Paused { .. } | WorkerState::Leaving { .. })
                if !self.is_stopping() =>
            {
                self.supervision.dismiss(id, now, actions);
                self.scheduler.stop(id, actions);
                self.supervision.drain(id, true, KILL_GRACE, now, actions);
                self.fill_slots(now, actions);
            }
            _ => self.kill(id, KillReason::Asked, now, actions),
        }
    }

    /// Notes the wanted number of slots; [`Self::adjust`] makes it so.
    pub(super) fn scale_asked(&mut self, to: Scale) {
        let now = self.supervision.slots().count();
        let wanted = match to {
            Scale::To(count) => count,
            Scale::Up(more) => now.saturating_add(more),
            Scale::Down(less) => now.saturating_sub(less),
        };
        self.supervision.slots_mut().set_count(wanted.clamp(1, self.settings.care.most_workers.max(1)));
    }

    /// Gives the active generation as many slots as are wanted, unless a reload is under way: the new generation may have
    /// been started before the order, and is adjusted when it has been committed.
    pub(super) fn adjust(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Course::Serving { active } = self.course else { return };
        self.supervision.slots_mut().open(active, now);
        self.fill_slots(now, actions);
        for slot in self.supervision.slots_mut().vacate_surplus(active) {
            for id in self.supervision.of_slot(active, slot) {
                self.retire_worker(id, now, actions);
            }
            self.listeners.limit_claims((active, slot), &[]);
            self.close_unclaimed(actions);
        }
    }

    /// Nobody needs this worker any more: it drains if it ever served.
    fn retire_worker(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        match self.supervision.get(id).map(|worker| worker.state) {
            Some(WorkerState::Starting { .. } | WorkerState::Ready { .. }) => {
                self.kill(id, KillReason::NotNeeded, now, actions);
            }
            Some(WorkerState::Active { .. } | WorkerState::Paused { .. } | WorkerState::Leaving { .. }) => {
                self.drain(id, now, actions);
            }
            _ => {}
        }
    }

    /// Whoever serves stops taking connections and stays warm. What comes after it comes up paused.
    pub(super) fn pause_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.flow = Flow::Paused;
        for id in self.all_workers() {
            self.pause(id, now, actions);
        }
    }

    /// Whoever would serve takes connections again; not those that wait for a reload to be rolled back.
    pub(super) fn resume_all(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.flow = Flow::Open;
        for id in self.all_workers() {
            if let Some(worker) = self.supervision.get(id)
                && matches!(worker.state, WorkerState::Paused { .. })
                && self.duty(worker.generation, worker.slot) == Duty::Serve
            {
                self.activate(id, now, actions);
            }
        }
    }

    fn all_workers(&self) -> Vec<WorkerId> {
        self.supervision.workers().map(|(id, _)| id).collect()
    }
}
