//! Which worker hangs: it was asked for a beat several times in a row and gave none.
//!
//! A look every quarter of `hang_timeout` asks each watched worker. What counts is unanswered looks and not time, for a
//! master or a machine that stood still must not condemn anybody.
//!
//! Watched are the workers that were ready and do not drain yet: a start and a drain have deadlines of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;

use super::{Action, Failure, Machine, WorkerState};

/// How many looks in a row a worker may leave unanswered.
const LOOKS: u32 = 4;

/// How long a hung worker may take to die of its abort, which may write a core, before it is killed.
pub(super) const ABORT_GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Watchdog {
    interval: Option<Duration>,
    next: Option<Instant>,
    /// How many looks in a row each worker has left unanswered.
    unanswered: BTreeMap<WorkerId, u32>,
}

impl Watchdog {
    pub(super) fn new(hang_timeout: Option<Duration>) -> Self {
        let interval = hang_timeout.map(|timeout| (timeout / LOOKS).max(Duration::from_millis(1)));
        Self { interval, next: None, unanswered: BTreeMap::new() }
    }

    /// The first look comes after one interval.
    pub(super) fn start(&mut self, now: Instant) {
        self.next = self.interval.map(|interval| now + interval);
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The worker showed that its runtime turns.
    pub(super) fn beat(&mut self, worker: WorkerId) {
        self.unanswered.remove(&worker);
    }

    /// Looks at those who are watched, if it is time: asks them for a beat, and names those that hang.
    fn look(&mut self, watched: &[WorkerId], now: Instant, actions: &mut Vec<Action>) -> Vec<WorkerId> {
        let (Some(interval), Some(next)) = (self.interval, self.next) else { return Vec::new() };
        if now < next {
            return Vec::new();
        }
        self.next = Some(now + interval);
        self.unanswered.retain(|worker, _| watched.contains(worker));
        let mut hung = Vec::new();
        for &worker in watched {
            let unanswered = self.unanswered.entry(worker).or_insert(0);
            if *unanswered >= LOOKS {
                hung.push(worker);
            } else {
                *unanswered += 1;
                actions.push(Action::AskBeat { worker });
            }
        }
        hung
    }
}

impl Machine {
    /// Lets the watchdog look, if it is time, and ends the workers that hang.
    pub(super) fn watch(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let is_watched = |state| {
            matches!(
                state,
                WorkerState::Ready { .. }
                    | WorkerState::Active { .. }
                    | WorkerState::Paused { .. }
                    | WorkerState::Leaving { .. }
            )
        };
        let watched: Vec<_> =
            self.supervision.workers().filter(|(_, worker)| is_watched(worker.state)).map(|(id, _)| id).collect();
        for id in self.watchdog.look(&watched, now, actions) {
            let Some(worker) = self.supervision.get(id) else { continue };
            if !is_watched(worker.state) {
                continue;
            }
            let on_trial = self.is_on_trial(worker.generation);
            // One that never served is killed with its generation.
            if !on_trial || !matches!(worker.state, WorkerState::Ready { .. }) {
                self.scheduler.forsake(id);
                self.scheduler.stop(id, actions);
                self.supervision.abort(id, now, actions);
            }
            if on_trial {
                self.fail(Failure::Hung { slot: worker.slot, worker: id }, now, actions);
            }
        }
    }
}
