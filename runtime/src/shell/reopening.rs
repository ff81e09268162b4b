//! Opening the log files again, for the tool that has just moved them away: by `USR1`, and by `everport reopen`.

use std::path::Path;

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::Shell;
use super::surroundings::Output;
use crate::control::protocol::Reopened;
use crate::error::Result;
use crate::telemetry;

/// A reopening under way, and who wants to know what came of it.
#[derive(Debug)]
pub(super) struct Reopening {
    outcome: Reopened,
    answer: Option<oneshot::Sender<Reopened>>,
}

impl Reopening {
    /// Notes what came of one file.
    pub(super) fn note(&mut self, path: &Path, reopened: Result<()>) {
        match reopened {
            Ok(()) => self.outcome.files.push(path.display().to_string()),
            Err(error) => self.outcome.failures.push(error.to_string()),
        }
    }

    /// All files have been opened again, or not.
    pub(super) fn end(self) {
        for reason in &self.outcome.failures {
            warn!(reason, "log file not reopened");
        }
        info!(files = self.outcome.files.len(), "log files reopened");
        if let Some(answer) = self.answer {
            // A client that has gone needs no answer.
            let _ = answer.send(self.outcome);
        }
    }
}

impl Shell {
    /// Opens every log file again.
    pub(super) fn reopen(&self, answer: Option<oneshot::Sender<Reopened>>) {
        let mut reopening = Reopening { outcome: Reopened { files: Vec::new(), failures: Vec::new() }, answer };
        if let Some((path, reopened)) = telemetry::reopen() {
            reopening.note(&path, reopened);
        }
        match &self.output {
            // Its thread ends the reopening.
            Output::Log(log) => log.reopen(reopening),
            _ => reopening.end(),
        }
    }
}
