//! The reload transaction, activation, drain and stop: what the master as a whole is about to do.
//!
//! ```text
//! New --> First --> Serving <--> Reloading
//!           |          |             |
//!           |          +-> Settling <+        a graceful stop lets the queues run empty
//!           |                 |
//!           +-----> Ending <--+--> Finished   every worker has gone
//! ```
//!
//! Invariants: at most one generation is starting, and at most one reload waits behind it. The active generation is not
//! touched before every worker of the next one is ready, and then the next one is activated first.

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId};

use super::{Action, Failure, Machine, Outcome, Phases, Ticket, WorkerState};

/// What the master is about.
#[derive(Debug)]
pub(super) enum Course {
    /// When nothing has been started yet.
    New,
    /// When the first generation starts. Waits for all its workers.
    First,
    /// When one generation is active.
    Serving { active: Generation },
    /// When the next generation starts beside the active one. Waits for all its workers.
    Reloading { active: Generation, next: Generation, since: Instant, tickets: Vec<Ticket> },
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
    /// When its workers were started.
    Starting { since: Instant },
    /// When it was activated.
    Active { since: Instant },
    /// When it was replaced, or the master stops: its workers drain.
    Draining { since: Instant },
    /// When it could not start: its workers were killed.
    Failed { since: Instant },
}

impl GenerationState {
    /// When the generation came into this state.
    pub(crate) fn since(self) -> Instant {
        match self {
            Self::Starting { since } | Self::Active { since } | Self::Draining { since } | Self::Failed { since } => {
                since
            }
        }
    }
}

/// How long a graceful stop lets queued and offered connections find their worker: many times `steal_after`, and yet no
/// time that anybody who stops a server minds.
const SETTLE: Duration = Duration::from_secs(1);

/// What is asked of the master.
impl Machine {
    pub(super) fn started(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Course::New = self.course {
            let generation = self.next_generation();
            self.course = Course::First;
            self.start_generation(generation, now, actions);
        }
    }

    pub(super) fn reload_asked(&mut self, ticket: Ticket, now: Instant, actions: &mut Vec<Action>) {
        self.pending.push(ticket);
        match self.course {
            Course::Serving { .. } => self.begin_pending(now, actions),
            Course::Settling { .. } | Course::Ending { .. } | Course::Finished => self.refuse_pending(actions),
            Course::New | Course::First | Course::Reloading { .. } => {}
        }
    }

    pub(super) fn stop_asked(&mut self, at_once: bool, now: Instant, actions: &mut Vec<Action>) {
        let was_serving = matches!(self.course, Course::Serving { .. } | Course::Reloading { .. });
        if let Course::Reloading { next, .. } = self.course {
            self.fail(next, Failure::Stopped, now, actions);
        }
        self.refuse_pending(actions);
        if at_once || matches!(self.course, Course::New | Course::First) {
            let failure = match &mut self.course {
                Course::Ending { failure } => failure.take(),
                _ => None,
            };
            actions.push(Action::StopBegan { at_once: true });
            self.end_at_once(failure, now, actions);
        } else if was_serving {
            actions.push(Action::StopBegan { at_once: false });
            self.course = Course::Settling { until: now + SETTLE };
            self.scheduler.close_intake();
            for generation in self.generations.keys() {
                self.supervision.vacate(*generation);
            }
            self.kill_where(|state| matches!(state, WorkerState::Starting { .. }), now, actions);
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

/// The transaction.
impl Machine {
    fn next_generation(&self) -> Generation {
        Generation(self.last_generation + 1)
    }

    fn start_generation(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        self.last_generation = generation.0;
        self.generations.insert(generation, GenerationState::Starting { since: now });
        self.supervision.add_generation(generation, now);
        self.fill_slots(now, actions);
        if self.supervision.all_ready(generation) {
            self.commit(generation, now, actions);
        }
    }

    fn begin_pending(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let (Course::Serving { active }, false) = (&self.course, self.pending.is_empty()) {
            let (active, next) = (*active, self.next_generation());
            let tickets = std::mem::take(&mut self.pending);
            actions.push(Action::ReloadStarted { generation: next, tickets: tickets.clone() });
            self.course = Course::Reloading { active, next, since: now, tickets };
            self.start_generation(next, now, actions);
        }
    }

    /// Tells those who wait for a reload that will never begin.
    fn refuse_pending(&mut self, actions: &mut Vec<Action>) {
        if !self.pending.is_empty() {
            actions.push(Action::ReloadEnded {
                generation: self.next_generation(),
                tickets: std::mem::take(&mut self.pending),
                outcome: Outcome::RolledBack(Failure::Stopped),
                phases: Phases::default(),
            });
        }
    }

    pub(super) fn commit(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.course, Course::Serving { active: generation });
        self.generations.insert(generation, GenerationState::Active { since: now });
        for worker in self.supervision.of_generation(generation) {
            self.activate(worker, now, actions);
        }
        actions.extend(self.listeners.unclaimed_by(generation).map(|listener| Action::WarnUnclaimed { listener }));
        if let Course::Reloading { active: old, since, tickets, .. } = before {
            self.retire(old, now, actions);
            self.close_unclaimed(actions);
            let phases = Phases { starting: now.saturating_duration_since(since) };
            actions.push(Action::ReloadEnded { generation, tickets, outcome: Outcome::Committed, phases });
        }
        self.begin_pending(now, actions);
    }

    /// The generation was replaced: those that serve drain, those that never served are killed.
    fn retire(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        self.generations.insert(generation, GenerationState::Draining { since: now });
        self.supervision.vacate(generation);
        self.listeners.drop_claims(generation);
        for id in self.supervision.of_generation(generation) {
            match self.supervision.get(id).map(|worker| worker.state) {
                Some(WorkerState::Starting { .. } | WorkerState::Ready { .. }) => self.kill(id, now, actions),
                Some(WorkerState::Active { .. } | WorkerState::Paused { .. } | WorkerState::Leaving { .. }) => {
                    self.drain(id, now, actions);
                }
                _ => {}
            }
        }
        self.drop_generation_if_gone(generation);
    }

    /// A starting generation cannot start.
    pub(super) fn fail(&mut self, generation: Generation, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        self.generations.insert(generation, GenerationState::Failed { since: now });
        self.supervision.vacate(generation);
        self.listeners.drop_claims(generation);
        let killed = self.supervision.of_generation(generation);
        for worker in killed {
            self.kill(worker, now, actions);
        }
        self.drop_generation_if_gone(generation);
        match std::mem::replace(&mut self.course, Course::Finished) {
            Course::Reloading { active, since, tickets, .. } => {
                let stopping = failure == Failure::Stopped;
                let phases = Phases { starting: now.saturating_duration_since(since) };
                let outcome = Outcome::RolledBack(failure);
                self.course = Course::Serving { active };
                self.close_unclaimed(actions);
                actions.push(Action::ReloadEnded { generation, tickets, outcome, phases });
                if !stopping {
                    self.begin_pending(now, actions);
                }
            }
            Course::First => {
                self.refuse_pending(actions);
                self.end_at_once(Some(failure), now, actions);
            }
            other => self.course = other,
        }
    }

    pub(super) fn drop_generation_if_gone(&mut self, generation: Generation) {
        let retired = matches!(
            self.generation_state(generation),
            Some(GenerationState::Draining { .. } | GenerationState::Failed { .. })
        );
        if retired && self.supervision.of_generation(generation).is_empty() {
            self.generations.remove(&generation);
            self.supervision.remove_generation(generation);
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
                GenerationState::Active { .. } => GenerationState::Draining { since: now },
                unchanged => unchanged,
            };
        }
        self.kill_where(|_| true, now, actions);
    }
}

/// Steps that concern several machines.
impl Machine {
    pub(super) fn generation_state(&self, generation: Generation) -> Option<GenerationState> {
        self.generations.get(&generation).copied()
    }

    pub(super) fn close_unclaimed(&mut self, actions: &mut Vec<Action>) {
        for listener in self.listeners.take_unclaimed() {
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
    }
}
