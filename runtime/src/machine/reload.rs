//! The reload transaction: from the first new worker to *committed* or *rolled back*.
//!
//! ```text
//! strategy all                         strategy rolling
//! Preparing --> Starting --all are ready--+    Preparing --> Rolling 0 --ready--> Rolling 1 -- … --the last is ready--+
//!                                         +--> Probation <------------------------------------------------------------+
//!                                                  |
//!                                                  +--time is up--> committed: the old generation drains
//!
//! from everywhere --a new worker fails, a rollback or a stop is asked for--> rolled back: the old generation is resumed
//! ```
//!
//! A slot is *replaced* by activating its new worker first and then pausing its old ones: these take nothing more, keep
//! their connections, and can be resumed at once. Without probation the commit follows at once.
//!
//! A rolling reload keeps the old workers of replaced slots paused, not draining, until it is committed, for each of them
//! may have to serve again. So in its end both generations are in memory; what it spares is starting all at once.
//!
//! Invariants: every slot that was served before is served by the old or by the new generation at any time. No worker of
//! the old generation drains before the commit, but for those that leave by themselves.

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

use super::generation::{Course, SETTLE};
use super::master::LONGEST;
use super::supervision::Worker;
use super::watchdog::Watchdog;
use super::{
    Action, Exit, Failure, GenerationState, Machine, Outcome, Phases, ReloadView, Settings, StepView, Strategy, Ticket,
    WorkerState,
};

/// A reload under way.
#[derive(Debug)]
pub(super) struct Reload {
    old: Generation,
    new: Generation,
    since: Instant,
    tickets: Vec<Ticket>,
    step: Step,
    /// The settings of the old generation, to which a rollback returns.
    before: Box<Settings>,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// When it is being found out what the new generation needs. The shell answers at once.
    Preparing,
    /// When every slot of the new generation is filled beside the old one. Waits until all are ready.
    Starting,
    /// When this slot is filled. Waits until it is ready; the slots below are replaced.
    Rolling { slot: Slot },
    /// When the new generation serves. Waits until then.
    Probation { since: Instant, until: Instant },
}

/// What a worker is for once it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// It takes connections.
    Serve,
    /// It waits: for the rest of its generation, or to be resumed.
    Wait,
    /// Its kill is on its way.
    None,
}

impl Reload {
    fn replaces(&self, slot: Slot) -> bool {
        match self.step {
            Step::Preparing | Step::Starting => false,
            Step::Rolling { slot: next } => slot < next,
            Step::Probation { .. } => true,
        }
    }

    fn phases(&self, now: Instant) -> Phases {
        let from = |since: Instant| now.saturating_duration_since(since);
        match self.step {
            Step::Preparing | Step::Starting | Step::Rolling { .. } => {
                Phases { starting: from(self.since), probation: Duration::ZERO }
            }
            Step::Probation { since, .. } => {
                Phases { starting: since.saturating_duration_since(self.since), probation: from(since) }
            }
        }
    }

    pub(super) fn view(&self, pending: bool) -> ReloadView {
        let step = match self.step {
            Step::Preparing | Step::Starting => StepView::Starting,
            Step::Rolling { slot } => StepView::Rolling { slot },
            Step::Probation { until, .. } => StepView::Probation { until },
        };
        ReloadView::Running { generation: self.new, step, pending }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.step {
            Step::Probation { until, .. } => Some(until),
            Step::Preparing | Step::Starting | Step::Rolling { .. } => None,
        }
    }
}

impl Machine {
    /// Begins the reload that waits, if nothing keeps it from beginning.
    pub(super) fn begin_pending(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Course::Serving { active: old } = self.course else {
            return;
        };
        if self.pending.is_empty() || self.clearing.is_some() || self.is_delayed(now, actions) {
            return;
        }
        let new = self.next_generation();
        let tickets = std::mem::take(&mut self.pending);
        actions.push(Action::ReloadStarted { generation: new, tickets: tickets.clone() });
        self.announce(new, now);
        let (step, before) = (Step::Preparing, Box::new(self.settings));
        self.course = Course::Reloading(Reload { old, new, since: now, tickets, step, before });
        actions.push(Action::Prepare { generation: new });
    }

    /// The generation whose listeners are being bound.
    pub(super) fn being_prepared(&self) -> Option<Generation> {
        match &self.course {
            Course::New => Some(self.next_generation()),
            Course::Reloading(Reload { new, step: Step::Preparing, .. }) => Some(*new),
            _ => None,
        }
    }

    /// The new generation has what it needs: its workers are started. From here on its settings count.
    pub(super) fn prepared(
        &mut self,
        settings: Settings,
        configured: &[ListenerId],
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Course::Reloading(reload) = &mut self.course else {
            // The reload was given up meanwhile.
            return self.close_unclaimed(actions);
        };
        if reload.step != Step::Preparing {
            return;
        }
        let new = reload.new;
        let settings = settings.within(LONGEST);
        reload.step = match settings.strategy {
            Strategy::All => Step::Starting,
            Strategy::Rolling => Step::Rolling { slot: Slot(0) },
        };
        self.use_settings(settings, now);
        self.supervision.agree(new, settings);
        for listener in configured {
            self.listeners.name(*listener, new);
        }
        match settings.strategy {
            Strategy::All => self.supervision.add_generation(new, now),
            Strategy::Rolling => self.supervision.slots_mut().open_one(new, Slot(0), now),
        }
        self.fill_slots(now, actions);
        self.advance(now, actions);
    }

    /// These settings count from now on. A number of workers that somebody ordered stays, unless the settings have another
    /// one than before.
    fn use_settings(&mut self, settings: Settings, now: Instant) {
        let before = std::mem::replace(&mut self.settings, settings);
        let slots = self.supervision.slots_mut();
        slots.set_care(settings.care);
        self.scheduler.set_shed(settings.shed);
        if settings.workers != before.workers {
            slots.set_count(settings.workers);
        }
        if settings.care.hang_timeout != before.care.hang_timeout {
            self.watchdog = Watchdog::new(settings.care.hang_timeout);
            self.watchdog.start(now);
        }
        if settings.care.recycle != before.care.recycle {
            self.measuring.start(settings.care.recycle, now);
        }
    }

    /// The new generation cannot start.
    pub(super) fn prepare_failed(&mut self, reason: String, now: Instant, actions: &mut Vec<Action>) {
        match &self.course {
            Course::Reloading(Reload { step: Step::Preparing, .. }) => {
                self.roll_back(Failure::NotPrepared { reason }, now, actions);
            }
            _ => self.close_unclaimed(actions),
        }
    }

    /// Goes as far as the workers that are ready allow.
    pub(super) fn advance(&mut self, now: Instant, actions: &mut Vec<Action>) {
        while let Course::Reloading(Reload { old, new, step, .. }) = &self.course {
            let (old, new) = (*old, *new);
            match *step {
                Step::Starting if self.supervision.all_ready(new) => self.enter_probation(now, actions),
                Step::Rolling { slot } if self.supervision.slot_is_ready(new, slot) => {
                    self.replace(old, new, Some(slot), now, actions);
                    self.roll_on(new, Slot(slot.0 + 1), now, actions);
                }
                Step::Preparing | Step::Starting | Step::Rolling { .. } | Step::Probation { .. } => return,
            }
        }
    }

    /// Turns to the next slot; after the last one the whole generation serves.
    fn roll_on(&mut self, new: Generation, slot: Slot, now: Instant, actions: &mut Vec<Action>) {
        if slot.0 >= self.supervision.slots().count() {
            return self.enter_probation(now, actions);
        }
        if let Course::Reloading(reload) = &mut self.course {
            reload.step = Step::Rolling { slot };
            self.supervision.slots_mut().open_one(new, slot, now);
            self.fill_slots(now, actions);
        }
    }

    /// The new generation serves, whole; without probation that is the commit.
    fn enter_probation(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let until = now + self.settings.probation;
        let Course::Reloading(reload) = &mut self.course else {
            return;
        };
        let (old, new) = (reload.old, reload.new);
        reload.step = Step::Probation { since: now, until };
        self.generations.insert(new, GenerationState::Probation { since: now, until });
        self.replace(old, new, None, now, actions);
        self.warn_unclaimed(new, actions);
        if until <= now {
            return self.commit(now, actions);
        }
        self.generations.insert(old, GenerationState::Paused { since: now });
        let phases = match &self.course {
            Course::Reloading(reload) => reload.phases(now),
            _ => Phases::default(),
        };
        actions.push(Action::ProbationStarted { generation: new, until, phases });
    }

    /// One slot, or every slot, is served by the new generation from now on; the old one's workers there are paused.
    fn replace(
        &mut self,
        old: Generation,
        new: Generation,
        slot: Option<Slot>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let workers = |machine: &Self, generation| match slot {
            Some(slot) => machine.supervision.of_slot(generation, slot),
            None => machine.supervision.of_generation(generation),
        };
        self.activate_waiting(&workers(self, new), now, actions);
        // Without probation they are about to drain.
        if slot.is_some() || !self.settings.probation.is_zero() {
            for worker in workers(self, old) {
                self.pause(worker, now, actions);
            }
        }
    }

    /// Those that are ready or paused take connections from now on.
    fn activate_waiting(&mut self, workers: &[WorkerId], now: Instant, actions: &mut Vec<Action>) {
        for id in workers {
            let state = self.supervision.get(*id).map(|worker| worker.state);
            if let Some(WorkerState::Ready { .. } | WorkerState::Paused { .. }) = state {
                self.activate(*id, now, actions);
            }
        }
    }

    /// The time of probation is up.
    pub(super) fn end_probation(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Course::Reloading(reload) = &self.course
            && reload.deadline().is_some_and(|until| until <= now)
        {
            self.commit(now, actions);
        }
    }

    fn commit(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.end_reload(Outcome::Committed, now, actions);
    }

    pub(super) fn roll_back(&mut self, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        self.end_reload(Outcome::RolledBack(failure), now, actions);
    }

    /// The winner serves, and then the other one is retired: at least one of them takes connections at any time.
    fn end_reload(&mut self, outcome: Outcome, now: Instant, actions: &mut Vec<Action>) {
        let before = std::mem::replace(&mut self.course, Course::Finished);
        let Course::Reloading(reload) = before else {
            self.course = before;
            return;
        };
        let phases = reload.phases(now);
        let Reload { old, new, tickets, before, .. } = reload;
        let (winner, loser) = if outcome == Outcome::Committed { (new, old) } else { (old, new) };
        if winner == old {
            self.use_settings(*before, now);
        }
        self.course = match outcome {
            // So that nobody who drains from here on is told of a successor.
            Outcome::RolledBack(Failure::Stopped) => Course::Settling { until: now + SETTLE },
            _ => Course::Serving { active: winner },
        };
        self.serve_again(winner, now, actions);
        match outcome {
            Outcome::Committed => self.clear_and_retire(loser, now, actions),
            Outcome::RolledBack(_) => self.retire(loser, now, actions),
        }
        self.close_unclaimed(actions);
        let drains = matches!(self.generation_state(loser), Some(GenerationState::Draining { .. }));
        let retired = drains.then_some(loser);
        actions.push(Action::ReloadEnded { generation: new, tickets, outcome, phases, retired });
    }

    /// The generation is active; whoever was paused, or ready and told to wait, is activated.
    fn serve_again(&mut self, generation: Generation, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.generation_state(generation), Some(GenerationState::Active { .. })) {
            self.generations.insert(generation, GenerationState::Active { since: now });
        }
        let workers = self.supervision.of_generation(generation);
        self.activate_waiting(&workers, now, actions);
        for worker in workers {
            self.limit_claims(worker, actions);
        }
    }

    /// What a worker of this slot is for once it is ready.
    pub(super) fn duty(&self, generation: Generation, slot: Slot) -> Duty {
        let replaced = match &self.course {
            Course::Reloading(reload) => reload.replaces(slot),
            _ => false,
        };
        match self.generation_state(generation) {
            Some(GenerationState::Starting { .. }) if replaced => Duty::Serve,
            Some(GenerationState::Active { .. }) if replaced => Duty::Wait,
            Some(GenerationState::Active { .. } | GenerationState::Probation { .. }) => Duty::Serve,
            Some(GenerationState::Starting { .. } | GenerationState::Paused { .. }) => Duty::Wait,
            Some(GenerationState::Draining { .. } | GenerationState::Failed { .. }) | None => Duty::None,
        }
    }

    /// Whether the generation stands or falls with each of its workers.
    pub(super) fn is_on_trial(&self, generation: Generation) -> bool {
        matches!(
            self.generation_state(generation),
            Some(GenerationState::Starting { .. } | GenerationState::Probation { .. })
        )
    }
}

/// Whether the end of a worker is its failure, and not what it was told or asked for.
pub(super) fn is_failure(worker: &Worker, exit: Option<Exit>) -> bool {
    match worker.state {
        WorkerState::Starting { .. }
        | WorkerState::Ready { .. }
        | WorkerState::Active { .. }
        | WorkerState::Paused { .. }
        | WorkerState::Silent { .. }
        | WorkerState::Hung { .. } => true,
        WorkerState::Leaving { .. } => exit != Some(Exit::Code(0)),
        WorkerState::Draining { .. } | WorkerState::Drained { .. } | WorkerState::Killed { .. } => false,
    }
}
