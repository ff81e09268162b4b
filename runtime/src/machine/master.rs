//! The master as one machine: where each event goes, and what can be seen from outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, Slot};

use super::budget::Memory;
use super::clearing::Clearing;
use super::generation::Course;
use super::listeners::Listeners;
use super::orders::{Flow, MAX_WEIGHT};
use super::recycling::Measuring;
use super::rotation::Rotation;
use super::scheduler::{Given, Scheduler};
use super::split::Split;
use super::supervision::Supervision;
use super::watchdog::Watchdog;
use super::{
    Action, Care, Delay, Event, GenerationState, OfferedPolicy, ReloadView, RestingView, Settings, Ticket, WorkerView,
};

/// Everything that the master decides.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) settings: Settings,
    pub(super) course: Course,
    /// The generations that have workers left, and those that are starting or active.
    pub(super) generations: BTreeMap<Generation, GenerationState>,
    pub(super) last_generation: u64,
    /// Who waits for the reload that begins after the one that is running.
    pub(super) pending: Vec<Ticket>,
    /// Why that one does not begin, as far as it is the budget.
    pub(super) delay: Option<Delay>,
    pub(super) memory: Memory,
    pub(super) supervision: Supervision,
    pub(super) listeners: Listeners,
    pub(super) scheduler: Scheduler,
    pub(super) split: Split,
    /// What the last reload has left to clear.
    pub(super) clearing: Option<Clearing>,
    pub(super) flow: Flow,
    pub(super) watchdog: Watchdog,
    pub(super) measuring: Measuring,
    pub(super) rotation: Rotation,
    /// The next deadline of all but the scheduler: computed when it may have changed, not once per connection.
    lifecycle_deadline: Option<Instant>,
}

/// The longest that any duration of the settings counts: nobody waits longer, and no sum with it overflows.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

impl Machine {
    /// A master that has not been started.
    pub(crate) fn new(settings: Settings) -> Self {
        let settings = settings.within(LONGEST);
        Self {
            settings,
            course: Course::New,
            generations: BTreeMap::new(),
            last_generation: 0,
            pending: Vec::new(),
            delay: None,
            memory: Memory::default(),
            supervision: Supervision::new(settings),
            listeners: Listeners::default(),
            scheduler: Scheduler::new(settings),
            split: Split::default(),
            clearing: None,
            flow: Flow::Open,
            watchdog: Watchdog::new(settings.care.hang_timeout),
            measuring: Measuring::default(),
            rotation: Rotation::new(settings.ticket_rotation),
            lifecycle_deadline: None,
        }
    }

    /// Feeds one event and appends, in order, what the shell must do. Cannot fail.
    pub(crate) fn handle(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        debug_assert!(self.allows(&event), "the shell must not say {event:?}");
        self.feed(event, now, actions);
    }

    /// When `Event::Deadline` must next be fed, if ever.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        if let Course::Finished = self.course {
            return None;
        }
        [self.scheduler.next_deadline(), self.lifecycle_deadline].into_iter().flatten().min()
    }

    /// How many more connections of this listener the shell may accept before it feeds them and asks again.
    pub(crate) fn room(&self, listener: ListenerId) -> usize {
        self.scheduler.room(listener)
    }

    /// Whether the shell must feed `Event::LoadsRead` of all workers before it accepts from this listener.
    pub(crate) fn wants_loads(&self, listener: ListenerId, now: Instant) -> bool {
        self.scheduler.wants_loads(listener, now)
    }

    /// How the connections of a listener are spread; nothing if they are not offered.
    pub(crate) fn policy(&self, listener: ListenerId) -> Option<OfferedPolicy> {
        self.scheduler.policy(listener)
    }

    /// How much a slot gets, against the others.
    pub(crate) fn weight(&self, slot: Slot) -> u32 {
        self.scheduler.weight(slot)
    }

    /// The workers whose processes have not ended, by age.
    pub(crate) fn workers(&self) -> impl Iterator<Item = WorkerView> {
        self.supervision.workers().map(|(id, worker)| WorkerView {
            worker: id,
            slot: worker.slot,
            generation: worker.generation,
            state: worker.state,
            started: worker.started,
            restarts: self.supervision.restarts(worker),
            weight: self.scheduler.weight(worker.slot),
            counters: self.scheduler.counters(id),
        })
    }

    /// The generations that are starting or active, or have workers left, by age.
    pub(crate) fn generations(&self) -> impl Iterator<Item = (Generation, GenerationState)> {
        self.generations.iter().map(|(generation, state)| (*generation, *state))
    }

    /// How many slots the active generation has, or will have as soon as no reload is under way.
    pub(crate) fn slots(&self) -> u32 {
        self.supervision.slots().count()
    }

    /// The slots that rest.
    pub(crate) fn resting(&self) -> impl Iterator<Item = RestingView> {
        self.supervision.slots().resting()
    }

    /// Whether the workers take no connections because somebody said so.
    pub(crate) fn is_paused(&self) -> bool {
        self.flow == Flow::Paused
    }

    /// How many accepted connections of a listener wait for a worker.
    pub(crate) fn queued(&self, listener: ListenerId) -> usize {
        self.scheduler.queued(listener)
    }

    /// Whether the master stops, or has stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.course, Course::Settling { .. } | Course::Ending { .. } | Course::Finished)
    }

    /// Whether a reload is under way, and whether another waits.
    pub(crate) fn reload(&self) -> ReloadView {
        match &self.course {
            Course::Reloading(reload) => reload.view(!self.pending.is_empty()),
            _ if self.pending.is_empty() => ReloadView::None,
            _ => ReloadView::Pending { why: self.delay },
        }
    }
}

impl Machine {
    /// The shell's side of the contract: what it can know. What workers and clients say may be anything.
    fn allows(&self, event: &Event) -> bool {
        match event {
            Event::Started => matches!(self.course, Course::New),
            Event::SpawnFailed { worker, .. } | Event::WorkerExited { worker, .. } => {
                self.supervision.get(*worker).is_some()
            }
            Event::ListenerBound { listener, .. } => !self.listeners.holds(*listener),
            Event::ListenAsked { listener, .. } => self.listeners.holds(*listener),
            Event::Accepted { connection, .. } => !self.scheduler.knows(*connection),
            Event::HandedOver { worker, connection, .. } => {
                !self.scheduler.knows(*connection) || self.scheduler.is_taken_by(*worker, *connection)
            }
            Event::OfferFailed { worker, connection } => self.scheduler.is_on_offer(*worker, *connection),
            _ => true,
        }
    }

    pub(super) fn feed(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        if let Course::Finished = self.course {
            return;
        }
        let is_traffic = self.feed_traffic(&event, now, actions);
        if !is_traffic {
            self.feed_lifecycle(event, now, actions);
            self.clear(now, actions);
            self.begin_pending(now, actions);
        }
        self.scheduler.run(now, actions);
        let mut changed = !is_traffic;
        while self.progress(now, actions) {
            self.scheduler.run(now, actions);
            changed = true;
        }
        if changed {
            self.adjust(now, actions);
            self.recycle(now, actions);
            self.arrange_sockets(actions);
            self.scheduler.run(now, actions);
            let course = match &self.course {
                Course::Reloading(reload) => reload.deadline(),
                _ => self.settling_until().or(self.budget_deadline()),
            };
            let deadlines = [
                self.supervision.next_deadline(),
                course,
                self.clearing_deadline(),
                self.watchdog.next_deadline(),
                self.measuring.next_deadline(),
                self.rotation.next_deadline(),
            ];
            self.lifecycle_deadline = deadlines.into_iter().flatten().min();
        }
    }

    /// What comes once per connection or more often. Returns whether it was that.
    fn feed_traffic(&mut self, event: &Event, now: Instant, actions: &mut Vec<Action>) -> bool {
        match *event {
            Event::LoadsRead { ref active } => self.scheduler.loads_read(active, now),
            Event::LoadRead { worker, active } => self.scheduler.watched_load_read(worker, active),
            Event::Accepted { listener, connection, key } => {
                self.scheduler.accepted(listener, connection, key, actions);
            }
            Event::HandedOver { worker, handover, listener, connection, key } => {
                let given = Given { by: worker, handover };
                self.scheduler.handed_over(given, listener, connection, key, now, actions);
            }
            Event::AcceptExhausted => self.scheduler.exhausted(now),
            Event::Settled { worker, connection, how } => {
                self.scheduler.settled(worker, connection, how, now, actions);
            }
            Event::OfferFailed { worker, connection } => self.scheduler.offer_failed(worker, connection, actions),
            Event::ChannelWritable { worker } => self.scheduler.writable(worker),
            Event::Beat { worker } => {
                self.watchdog.beat(worker);
                self.scheduler.alive(worker, now);
            }
            _ => return false,
        }
        true
    }

    fn feed_lifecycle(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Started => {
                self.watchdog.start(now);
                self.measuring.start(self.settings.care.recycle, now);
                self.started(now, actions);
            }
            Event::Deadline => {
                self.scheduler.deadline(now, actions);
                // First: those who serve again by it are then looked at like the others.
                self.end_probation(now, actions);
                self.deadlines(now, actions);
                self.rotate_ticket_keys(now, actions);
            }
            Event::ReloadAsked { ticket } => self.reload_asked(ticket, actions),
            Event::RollbackAsked { ticket } => self.rollback_asked(ticket, now, actions),
            Event::Prepared { settings, configured } => self.prepared(*settings, &configured, now, actions),
            Event::PrepareFailed { reason } => self.prepare_failed(reason, now, actions),
            Event::DrainingMeasured { bytes } => self.draining_measured(bytes, now),
            Event::StopAsked { at_once } => self.stop_asked(at_once, now, actions),
            Event::StopSignalled => self.stop_asked(self.is_stopping(), now, actions),
            Event::ScaleAsked { to } => self.scale_asked(to),
            Event::PauseAsked => self.pause_all(now, actions),
            Event::ResumeAsked => self.resume_all(now, actions),
            Event::PolicyAsked { listener, policy } => self.scheduler.set_policy(listener, policy),
            Event::WeightAsked { slot, weight } => self.scheduler.set_weight(slot, weight.min(MAX_WEIGHT)),
            Event::KillAsked { worker } => self.kill_asked(worker, now, actions),
            Event::Measured { worker, memory, taken } => self.measured(worker, memory, taken),
            Event::SpawnFailed { worker, reason } => self.spawn_failed(worker, reason, now, actions),
            Event::WorkerIncompatible { worker, reason } => self.worker_incompatible(worker, reason, now, actions),
            Event::WorkerReady { worker } => self.worker_ready(worker, now, actions),
            Event::WorkerLeaving { worker } => self.worker_leaving(worker, now, actions),
            Event::WorkerDrained { worker } => self.supervision.drained(worker, now),
            Event::ChannelClosed { worker } => self.channel_closed(worker, now, actions),
            Event::TicketKeysWanted { worker } => self.ticket_keys_wanted(worker, now, actions),
            Event::WorkerBroke { worker, reason } => self.worker_broke(worker, reason, now, actions),
            Event::WorkerExited { worker, exit } => self.worker_exited(worker, exit, now, actions),
            Event::ListenerBound { listener, spread, configured } => {
                self.listeners.bound(listener);
                if configured && let Some(generation) = self.being_prepared() {
                    self.listeners.name(listener, generation);
                }
                self.scheduler.open(listener, spread);
                self.split.open(listener, spread);
            }
            Event::SocketsAdded { listener, sockets } => self.split.grown(listener, sockets),
            Event::ListenAsked { worker, request, listener } => self.listen_asked(worker, request, listener, actions),
            Event::Looked { listener, awaited } => self.looked(listener, awaited, now),
            Event::ListenerClosed { worker, listener } => self.listener_closed(worker, listener, actions),
            Event::LoadsRead { .. }
            | Event::LoadRead { .. }
            | Event::Accepted { .. }
            | Event::HandedOver { .. }
            | Event::AcceptExhausted
            | Event::Settled { .. }
            | Event::OfferFailed { .. }
            | Event::ChannelWritable { .. }
            | Event::Beat { .. } => {}
        }
    }
}

impl Settings {
    /// No time of these counts for longer than this.
    pub(super) fn within(self, longest: Duration) -> Self {
        Self {
            ready_timeout: self.ready_timeout.min(longest),
            drain_timeout: self.drain_timeout.min(longest),
            probation: self.probation.min(longest),
            steal_after: self.steal_after.min(longest),
            care: self.care.within(longest),
            ticket_rotation: self.ticket_rotation.min(longest),
            ..self
        }
    }
}

impl Care {
    /// No time of these counts for longer than this.
    fn within(self, longest: Duration) -> Self {
        let recycle = super::Limits { age: self.recycle.age.map(|age| age.min(longest)), ..self.recycle };
        Self {
            restart_period: self.restart_period.min(longest),
            hang_timeout: self.hang_timeout.map(|timeout| timeout.min(longest)),
            recycle,
            ..self
        }
    }
}
