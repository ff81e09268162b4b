//! What `everport status` shows, from the machine and from the boards.

use std::time::Instant;

use everport_handoff::id::Generation;

use super::link::Link;
use super::measure::resident_memory;
use super::{Shell, clock, records};
use crate::control::protocol::{
    Begun, BegunState, GenerationState, GenerationStatus, ListenerStatus, MasterState, ReloadStatus, ReloadStep,
    RestingStatus, Status, WorkerState, WorkerStatus,
};
use crate::machine::{self, ReloadView, RestingView, StepView, WorkerView};

impl Shell {
    /// The master at a glance.
    pub(super) fn status(&self) -> Status {
        Status {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: self.state(),
            uptime_seconds: self.records.uptime().as_secs(),
            policy: self.plans.active().config.policy,
            slots: self.machine.slots(),
            generations: self.machine.generations().map(|(id, state)| self.generation(id, state)).collect(),
            listeners: self.listeners(),
            last_reload: self.records.reloads().last().cloned(),
            reload: self.reload_status(),
            reloads: self.records.reloads().cloned().collect(),
        }
    }

    pub(super) fn state(&self) -> MasterState {
        let is_starting = |state| matches!(state, machine::GenerationState::Starting { .. });
        match self.machine.reload() {
            _ if self.machine.is_stopping() => MasterState::Stopping,
            ReloadView::Running { .. } => MasterState::Reloading,
            _ if self.machine.generations().any(|(_, state)| is_starting(state)) => MasterState::Starting,
            _ if self.machine.is_paused() => MasterState::Paused,
            _ => MasterState::Running,
        }
    }

    fn reload_status(&self) -> Option<ReloadStatus> {
        let (generation, step, slot, until, pending, why) = match self.machine.reload() {
            ReloadView::None => return None,
            ReloadView::Pending { why } => (
                self.machine.next_generation(),
                ReloadStep::Pending,
                None,
                None,
                true,
                why.map(records::describe_delay),
            ),
            ReloadView::Running { generation, step, pending } => match step {
                StepView::Starting => (generation, ReloadStep::Starting, None, None, pending, None),
                StepView::Rolling { slot } => (generation, ReloadStep::Rolling, Some(slot), None, pending, None),
                StepView::Probation { until } => (generation, ReloadStep::Probation, None, Some(until), pending, None),
            },
        };
        let left = |until: Instant| until.saturating_duration_since(clock::now()).as_secs();
        Some(ReloadStatus { generation, step, slot, left_seconds: until.map(left), pending, why })
    }

    /// What became of a reload that was asked for just now.
    pub(super) fn begun(&self) -> Begun {
        let ended = || self.records.reloads().last().map_or(self.machine.next_generation(), |last| last.generation);
        match self.machine.reload() {
            ReloadView::None => Begun { generation: ended(), state: BegunState::Ended, why: None },
            ReloadView::Running { generation, pending: false, .. } => {
                Begun { generation, state: BegunState::Started, why: None }
            }
            ReloadView::Running { generation, pending: true, .. } => Begun {
                generation: self.machine.next_generation(),
                state: BegunState::Pending,
                why: Some(format!("the reload to generation {generation} has not ended")),
            },
            ReloadView::Pending { why } => Begun {
                generation: self.machine.next_generation(),
                state: BegunState::Pending,
                why: why.map(records::describe_delay),
            },
        }
    }

    fn generation(&self, generation: Generation, state: machine::GenerationState) -> GenerationStatus {
        let mut workers: Vec<_> =
            self.machine.workers().filter(|view| view.generation == generation).map(|view| self.worker(view)).collect();
        workers.sort_by_key(|worker: &WorkerStatus| (worker.slot, worker.worker));
        GenerationStatus {
            generation,
            state: match state {
                machine::GenerationState::Starting { .. } => GenerationState::Starting,
                machine::GenerationState::Probation { .. } => GenerationState::Probation,
                machine::GenerationState::Active { .. } => GenerationState::Active,
                machine::GenerationState::Paused { .. } => GenerationState::Paused,
                machine::GenerationState::Draining { .. } => GenerationState::Draining,
                machine::GenerationState::Failed { .. } => GenerationState::Failed,
            },
            since_seconds: seconds_since(state.since()),
            workers,
            resting: self.machine.resting().filter(|view| view.generation == generation).map(resting).collect(),
        }
    }

    fn worker(&self, view: WorkerView) -> WorkerStatus {
        let link = self.links.get(&view.worker);
        let figures = link.map(Link::figures).unwrap_or_default();
        let uptime = clock::now().saturating_duration_since(view.started);
        let process = self.process(view.worker);
        let pid = process.and_then(|process| u32::try_from(process.pid()).ok());
        WorkerStatus {
            worker: view.worker,
            slot: view.slot,
            pid,
            state: match view.state {
                machine::WorkerState::Starting { .. } => WorkerState::Starting,
                machine::WorkerState::Ready { .. } => WorkerState::Ready,
                machine::WorkerState::Active { .. } => WorkerState::Active,
                machine::WorkerState::Paused { .. } => WorkerState::Paused,
                machine::WorkerState::Leaving { .. } => WorkerState::Leaving,
                machine::WorkerState::Draining { .. } => WorkerState::Draining,
                machine::WorkerState::Drained { .. } => WorkerState::Drained,
                machine::WorkerState::Silent { .. } => WorkerState::Silent,
                machine::WorkerState::Hung { .. } => WorkerState::Hung,
                machine::WorkerState::Killed { .. } => WorkerState::Killed,
            },
            since_seconds: seconds_since(view.state.since()),
            deadline_in_seconds: view.state.deadline().map(seconds_until),
            uptime_seconds: uptime.as_secs(),
            memory_bytes: process.and_then(resident_memory),
            restarts: u64::from(view.restarts),
            weight: Some(view.weight),
            active: figures.active,
            guards: figures.guards,
            offered: view.counters.offered,
            taken: view.counters.taken,
            refused: view.counters.refused,
            revoked: view.counters.revoked,
            given: view.counters.given,
            received: view.counters.received,
            soft_deadline_in_seconds: link.and_then(|_| self.soft_deadline(view)).map(seconds_until),
            oldest_seconds: link.and_then(|link| link.oldest(uptime)).map(|age| age.as_secs()),
            requests: figures.requests,
            idle: figures.idle,
            unread: figures.unread,
            lingered: figures.lingered,
        }
    }

    /// When a draining worker closes connections on which nothing is under way. Programs that know nothing of Everport are
    /// not told of it.
    fn soft_deadline(&self, view: WorkerView) -> Option<Instant> {
        match view.state {
            machine::WorkerState::Draining { since, deadline } => {
                let time = deadline.saturating_duration_since(since);
                Some(since + self.plans.of(view.generation).grace(time))
            }
            _ => None,
        }
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        let status = |(id, listener): (_, &super::listeners::Listener)| ListenerStatus {
            name: listener.key.clone(),
            address: listener.bound.local().to_string(),
            policy: self.policy(id),
            queue: u64::try_from(self.machine.queued(id)).unwrap_or(u64::MAX),
            accepted: listener.accepted,
            shed: listener.shed,
            accepting: listener.accepting,
        };
        self.listeners.iter().map(status).collect()
    }
}

fn resting(view: RestingView) -> RestingStatus {
    RestingStatus {
        slot: view.slot,
        since_seconds: seconds_since(view.since),
        retry_in_seconds: view.retry.map(seconds_until),
    }
}

fn seconds_since(past: Instant) -> u64 {
    clock::now().saturating_duration_since(past).as_secs()
}

/// Rounded up: nothing is over before it is.
fn seconds_until(future: Instant) -> u64 {
    future.saturating_duration_since(clock::now()).as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
