//! The end of listeners that a committed generation no longer has: nobody who waits there is left behind.
//!
//! ```text
//! commit --> shut out, and the old generation still takes what comes from there --calm, or time is up--> closed; it drains
//! ```
//!
//! Only then the old generation drains. On everything else it takes nothing new meanwhile, but for listeners that it
//! shares. The reload has been committed before.
//!
//! Invariants: no reload begins, and at most one generation clears, at a time. It ends after `CLEARING` at the latest.

use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId};

use super::{Action, GenerationState, KillReason, Machine, WorkerState};

/// A generation on its way out that still serves these listeners to their end.
#[derive(Debug)]
pub(super) struct Clearing {
    generation: Generation,
    listeners: Vec<ListenerId>,
    /// When somebody was last seen waiting.
    stirred: Instant,
    look_at: Instant,
    until: Instant,
}

impl Clearing {
    /// The listeners that must not be closed yet.
    pub(super) fn listeners(&self) -> &[ListenerId] {
        &self.listeners
    }
}

/// How often it is looked whether somebody waits. The kernel does not tell when a queue gets empty.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long nobody must have been seen. Longer than most round trips: whoever was answered just before can still arrive.
const CALM: Duration = Duration::from_millis(200);
/// How long it may take in all: many times what workers need that live.
const CLEARING: Duration = Duration::from_secs(2);

impl Machine {
    /// The committed generation has replaced this one: it drains, if need be after it has cleared its own listeners.
    pub(super) fn clear_and_retire(&mut self, old: Generation, now: Instant, actions: &mut Vec<Action>) {
        self.listeners.drop_claims(old);
        let listeners = self.listeners.unclaimed_in_use();
        if listeners.is_empty() {
            return self.retire(old, now, actions);
        }
        self.generations.insert(old, GenerationState::Draining { since: now });
        self.supervision.vacate(old);
        for id in self.supervision.of_generation(old) {
            match self.supervision.get(id).map(|worker| worker.state) {
                Some(WorkerState::Starting { .. } | WorkerState::Ready { .. }) => {
                    self.kill(id, KillReason::NotNeeded, now, actions);
                }
                Some(WorkerState::Paused { .. }) => self.activate(id, now, actions),
                _ => {}
            }
            for other in self.listeners.used_by(id).into_iter().filter(|used| !listeners.contains(used)) {
                self.scheduler.remove_use(id, other);
            }
        }
        actions.extend(listeners.iter().map(|&listener| Action::ShutOut { listener }));
        self.clearing = Some(Clearing {
            generation: old,
            listeners,
            stirred: now,
            look_at: now + LOOK_EVERY,
            until: now + CLEARING,
        });
    }

    /// Looks again, or ends it when all is calm, or nobody is left who could take anything.
    pub(super) fn clear(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(clearing) = &mut self.clearing else {
            return;
        };
        let old = clearing.generation;
        let is_calm = now.saturating_duration_since(clearing.stirred) >= CALM;
        let takes = |state| matches!(state, WorkerState::Active { .. } | WorkerState::Leaving { .. });
        let is_served = self.supervision.workers().any(|(_, worker)| worker.generation == old && takes(worker.state));
        if is_calm || now >= clearing.until || !is_served {
            self.end_clearing(now, actions);
        } else if now >= clearing.look_at {
            clearing.look_at = now + LOOK_EVERY;
            actions.extend(clearing.listeners.iter().map(|&listener| Action::Look { listener }));
        }
    }

    /// The answer to `Look`.
    pub(super) fn looked(&mut self, listener: ListenerId, awaited: bool, now: Instant) {
        let busy = awaited || !self.scheduler.is_clear(listener);
        if let Some(clearing) = self.clearing.as_mut().filter(|_| busy) {
            clearing.stirred = now;
        }
    }

    /// Somebody wants the listener after all: it stays, and everybody gets in again.
    pub(super) fn rescue(&mut self, listener: ListenerId, actions: &mut Vec<Action>) {
        if let Some(clearing) = &mut self.clearing
            && let Some(index) = clearing.listeners.iter().position(|other| *other == listener)
        {
            clearing.listeners.remove(index);
            actions.push(Action::LetIn { listener });
        }
    }

    /// The listeners are closed, and the generation drains.
    pub(super) fn end_clearing(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Clearing { generation, .. }) = self.clearing.take() {
            self.close_unclaimed(actions);
            self.retire(generation, now, actions);
        }
    }

    pub(super) fn clearing_deadline(&self) -> Option<Instant> {
        self.clearing.as_ref().map(|clearing| clearing.look_at.min(clearing.until))
    }
}
