//! What a worker says, or what becomes of it, and what follows from that for its slot, its generation and its listeners.

use std::time::Instant;

use everport_handoff::id::{ListenerId, WorkerId};
use everport_handoff::message::Sharing;

use super::generation::Course;
use super::listeners::Admission;
use super::master::LONGEST;
use super::orders::Flow;
use super::reload::{self, Duty};
/// From how many workers on they wait in line at listeners that they share.
///
/// In line a connection wakes one worker, however many there are, for two switches of thread more than a wake-up of one; together
/// it costs more for each worker that it wakes in vain. Measured (`everport-bench` on a busy machine, medians of seven rounds of
/// one run, microseconds of CPU for a connection with 1, 4 and 16 clients; plain tokio, which waits together, against in line):
/// 2 workers 38, 39, 34 against 58, 49, 46; 4 workers 60, 53, 44 against 65, 59, 57; 8 workers 70, 73, 65 against 66, 61, 60;
/// 32 workers 136, 136, 141 against 71, 64, 64.
pub(super) const LINE_FROM: u32 = 8;

use super::{Action, Exit, Failure, KillReason, Machine, RequestId, WorkerState};

impl Machine {
    pub(super) fn worker_ready(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        let WorkerState::Starting { .. } = worker.state else {
            return;
        };
        match self.duty(worker.generation, worker.slot) {
            Duty::Wait => {
                self.supervision.ready(id, now);
                self.serve_first(now, actions);
                self.advance(now, actions);
            }
            Duty::Serve => {
                self.activate(id, now, actions);
                for other in self.supervision.of_slot(worker.generation, worker.slot) {
                    if let Some(WorkerState::Leaving { .. }) = self.supervision.get(other).map(|other| other.state) {
                        self.drain(other, now, actions);
                    }
                }
                self.limit_claims(id, actions);
            }
            Duty::None => {}
        }
    }

    pub(super) fn worker_leaving(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        match worker.state {
            WorkerState::Starting { .. } | WorkerState::Ready { .. } => {
                let failure = Failure::Left { slot: worker.slot, worker: id };
                self.give_up_on(id, failure, now, actions);
            }
            // A stop drains everybody soon.
            WorkerState::Active { .. } | WorkerState::Paused { .. }
                if matches!(self.course, Course::Settling { .. }) => {}
            WorkerState::Active { .. } => {
                self.supervision.leave(id, now, actions);
                self.fill_slots(now, actions);
            }
            // It takes nothing, so it can go before its replacement is ready.
            WorkerState::Paused { .. } => {
                self.supervision.leave(id, now, actions);
                self.drain(id, now, actions);
                self.fill_slots(now, actions);
            }
            WorkerState::Leaving { .. }
            | WorkerState::Draining { .. }
            | WorkerState::Drained { .. }
            | WorkerState::Silent { .. }
            | WorkerState::Hung { .. }
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
            self.give_up_on(id, Failure::Incompatible { slot: worker.slot, worker: id, reason }, now, actions);
        }
    }

    pub(super) fn worker_broke(&mut self, id: WorkerId, reason: String, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.distrust(id, actions);
            self.give_up_on(id, Failure::Broke { slot: worker.slot, worker: id, reason }, now, actions);
        }
    }

    /// A worker that still serves must not close its channel. Most likely it is exiting, so its exit says more.
    pub(super) fn channel_closed(&mut self, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let serves = matches!(
            self.supervision.get(id).map(|worker| worker.state),
            Some(
                WorkerState::Starting { .. }
                    | WorkerState::Ready { .. }
                    | WorkerState::Active { .. }
                    | WorkerState::Paused { .. }
                    | WorkerState::Leaving { .. }
            )
        );
        self.scheduler.forsake(id);
        if serves {
            self.scheduler.stop(id, actions);
            self.supervision.silence(id, now);
        }
    }

    pub(super) fn worker_exited(&mut self, id: WorkerId, exit: Exit, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.exited(id, actions);
            self.rotation.exited(id);
            let slot = worker.slot;
            let never_served = match worker.state {
                WorkerState::Starting { .. } | WorkerState::Ready { .. } => true,
                WorkerState::Silent { .. } => self.duty(worker.generation, slot) != Duty::Serve,
                _ => false,
            };
            let failure = match never_served {
                true => Failure::Exited { slot, worker: id, exit },
                false => Failure::Crashed { slot, worker: id, exit },
            };
            self.worker_gone(id, Some(exit), failure, now, actions);
        }
    }

    pub(super) fn spawn_failed(&mut self, id: WorkerId, reason: String, now: Instant, actions: &mut Vec<Action>) {
        if let Some(worker) = self.supervision.get(id) {
            self.scheduler.never_started(id);
            self.worker_gone(id, None, Failure::SpawnFailed { slot: worker.slot, reason }, now, actions);
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
                    let after = worker.terms.ready_timeout;
                    let failure = Failure::NotReady { slot: worker.slot, worker: id, after };
                    self.give_up_on(id, failure, now, actions);
                }
                WorkerState::Leaving { .. } => self.drain(id, now, actions),
                WorkerState::Silent { .. } => {
                    let reason = "it closed its channel and lives on".to_owned();
                    let failure = Failure::Broke { slot: worker.slot, worker: id, reason };
                    self.give_up_for(id, KillReason::Silent, failure, now, actions);
                }
                WorkerState::Draining { .. } | WorkerState::Drained { .. } => {
                    self.kill(id, worker.dies_of, now, actions);
                }
                WorkerState::Hung { .. } => self.kill(id, KillReason::Hung, now, actions),
                WorkerState::Ready { .. }
                | WorkerState::Active { .. }
                | WorkerState::Paused { .. }
                | WorkerState::Killed { .. } => {}
            }
        }
        self.supervision.slots_mut().recover(now, actions);
        self.watch(now, actions);
        self.look_for_wear(now, actions);
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
            let counts = self.supervision.slots().is_open(worker.generation, worker.slot)
                && self.duty(worker.generation, worker.slot) != Duty::None;
            let claimant = counts.then_some((worker.generation, worker.slot));
            if claimant.is_some() {
                self.rescue(listener, actions);
            }
            match self.listeners.asked(id, listener, claimant) {
                Admission::Granted => {
                    let sharing = self.sharing(listener);
                    actions.push(Action::AnswerListen { worker: id, request, listener, sharing });
                    self.scheduler.add_use(id, listener);
                }
                Admission::InUse => actions.push(Action::RefuseListen { worker: id, request, listener }),
                Admission::Unknown => {}
            }
        }
        // Bound for one that is gone, or on its way out.
        self.close_unclaimed(actions);
    }

    /// How workers wait at a listener that they share. Workers that were started before the number changed go on as they do.
    /// The socket of a slot is shared by the two workers of a reload at most.
    fn sharing(&self, listener: ListenerId) -> Sharing {
        match self.split.is_split(listener) || self.supervision.slots().count() < LINE_FROM {
            true => Sharing::Together,
            false => Sharing::InLine,
        }
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

    /// A worker cannot be used: a generation on trial fails with it, in any other it is killed, and its slot is filled
    /// again when it has gone.
    fn give_up_on(&mut self, id: WorkerId, failure: Failure, now: Instant, actions: &mut Vec<Action>) {
        self.give_up_for(id, KillReason::of(&failure), failure, now, actions);
    }

    fn give_up_for(
        &mut self,
        id: WorkerId,
        why: KillReason,
        failure: Failure,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        let fails = self.is_on_trial(worker.generation) && reload::is_failure(&worker, None);
        self.kill(id, why, now, actions);
        if fails {
            self.fail(failure, now, actions);
        }
    }

    fn worker_gone(
        &mut self,
        id: WorkerId,
        exit: Option<Exit>,
        failure: Failure,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        self.listeners.worker_gone(id);
        self.supervision.gone(id, now, actions);
        if self.is_on_trial(worker.generation) && reload::is_failure(&worker, exit) {
            self.fail(failure, now, actions);
        }
        for other in self.supervision.of_slot(worker.generation, worker.slot) {
            self.limit_claims(other, actions);
        }
        self.drop_generation_if_gone(worker.generation, now, actions);
        self.fill_slots(now, actions);
    }

    /// The worker takes connections from now on, or as soon as the pause is over.
    pub(super) fn activate(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if self.flow == Flow::Paused {
            return self.supervision.hold(worker, now);
        }
        self.supervision.activate(worker, now, actions);
        self.scheduler.activate(worker, now, actions);
    }

    /// One that serves takes nothing more and stays warm; one that leaves need not wait any longer.
    pub(super) fn pause(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        match self.supervision.get(worker).map(|worker| worker.state) {
            Some(WorkerState::Active { .. }) => {
                self.scheduler.pause(worker, actions);
                self.supervision.pause(worker, now, actions);
            }
            Some(WorkerState::Leaving { .. }) => self.drain(worker, now, actions),
            _ => {}
        }
    }

    /// The worker takes nothing more and finishes what it has; whoever stays may take that over, unless the master stops.
    pub(super) fn drain(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        self.scheduler.stop(worker, actions);
        self.supervision.drain(worker, !self.is_stopping(), LONGEST, now, actions);
    }

    pub(super) fn fill_slots(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for worker in self.supervision.fill(now, actions) {
            if let Some(started) = self.supervision.get(worker) {
                self.scheduler.join(worker, started.slot, started.terms.max_connections);
            }
        }
    }

    /// The slot of this worker, if it is served, claims nothing but what its workers use.
    pub(super) fn limit_claims(&mut self, id: WorkerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.supervision.get(id) else {
            return;
        };
        if self.supervision.is_served(worker.generation, worker.slot) {
            let workers = self.supervision.of_slot(worker.generation, worker.slot);
            self.listeners.limit_claims((worker.generation, worker.slot), &workers);
            self.close_unclaimed(actions);
        }
    }
}
