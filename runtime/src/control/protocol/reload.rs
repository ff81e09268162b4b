//! What is said of a reload: that it has begun, how it went, and the lines of the audit file.

use std::fmt;

use everport_handoff::id::Generation;
use serde::{Deserialize, Serialize};

use super::{Killing, Pausing, Respread, Scaled, Weighed};
use crate::config::Strategy;

/// What has begun when nobody waits for the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The generation that starts, or will start.
    pub(crate) generation: Generation,
    pub(crate) state: BegunState,
    /// What it waits for.
    pub(crate) why: Option<String>,
}

/// What became of a reload at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BegunState {
    /// Its workers start.
    Started,
    /// It waits.
    Pending,
    /// It could not even start; its record is the last one.
    Ended,
}

/// How one reload went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadRecord {
    /// The generation that it started.
    pub(crate) generation: Generation,
    /// The first who asked for it.
    pub(crate) asked_by: AskedBy,
    /// When it began: RFC 3339, UTC.
    pub(crate) at: String,
    pub(crate) outcome: ReloadOutcome,
    /// Why it was rolled back.
    pub(crate) reason: Option<String>,
    /// How many workers the new generation has.
    pub(crate) workers: u32,
    /// From the first spawn until the new generation served, or until the failure.
    pub(crate) starting_ms: u64,
    /// From the start to the outcome.
    pub(crate) total_ms: u64,
    /// Connections that came to their own end while the generation drained that the outcome retired, so far.
    pub(crate) finished: u64,
    /// Connections that were closed gently at the soft deadline.
    #[serde(default)]
    pub(crate) lingered: u64,
    /// Connections of that generation that were cut at the deadline.
    pub(crate) cut: u64,
    /// Connections of that generation that moved to others.
    #[serde(default)]
    pub(crate) moved: u64,
    /// How many asked for it.
    #[serde(default)]
    pub(crate) asked: u64,
    /// From the first who asked to the start.
    #[serde(default)]
    pub(crate) waited_ms: u64,
    /// How long the new generation served on probation.
    #[serde(default)]
    pub(crate) probation_ms: u64,
    /// The generation that drains because of the outcome: the old one, or the new one if it had served already.
    #[serde(default)]
    pub(crate) retired: Option<Generation>,
    /// How long that one drained; nothing while it does.
    #[serde(default)]
    pub(crate) draining_ms: Option<u64>,
    /// In which order it replaced the workers; nothing if it never came to that.
    #[serde(default)]
    pub(crate) strategy: Option<Strategy>,
    /// Why it had to wait, as far as that was the budget of generations that drain: the first reason. `waited_ms` has how
    /// long.
    #[serde(default)]
    pub(crate) delayed: Option<String>,
}

/// One line of the audit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum AuditLine {
    /// A reload has ended. What it retired has not drained yet.
    Reload(ReloadRecord),
    /// A generation that drained has ended.
    Drained {
        generation: Generation,
        /// RFC 3339, UTC.
        at: String,
        finished: u64,
        #[serde(default)]
        lingered: u64,
        cut: u64,
        #[serde(default)]
        moved: u64,
        draining_ms: u64,
    },
    /// An order that was obeyed, beside reload, rollback and stop.
    Order {
        /// RFC 3339, UTC.
        at: String,
        asked_by: AskedBy,
        #[serde(flatten)]
        order: Ordered,
    },
}

/// What was ordered, with what its client was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "order")]
pub(crate) enum Ordered {
    Scale(Scaled),
    /// Also the end of a pause.
    Pause(Pausing),
    Kill(Killing),
    Policy(Respread),
    Weight(Weighed),
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReloadOutcome {
    /// The new generation serves.
    Committed,
    /// The old generation serves as if nothing had happened.
    RolledBack,
}

/// Who asked for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub(crate) enum AskedBy {
    /// A process sent the signal.
    Signal { pid: u32, uid: u32 },
    /// A client of the control socket.
    Control { pid: u32, uid: u32 },
}

impl fmt::Display for AskedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { pid, uid } => write!(f, "a signal of process {pid}, uid {uid}"),
            Self::Control { pid, uid } => write!(f, "the control client {pid}, uid {uid}"),
        }
    }
}
