//! What is said of the master's state to those outside who wait for it: the service manager, and the process that started a
//! master in the background.

use tracing::warn;

use super::Shell;
use crate::control::protocol::{MasterState, ReloadOutcome};
use crate::machine::{Action, GenerationState, WorkerState};

impl Shell {
    /// Says what has changed since the last time.
    pub(super) fn announce_state(&mut self) {
        if std::mem::take(&mut self.has_news) {
            let state = self.state();
            let before = std::mem::replace(&mut self.announced, state);
            if before == MasterState::Starting && !matches!(state, MasterState::Starting | MasterState::Stopping) {
                self.serves();
            }
            let line = self.state_in_a_line();
            self.manager.status(line);
        }
        self.manager.keep_up();
    }

    /// The first generation serves.
    fn serves(&mut self) {
        self.manager.ready();
        if let Some(notice) = self.notice.take()
            && let Err(error) = notice.serves()
        {
            warn!(%error, "terminal not let go of");
        }
    }

    /// Generation and counts, and the last reload if it failed.
    fn state_in_a_line(&self) -> String {
        let is_active = |state| matches!(state, GenerationState::Active { .. });
        let generation = self.machine.generations().filter(|(_, state)| is_active(*state)).last();
        let count =
            |wanted: fn(&WorkerState) -> bool| self.machine.workers().filter(|view| wanted(&view.state)).count();
        let active = count(|state| matches!(state, WorkerState::Active { .. }));
        let draining = count(|state| matches!(state, WorkerState::Draining { .. }));
        let mut line = match generation {
            Some((generation, _)) => format!("generation {generation}: {active} workers serve"),
            None => "no generation serves".to_owned(),
        };
        if draining > 0 {
            line += &format!(", {draining} drain");
        }
        match self.records.reloads().next_back() {
            Some(record) if record.outcome == ReloadOutcome::RolledBack => {
                let reason = record.reason.as_deref().unwrap_or_default().replace('\n', " ");
                line + &format!("; the reload to generation {} was rolled back: {reason}", record.generation)
            }
            _ => line,
        }
    }
}

/// Whether an action is about connections and says nothing of workers and generations.
pub(super) fn is_traffic(action: &Action) -> bool {
    matches!(
        action,
        Action::StartAccepting { .. }
            | Action::StopAccepting { .. }
            | Action::Offer { .. }
            | Action::Revoke { .. }
            | Action::AskBeat { .. }
            | Action::Ring { .. }
            | Action::FreeWord { .. }
            | Action::Close { .. }
            | Action::Shutdown { .. }
    )
}
