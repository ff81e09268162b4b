//! The keys of TLS session tickets: when they are made and rotated, and which workers get them.
//!
//! They are made when the first worker asks, and rotated once per `ticket_rotation` from then on, whoever is there: a
//! generation to come shall open the tickets of this one. A worker that asked is sent them again at every rotation, until it
//! is on its way out for a reason other than a drain. One that never asked is sent none.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use everport_handoff::id::WorkerId;

use super::{Action, Machine, WorkerState};

#[derive(Debug)]
pub(super) struct Rotation {
    period: Duration,
    /// When the keys are rotated next; never before there are any.
    next: Option<Instant>,
    /// The workers that asked and have not exited.
    wanted_by: BTreeSet<WorkerId>,
}

impl Rotation {
    pub(super) fn new(period: Duration) -> Self {
        Self { period, next: None, wanted_by: BTreeSet::new() }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn exited(&mut self, worker: WorkerId) {
        self.wanted_by.remove(&worker);
    }

    /// Also late, this is one rotation: no key is the current one for less than a period.
    fn rotate(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.next = Some(now + self.period);
        actions.push(Action::RotateTicketKeys);
    }
}

impl Machine {
    pub(super) fn ticket_keys_wanted(&mut self, worker: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        if !self.may_have_ticket_keys(worker) || !self.rotation.wanted_by.insert(worker) {
            return;
        }
        if self.rotation.next.is_none() {
            self.rotation.rotate(now, actions);
        }
        actions.push(Action::SendTicketKeys { worker });
    }

    /// Rotates the keys, if it is time.
    pub(super) fn rotate_ticket_keys(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.rotation.next.is_some_and(|next| next <= now) {
            self.rotation.rotate(now, actions);
            let wanted_by = self.rotation.wanted_by.iter().copied();
            let sent = wanted_by.filter(|worker| self.may_have_ticket_keys(*worker));
            actions.extend(sent.map(|worker| Action::SendTicketKeys { worker }));
        }
    }

    /// Whether the worker serves somebody, or will.
    fn may_have_ticket_keys(&self, worker: WorkerId) -> bool {
        let state = self.supervision.get(worker).map(|worker| worker.state);
        matches!(
            state,
            Some(
                WorkerState::Starting { .. }
                    | WorkerState::Ready { .. }
                    | WorkerState::Active { .. }
                    | WorkerState::Paused { .. }
                    | WorkerState::Leaving { .. }
                    | WorkerState::Draining { .. }
            )
        )
    }
}
