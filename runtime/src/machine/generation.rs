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

use everport_handoff::id::{Generation, WorkerId};

use super::listeners::Admission;
use super::supervision::WorkerState;
use super::{Action, Exit, Failure, ListenerId, Machine, Outcome, Phases, RequestId, Spread, Ticket};

/// What the master is about.
#[derive(Debug)]
pub(super) enum Course {
    /// When nothing has been started yet.
    New,
    /// When the first generation starts. Waits for all its workers.
    First { generation: Generation },
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
            self.course = Course::First { generation };
            self.start_generation(generation, now, actions);
        }
    }

    pub(super) fn reload_asked(&mut self, ticket: Ticket, now: Instant, actions: &mut Vec<Action>) {
        self.pending.push(ticket);
        match self.course {
            Course::Serving { .. } => self.begin_pending(now, actions),
            Course::Settling { .. } | Course::Ending { .. } | Course::Finished => self.refuse_pending(actions),
            Course::New | Course::First { .. } | Course::Reloading { .. } => {}
        }
    }

    pub(super) fn stop_asked(&mut self, at_once: bool, now: Instant, actions: &mut Vec<Action>) {
        let was_serving = matches!(self.course, Course::Serving { .. } | Course::Reloading { .. });
        if let Course::Reloading { next, .. } = self.course {
            self.fail(next, Failure::Stopped, now, actions);
        }
        self.refuse_pending(actions);
        if at_once || matches!(self.course, Course::New | Course::First { .. }) {
            let failure = match &mut self.course {
                Course::Ending { failure } => failure.take(),
                _ => None,
            };
            self.end_at_once(failure, now, actions);
        } else if was_serving {
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

/// What a worker says, or what becomes of it.
impl Machine {
    pub(super) fn worker_ready(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        let WorkerState::Starting { .. } = worker.state else {
            return;
        };
        match self.generation_state(worker.generation) {
            Some(GenerationState::Starting { .. }) => {
                self.supervision.ready(id, now);
                if self.supervision.all_ready(worker.generation) {
                    self.commit(worker.generation, now, actions);
                }
            }
            Some(GenerationState::Active { .. }) => {
                self.activate(id, now, actions);
                for other in self.supervision.of_slot(worker.generation, worker.slot) {
                    if let Some(WorkerState::Leaving { .. }) = self.supervision.get(other).map(|other| other.state) {
                        self.drain(other, now, actions);
                    }
                }
                self.limit_claims(id, actions);
            }
            // Its kill is on its way.
            Some(GenerationState::Draining { .. } | GenerationState::Failed { .. }) | None => {}
        }
    }

    pub(super) fn worker_leaving(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        match worker.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => {
                let failure = Failure::Left { slot: worker.slot, worker: id };
                self.could_not_start(id, failure, now, actions);
            }
            // A stop drains everybody soon.
            WorkerState::Active { .. } if matches!(self.course, Course::Settling { .. }) => {}
            WorkerState::Active { .. } => {
                self.supervision.leave(id, now);
                self.fill_slots(now, actions);
            }
            WorkerState::Leaving { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Drained { .. }
            | WorkerState::Silent { .. }
            | WorkerState::Killed { .. } => {}
        }
    }

    pub(super) fn worker_incompatible(
        &mut self,
        id: WorkerId,
        reason: String,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Some(worker) = self.supervision.get(id) {
            self.could_not_start(id, Failure::Incompatible { slot: worker.slot, worker: id, reason }, now, actions);
        }
    }

    pub(super) fn worker_broke(&mut self, id: WorkerId, reason: String, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.distrust(id, actions);
            self.could_not_start(id, Failure::Broke { slot: worker.slot, worker: id, reason }, now, actions);
        }
    }

    /// A worker that still serves must not close its channel. Most likely it is exiting, so its exit says more.
    pub(super) fn channel_closed(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        match self.supervision.get(id).map(|worker| worker.state) {
            Some(
                WorkerState::Starting { .. }
                | WorkerState::Ready { .. }
                | WorkerState::Active { .. }
                | WorkerState::Leaving { .. },
            ) => {
                self.scheduler.stop(id, actions);
                self.supervision.silence(id, now);
            }
            _ => {}
        }
    }

    pub(super) fn worker_exited(&mut self, id: WorkerId, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.exited(id, actions);
            self.worker_gone(id, Failure::Exited { slot: worker.slot, worker: id, exit }, now, actions);
        }
    }

    pub(super) fn spawn_failed(&mut self, id: WorkerId, reason: String, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.never_started(id);
            self.worker_gone(id, Failure::SpawnFailed { slot: worker.slot, reason }, now, actions);
        }
    }

    /// Acts on every worker whose deadline has come, and on every slot that has waited long enough.
    pub(super) fn deadlines(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for id in self.supervision.due(now) {
            // Looked up again: what became of one worker may have decided on the next.
            let Some(worker) = self.supervision.get(id) else {
                continue;
            };
            match worker.state {
                WorkerState::Starting { .. } => {
                    let after = self.settings.ready_timeout;
                    let failure = Failure::NotReady { slot: worker.slot, worker: id, after };
                    self.could_not_start(id, failure, now, actions);
                }
                WorkerState::Leaving { .. } => self.drain(id, now, actions),
                WorkerState::Silent { .. } => {
                    let reason = "it closed its channel and lives on".to_owned();
                    let failure = Failure::Broke { slot: worker.slot, worker: id, reason };
                    self.could_not_start(id, failure, now, actions);
                }
                WorkerState::Draining { deadline, .. } | WorkerState::Drained { deadline, .. } if deadline <= now => {
                    self.kill(id, now, actions);
                }
                _ => {}
            }
        }
        self.fill_slots(now, actions);
    }

    pub(super) fn listen_asked(
        &mut self,
        id: WorkerId,
        request: RequestId,
        listener: ListenerId,
        actions: &mut Vec<Action>,
    ) {
        if let Some(worker) = self.supervision.get(id) {
            let counts = matches!(
                self.generation_state(worker.generation),
                Some(GenerationState::Starting { .. } | GenerationState::Active { .. })
            );
            let claimant = counts.then_some((worker.generation, worker.slot));
            match self.listeners.asked(id, listener, claimant) {
                Admission::Granted(spread) => {
                    actions.push(Action::AnswerListen { worker: id, request, listener });
                    if spread == Spread::Offered {
                        self.scheduler.add_use(id, listener);
                    }
                }
                Admission::InUse => actions.push(Action::RefuseListen { worker: id, request, listener }),
                Admission::Unknown => {}
            }
        }
        // Bound for one that is gone, or on its way out.
        self.close_unclaimed(actions);
    }

    pub(super) fn listener_closed(&mut self, id: WorkerId, listener: ListenerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        let slot = (worker.generation, worker.slot);
        let others = self.supervision.of_slot(worker.generation, worker.slot);
        self.listeners.closed(id, listener, slot, &others);
        self.scheduler.remove_use(id, listener);
        self.close_unclaimed(actions);
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

    fn commit(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.course, Course::Serving { active: generation });
        self.generations.insert(generation, GenerationState::Active { since: now });
        for worker in self.supervision.of_generation(generation) {
            self.activate(worker, now, actions);
        }
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
                Some(WorkerState::Active { .. } | WorkerState::Leaving { .. }) => self.drain(id, now, actions),
                _ => {}
            }
        }
        self.drop_generation_if_gone(generation);
    }

    /// A starting generation cannot start.
    fn fail(&mut self, generation: Generation, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
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
            Course::First { .. } => {
                self.refuse_pending(actions);
                self.end_at_once(Some(failure), now, actions);
            }
            other => self.course = other,
        }
    }

    /// A worker cannot be used: a starting generation fails with it, in any other it is killed, and its slot is filled
    /// again when it has gone.
    fn could_not_start(&mut self, id: WorkerId, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        match self.generation_state(worker.generation) {
            Some(GenerationState::Starting { .. }) => self.fail(worker.generation, failure, now, actions),
            _ => self.kill(id, now, actions),
        }
    }

    fn worker_gone(&mut self, id: WorkerId, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        self.listeners.worker_gone(id);
        self.supervision.gone(id, now);
        if let Some(GenerationState::Starting { .. }) = self.generation_state(worker.generation) {
            self.fail(worker.generation, failure, now, actions);
        }
        for other in self.supervision.of_slot(worker.generation, worker.slot) {
            self.limit_claims(other, actions);
        }
        self.drop_generation_if_gone(worker.generation);
        self.fill_slots(now, actions);
    }

    fn drop_generation_if_gone(&mut self, generation: Generation) {
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
    fn generation_state(&self, generation: Generation) -> Option<GenerationState> {
        self.generations.get(&generation).copied()
    }

    fn fill_slots(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for worker in self.supervision.fill(now, actions) {
            self.scheduler.join(worker);
        }
    }

    fn activate(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.supervision.activate(worker, now, actions);
        self.scheduler.activate(worker, now, actions);
    }

    fn drain(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.scheduler.stop(worker, actions);
        self.supervision.drain(worker, now, actions);
    }

    fn kill(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let state = self.supervision.get(id).map(|worker| worker.state);
        if !matches!(state, None | Some(WorkerState::Killed { .. })) {
            self.scheduler.stop(id, actions);
            self.supervision.kill(id, now, actions);
        }
    }

    fn kill_where(&mut self, doomed: impl Fn(WorkerState) -> bool, now: Instant, actions: &mut Vec<Action>) {
        let workers: Vec<_> =
            self.supervision.workers().filter(|(_, worker)| doomed(worker.state)).map(|(id, _)| id).collect();
        for worker in workers {
            self.kill(worker, now, actions);
        }
    }

    /// The slot of this worker, if it is served, claims nothing but what its workers use.
    fn limit_claims(&mut self, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        if self.supervision.is_served(worker.generation, worker.slot) {
            let workers = self.supervision.of_slot(worker.generation, worker.slot);
            self.listeners.limit_claims((worker.generation, worker.slot), &workers);
            self.close_unclaimed(actions);
        }
    }

    fn close_unclaimed(&mut self, actions: &mut Vec<Action>) {
        for listener in self.listeners.take_unclaimed() {
            self.close(listener, actions);
        }
    }

    fn close_all(&mut self, actions: &mut Vec<Action>) {
        for listener in self.listeners.take_all() {
            self.close(listener, actions);
        }
    }

    fn close(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        actions.push(Action::CloseListener { listener });
        self.scheduler.close(listener, actions);
    }
}
