//! What the control socket answers, as JSON: plain data, the same for both ends.
//!
//! | request | answer | status |
//! |---|---|---|
//! | `GET /status` | [`Status`] | 200 |
//! | `POST /reload` | [`ReloadRecord`], when the reload has ended | 200 committed, 409 rolled back |
//! | `POST /reload?wait=false` | [`Begun`], at once | 202 |
//! | `POST /rollback` | [`ReloadRecord`] of the reload that was rolled back; [`Refusal`] if none was under way | 200, 409 |
//! | `POST /stop`, `POST /stop?now=true` | [`Stopping`], at once | 202 |
//! | `POST /scale?to=N`, `?up=N`, `?down=N` | [`Scaled`], at once | 200 |
//! | `POST /pause`, `POST /resume` | [`Pausing`], at once | 200 |
//! | `POST /policy?listener=NAME&policy=P` | [`Respread`], at once | 200, 404 when there is no such listener, 409 when it needs a new socket |
//! | `POST /weight?slot=N&weight=W` | [`Weighed`], at once | 200, 404 when there is no such slot |
//! | `POST /kill?worker=ID` | [`Killing`], at once | 200, 404 when there is no such worker |
//! | `POST /reopen` | [`Reopened`] | 200, 500 if a file could not be opened |
//! | anything that fails | [`Refusal`] | 400, 404, 405; 503 when the master is stopping, or too busy |
//!
//! Names are part of the interface: fields are only added, with `#[serde(default)]`, for a newer command asks an older
//! master until that is upgraded.

mod reload;
mod status;
#[cfg(test)]
pub(crate) mod tests;

use everport_handoff::id::{Generation, Slot, WorkerId};
use serde::{Deserialize, Serialize};

use crate::config::Policy;

pub(crate) use self::reload::{AskedBy, AuditLine, Begun, BegunState, Ordered, ReloadOutcome, ReloadRecord};
pub(crate) use self::status::{
    GenerationState, GenerationStatus, ListenerStatus, MasterState, ReloadStatus, ReloadStep, RestingStatus, Status,
    WorkerState, WorkerStatus,
};

/// The master has begun to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopping {
    /// Whether it drops everything instead of draining.
    pub(crate) at_once: bool,
    /// How long the stop may take.
    pub(crate) drain_timeout_ms: u64,
}

/// The number of workers has been set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scaled {
    /// How many there were to be before.
    pub(crate) before: u32,
    /// How many there are to be now.
    pub(crate) workers: u32,
}

/// The workers take no connections for now, or take them again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pausing {
    pub(crate) paused: bool,
    /// Whether it was otherwise before.
    pub(crate) changed: bool,
}

/// The connections of a listener are spread by this policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Respread {
    /// The listener's name.
    pub(crate) listener: String,
    pub(crate) before: Policy,
    pub(crate) policy: Policy,
}

/// A slot has this weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Weighed {
    pub(crate) slot: Slot,
    pub(crate) before: u32,
    pub(crate) weight: u32,
}

/// A worker has been killed; it is replaced as after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Killing {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) generation: Generation,
    /// How long it has to hand over and to finish; nothing if it is killed at once.
    #[serde(default)]
    pub(crate) grace_ms: Option<u64>,
}

/// The log files have been opened again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reopened {
    /// The files that are new now.
    pub(crate) files: Vec<String>,
    /// Why others are still the old ones.
    pub(crate) failures: Vec<String>,
}

/// Why a request got no other answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) error: String,
}
