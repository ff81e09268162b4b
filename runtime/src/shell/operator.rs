//! What an operator orders by signal or by the control socket beside reload and stop, and the answers.

use everport_handoff::bootstrap::Identity;
use everport_handoff::id::WorkerId;
use tracing::info;

use super::Shell;
use super::records::millis;
use crate::control::protocol::{AskedBy, Killing, Ordered, Pausing, Scaled};
use crate::machine::{Event, Scale, WorkerState};

impl Shell {
    /// Asks for another number of workers; `None` when the master is stopping.
    pub(super) fn scale(&mut self, asked_by: AskedBy, to: Scale) -> Option<Scaled> {
        if self.machine.is_stopping() {
            return None;
        }
        let before = self.machine.slots();
        self.note(Event::ScaleAsked { to });
        self.pump();
        let workers = self.machine.slots();
        info!(asked_by = asked_by.to_string(), before, workers, "workers scaled");
        let scaled = Scaled { before, workers };
        self.records.ordered(asked_by, Ordered::Scale(scaled));
        Some(scaled)
    }

    /// Asks that the workers take no connections for now, or that they take them again; `None` when the master is stopping.
    pub(super) fn set_paused(&mut self, asked_by: AskedBy, paused: bool) -> Option<Pausing> {
        if self.machine.is_stopping() {
            return None;
        }
        let changed = self.machine.is_paused() != paused;
        let pausing = Pausing { paused, changed };
        self.records.ordered(asked_by, Ordered::Pause(pausing));
        let asked_by = asked_by.to_string();
        match (paused, changed) {
            (true, true) => info!(asked_by, "workers paused; clients wait"),
            (false, true) => info!(asked_by, "workers resumed"),
            (_, false) => info!(asked_by, paused, "nothing to pause or to resume"),
        }
        self.note(if paused { Event::PauseAsked } else { Event::ResumeAsked });
        self.pump();
        Some(pausing)
    }

    /// Drains one worker for a moment, or kills it at once, if there is such a one.
    pub(super) fn kill_worker(&mut self, asked_by: AskedBy, worker: WorkerId) -> Option<Killing> {
        self.process(worker)?;
        let Identity { slot, generation, .. } = self.identity(worker)?;
        info!(asked_by = asked_by.to_string(), %worker, %slot, %generation, "kill asked");
        self.note(Event::KillAsked { worker });
        self.pump();
        let state = self.machine.workers().find(|view| view.worker == worker).map(|view| view.state);
        let grace_ms = match state {
            Some(WorkerState::Draining { since, deadline }) => Some(millis(deadline.saturating_duration_since(since))),
            _ => None,
        };
        let killing = Killing { worker, slot, generation, grace_ms };
        self.records.ordered(asked_by, Ordered::Kill(killing));
        Some(killing)
    }
}
