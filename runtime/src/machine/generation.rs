//! What the master as a whole is about to do: start, serve, reload (see `reload`), stop.
//!
//! ```text
//! New --> First --> Serving <--> Reloading         a reload, to its commit or rollback
//!           |          |             |
//!           |          +-> Settling <+        a graceful stop lets the queues run empty
//!           |                 |
//!           +-----> Ending <--+--> Finished   every worker has gone
//! ```
//!
//! Invariants: at most one reload is under way, and at most one waits behind it.

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, WorkerId};

use super::reload::Reload;
use super::{Action, Failure, KillReason, Machine, Outcome, Phases, Ticket, WorkerState};

/// What the master is about.
#[derive(Debug)]
pub(super) enum Course {
    /// When nothing has been started yet.
    New,
    /// When the first generation starts. Waits for all its workers.
    First,
    /// When one generation is active.
    Serving { active: Generation },
    /// When the next generation is about to replace the active one.
    Reloading(Reload),
    /// When the master stops: waits until nothing is queued or untaken any more, at the latest until then.
    Settling { until: Instant },
    /// When every worker drains or was killed. Waits for the last one to go.
    Ending { failure: Option<Failure> },
    /// When the shell has been told to finish.
    Finished,
}

/// Where a generation is in its life, each since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GenerationState {
    /// When its workers are started. Those that are ready wait, but for the slots that a rolling reload has replaced.
    Starting { since: Instant },
    /// When it serves, and the one before it waits to be resumed until then.
    Probation { since: Instant, until: Instant },
    /// When it serves.
    Active { since: Instant },
    /// When the next one is on probation: it takes nothing, keeps what it has, and can be resumed at once.
    Paused { since: Instant },
    /// When it was replaced, or rolled back after it had served, or the master stops: its workers drain.
    Draining { since: Instant },
    /// When it could not start: its workers were killed.
    Failed { since: Instant },
}

impl GenerationState {
    /// When the generation came into this state.
    pub(crate) fn since(self) -> Instant {
        match self {
            Self::Starting { since }
            | Self::Probation { since, .. }
            | Self::Active { since }
            | Self::Paused { since }
            | Self::Draining { since }
            | Self::Failed { since } => since,
        }
    }
}

/// How long a graceful stop lets queued and offered connections find their worker: many times `steal_after`, and yet no
/// time that anybody who stops a server minds.
pub(super) const SETTLE: Duration = Duration::from_secs(1);

/// What is asked of the master.
impl Machine {
    pub(super) fn started(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Course::New = self.course {
            let generation = self.next_generation();
            self.course = Course::First;
            self.announce(generation, now);
            self.supervision.agree(generation, self.settings);
            self.supervision.add_generation(generation, now);
            self.fill_slots(now, actions);
            self.serve_first(now, actions);
        }
    }

    pub(super) fn reload_asked(&mut self, ticket: Ticket, actions: &mut Vec<Action>) {
        self.pending.push(ticket);
        if self.is_stopping() {
            self.end_pending(&Failure::Stopped, actions);
        }
    }

    /// The reload under way is rolled back, else the one that waits is given up.
    pub(super) fn rollback_asked(&mut self, ticket: Ticket, now: Instant, actions: &mut Vec<Action>) {
        let failure = Failure::Asked { ticket };
        match self.course {
            Course::Reloading(_) => self.roll_back(failure, now, actions),
            _ if !self.pending.is_empty() => self.end_pending(&failure, actions),
            _ => actions.push(Action::NothingToRollBack { ticket }),
        }
    }

    pub(super) fn stop_asked(&mut self, at_once: bool, now: Instant, actions: &mut Vec<Action>) {
        let was_serving = matches!(self.course, Course::Serving { .. } | Course::Reloading(_));
        if let Course::Reloading(_) = self.course {
            self.roll_back(Failure::Stopped, now, actions);
        }
        self.end_pending(&Failure::Stopped, actions);
        if was_serving {
            self.course = Course::Settling { until: now + SETTLE };
        }
        self.end_clearing(now, actions);
        if at_once || matches!(self.course, Course::New | Course::First) {
            let failure = match &mut self.course {
                Course::Ending { failure } => failure.take(),
                _ => None,
            };
            actions.push(Action::StopBegan { at_once: true });
            self.end_at_once(failure, now, actions);
        } else if was_serving {
            actions.push(Action::StopBegan { at_once: false });
            self.scheduler.close_intake();
            for generation in self.generations.keys() {
                self.supervision.vacate(*generation);
            }
            self.kill_where(|state| matches!(state, WorkerState::Starting { .. }), KillReason::NotNeeded, now, actions);
        }
    }

    /// What the end of an event makes possible on the way to the end of the master. Returns whether anything was.
    pub(super) fn progress(&mut self, now: Instant, actions: &mut Vec<Action>) -> bool {
        match &mut self.course {
            Course::Settling { until } if *until <= now || self.scheduler.is_settled() => {
                self.end_gracefully(now, actions);
                true
            }
            Course::Ending { failure } if self.supervision.is_empty() && self.scheduler.is_empty() => {
                actions.push(Action::Finish { failure: failure.take() });
                self.course = Course::Finished;
                true
            }
            _ => false,
        }
    }

    /// When `progress` must be looked at, if nothing happens before.
    pub(super) fn settling_until(&self) -> Option<Instant> {
        match self.course {
            Course::Settling { until } => Some(until),
            _ => None,
        }
    }
}

/// The first generation, and the end of every one.
impl Machine {
    /// The number that the next generation will have.
    pub(crate) fn next_generation(&self) -> Generation {
        Generation(self.last_generation + 1)
    }

    /// A number and a state for a generation that is about to start.
    pub(super) fn announce(&mut self, generation: Generation, now: Instant) {
        self.last_generation = generation.0;
        self.generations.insert(generation, GenerationState::Starting { since: now });
    }

    /// Tells those who wait for a reload that will never begin.
    pub(super) fn end_pending(&mut self, failure: &Failure, actions: &mut Vec<Action>) {
        self.delay = None;
        if !self.pending.is_empty() {
            actions.push(Action::ReloadEnded {
                generation: self.next_generation(),
                tickets: std::mem::take(&mut self.pending),
                outcome: Outcome::RolledBack(failure.clone()),
                phases: Phases::default(),
                retired: None,
            });
        }
    }

    /// The first generation serves if all its workers are ready.
    pub(super) fn serve_first(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let first = Generation(self.last_generation);
        if matches!(self.course, Course::First) && self.supervision.all_ready(first) {
            self.course = Course::Serving { active: first };
            self.generations.insert(first, GenerationState::Active { since: now });
            for worker in self.supervision.of_generation(first) {
                self.activate(worker, now, actions);
            }
            self.warn_unclaimed(first, actions);
        }
    }

    /// The generation serves, and has asked for all the listeners that it wants.
    pub(super) fn warn_unclaimed(&self, generation: Generation, actions: &mut Vec<Action>) {
        actions.extend(self.listeners.unclaimed_by(generation).map(|listener| Action::WarnUnclaimed { listener }));
    }

    /// A worker of a generation that is starting or on probation cannot be used: so the generation cannot either.
    pub(super) fn fail(&mut self, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        match self.course {
            Course::Reloading(_) => self.roll_back(failure, now, actions),
            Course::First => {
                self.retire(Generation(self.last_generation), now, actions);
                self.end_pending(&Failure::Stopped, actions);
                self.end_at_once(Some(failure), now, actions);
            }
            _ => {}
        }
    }

    /// The generation serves no longer: its workers that ever did drain, the others are killed.
    pub(super) fn retire(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        let has_served = !matches!(self.generation_state(generation), Some(GenerationState::Starting { .. }))
            || self.supervision.of_generation(generation).into_iter().any(|id| self.drains_at_retirement(id));
        let state = match has_served {
            true => GenerationState::Draining { since: now },
            false => GenerationState::Failed { since: now },
        };
        self.generations.insert(generation, state);
        self.supervision.vacate(generation);
        self.listeners.drop_claims(generation);
        let why = if has_served { KillReason::NotNeeded } else { KillReason::RolledBack };
        for id in self.supervision.of_generation(generation) {
            match self.supervision.get(id).map(|worker| worker.state) {
                Some(WorkerState::Starting { .. } | WorkerState::Ready { .. }) => self.kill(id, why, now, actions),
                Some(WorkerState::Silent { .. }) if !has_served => self.kill(id, why, now, actions),
                Some(_) if self.drains_at_retirement(id) => self.drain(id, now, actions),
                _ => {}
            }
        }
        self.drop_generation_if_gone(generation, now, actions);
    }

    fn drains_at_retirement(&self, id: WorkerId) -> bool {
        matches!(
            self.supervision.get(id).map(|worker| worker.state),
            Some(WorkerState::Active { .. } | WorkerState::Leaving { .. } | WorkerState::Paused { .. })
        )
    }

    pub(super) fn drop_generation_if_gone(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        let Some(state) = self.generation_state(generation) else {
            return;
        };
        let retired = matches!(state, GenerationState::Draining { .. } | GenerationState::Failed { .. });
        if retired && self.supervision.of_generation(generation).is_empty() {
            self.generations.remove(&generation);
            self.supervision.remove_generation(generation);
            if let GenerationState::Draining { since } = state {
                let after = now.saturating_duration_since(since);
                actions.push(Action::GenerationDrained { generation, after });
            }
        }
    }

    /// Everything that could be served has been: the port closes, and the workers finish what they have.
    fn end_gracefully(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.course = Course::Ending { failure: None };
        self.close_all(actions);
        let generations: Vec<_> = self.generations().collect();
        for (generation, state) in generations {
            if let GenerationState::Active { .. } = state {
                self.retire(generation, now, actions);
            }
        }
    }

    fn end_at_once(&mut self, failure: Option<Failure>, now: Instant, actions: &mut Vec<Action>) {
        self.course = Course::Ending { failure };
        self.scheduler.close_intake();
        self.close_all(actions);
        for (generation, state) in &mut self.generations {
            self.supervision.vacate(*generation);
            *state = match *state {
                GenerationState::Starting { .. } => GenerationState::Failed { since: now },
                GenerationState::Probation { .. } | GenerationState::Active { .. } | GenerationState::Paused { .. } => {
                    GenerationState::Draining { since: now }
                }
                unchanged => unchanged,
            };
        }
        self.kill_where(|_| true, KillReason::StoppedAtOnce, now, actions);
    }
}

/// Steps that concern several machines.
impl Machine {
    pub(super) fn generation_state(&self, generation: Generation) -> Option<GenerationState> {
        self.generations.get(&generation).copied()
    }

    pub(super) fn close_unclaimed(&mut self, actions: &mut Vec<Action>) {
        for listener in
            self.listeners.take_unclaimed(self.clearing.as_ref().map_or(&[], |clearing| clearing.listeners()))
        {
            self.close(listener, actions);
        }
    }

    fn close_all(&mut self, actions: &mut Vec<Action>) {
        for listener in self.listeners.take_all() {
            self.close(listener, actions);
        }
    }

    pub(super) fn close(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        actions.push(Action::CloseListener { listener });
        self.scheduler.close(listener, actions);
        self.split.close(listener);
    }
}
