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

use std::fmt;

use everport_handoff::id::{Generation, Slot, WorkerId};
use serde::{Deserialize, Serialize};

use crate::config::Policy;

/// The master at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) pid: u32,
    /// The version of Everport that the master runs.
    pub(crate) version: String,
    pub(crate) state: MasterState,
    pub(crate) uptime_seconds: u64,
    pub(crate) policy: Policy,
    /// How many slots the active generation has, or will have as soon as no reload is under way.
    #[serde(default)]
    pub(crate) slots: u32,
    /// The oldest first.
    pub(crate) generations: Vec<GenerationStatus>,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) last_reload: Option<ReloadRecord>,
    /// The reload under way, or the one that waits to begin.
    #[serde(default)]
    pub(crate) reload: Option<ReloadStatus>,
    /// The last few reloads that have ended, the oldest first.
    #[serde(default)]
    pub(crate) reloads: Vec<ReloadRecord>,
}

/// What the master is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MasterState {
    /// The first generation is not ready yet.
    Starting,
    Running,
    /// As `Running`, but the workers take no connections until somebody says `resume`.
    Paused,
    Reloading,
    Stopping,
}

/// The workers of one reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationStatus {
    pub(crate) generation: Generation,
    pub(crate) state: GenerationState,
    /// How long it has been in this state.
    pub(crate) since_seconds: u64,
    /// By slot.
    pub(crate) workers: Vec<WorkerStatus>,
    /// The slots whose workers failed too often, by slot.
    #[serde(default)]
    pub(crate) resting: Vec<RestingStatus>,
}

/// A slot that rests: it is filled at a slow pace until one of its workers has been steady.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestingStatus {
    pub(crate) slot: Slot,
    /// How long it has rested.
    pub(crate) since_seconds: u64,
    /// In how long the next worker is started; nothing while one fills the slot.
    pub(crate) retry_in_seconds: Option<u64>,
}

/// Where a generation is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GenerationState {
    /// Not all of its workers are ready.
    Starting,
    /// It takes connections, and the one before it can still be resumed.
    Probation,
    /// It takes connections.
    Active,
    /// The next one is on probation: it keeps what it has, and can take connections again at once.
    Paused,
    /// It finishes what it has.
    Draining,
    /// It could not start; what is left of it goes.
    Failed,
}

/// One worker and what became of the connections offered to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerStatus {
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    /// Nothing once the process is reaped.
    pub(crate) pid: Option<u32>,
    pub(crate) state: WorkerState,
    /// How long it has been in this state.
    pub(crate) since_seconds: u64,
    /// In how long it is killed, or drained if it is leaving, should it still be in this state.
    #[serde(default)]
    pub(crate) deadline_in_seconds: Option<u64>,
    /// How long ago its process was started.
    #[serde(default)]
    pub(crate) uptime_seconds: u64,
    /// Its resident memory.
    #[serde(default)]
    pub(crate) memory_bytes: Option<u64>,
    /// How often this slot of this generation was filled again after a crash.
    pub(crate) restarts: u64,
    /// How much its slot gets, against the others; nothing from a master that knows no weights.
    #[serde(default)]
    pub(crate) weight: Option<u32>,
    /// Connections that it serves now.
    pub(crate) active: u64,
    /// Other work that keeps it alive while it drains.
    #[serde(default)]
    pub(crate) guards: u64,
    pub(crate) offered: u64,
    pub(crate) taken: u64,
    pub(crate) refused: u64,
    pub(crate) revoked: u64,
}

/// Where a worker is between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerState {
    /// Spawned, but it has not said that it can serve.
    Starting,
    /// It can serve, and waits for its generation to be activated.
    Ready,
    /// It takes connections.
    Active,
    /// It takes nothing, keeps what it has, and can take connections at once.
    Paused,
    /// It asked to leave or has served enough, and takes connections until its replacement is ready.
    Leaving,
    /// It finishes what it has.
    Draining,
    /// It has nothing left to finish; its process has not exited yet.
    Drained,
    /// It closed its channel; its process has not exited yet.
    Silent,
    /// It showed no life for too long and was told to abort; its process has not exited yet.
    Hung,
    /// It was killed; its process has not been reaped yet.
    Killed,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListenerStatus {
    /// Its configured name or its address as asked for.
    pub(crate) name: String,
    /// The address that it is bound to.
    pub(crate) address: String,
    pub(crate) policy: Policy,
    /// Accepted connections that wait for a worker with credit.
    pub(crate) queue: u64,
    /// Connections that the master has accepted since it bound the listener.
    pub(crate) accepted: u64,
    /// Whether the master accepts from it at the moment.
    pub(crate) accepting: bool,
    /// Connections that the master has closed because no worker might have them.
    #[serde(default)]
    pub(crate) shed: u64,
}

/// A reload that has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReloadStatus {
    /// The generation that it starts.
    pub(crate) generation: Generation,
    pub(crate) step: ReloadStep,
    /// The slot that a rolling reload is at.
    pub(crate) slot: Option<Slot>,
    /// How long the probation still lasts.
    pub(crate) left_seconds: Option<u64>,
    /// Whether a reload waits: this one, or another behind it.
    pub(crate) pending: bool,
    /// Why it does not begin.
    pub(crate) why: Option<String>,
}

/// How far a reload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReloadStep {
    /// It waits to begin.
    Pending,
    /// All new workers start.
    Starting,
    /// The new worker of one slot starts.
    Rolling,
    /// The new generation serves, and may still be rolled back.
    Probation,
}

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
    /// Connections of that generation that were cut at the deadline.
    pub(crate) cut: u64,
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
        cut: u64,
        draining_ms: u64,
    },
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record() -> ReloadRecord {
        ReloadRecord {
            generation: Generation(3),
            asked_by: AskedBy::Control { pid: 812, uid: 1000 },
            at: "2026-01-02T03:04:05Z".to_owned(),
            outcome: ReloadOutcome::Committed,
            reason: None,
            workers: 2,
            starting_ms: 41,
            total_ms: 52,
            finished: 10,
            cut: 1,
            asked: 2,
            waited_ms: 7,
            probation_ms: 9,
            retired: Some(Generation(2)),
            draining_ms: Some(1500),
        }
    }

    pub(crate) fn status() -> Status {
        let worker = WorkerStatus {
            worker: WorkerId(5),
            slot: Slot(0),
            pid: Some(4720),
            state: WorkerState::Active,
            since_seconds: 65,
            deadline_in_seconds: None,
            uptime_seconds: 66,
            memory_bytes: Some(12 << 20),
            restarts: 0,
            weight: Some(1),
            active: 7,
            guards: 1,
            offered: 1000,
            taken: 990,
            refused: 1,
            revoked: 2,
        };
        let gone = WorkerStatus {
            worker: WorkerId(9),
            slot: Slot(1),
            pid: None,
            state: WorkerState::Killed,
            since_seconds: 0,
            deadline_in_seconds: None,
            uptime_seconds: 3,
            memory_bytes: None,
            restarts: 3,
            weight: Some(5),
            active: 0,
            guards: 0,
            offered: 20,
            taken: 19,
            refused: 0,
            revoked: 1,
        };
        Status {
            pid: 4711,
            version: "0.1.0".to_owned(),
            state: MasterState::Running,
            uptime_seconds: 3665,
            policy: Policy::RoundRobin,
            slots: 2,
            generations: vec![GenerationStatus {
                generation: Generation(3),
                state: GenerationState::Active,
                since_seconds: 65,
                workers: vec![worker, gone],
                resting: vec![RestingStatus { slot: Slot(1), since_seconds: 40, retry_in_seconds: Some(12) }],
            }],
            listeners: vec![ListenerStatus {
                name: "127.0.0.1:8000".to_owned(),
                address: "127.0.0.1:8000".to_owned(),
                policy: Policy::RoundRobin,
                queue: 0,
                accepted: 1020,
                accepting: true,
                shed: 4,
            }],
            last_reload: Some(record()),
            reload: Some(ReloadStatus {
                generation: Generation(4),
                step: ReloadStep::Probation,
                slot: None,
                left_seconds: Some(12),
                pending: false,
                why: None,
            }),
            reloads: Vec::new(),
        }
    }

    const STATUS: &str = concat!(
        r#"{"pid":4711,"version":"0.1.0","state":"running","uptime_seconds":3665,"policy":"rr","slots":2,"#,
        r#""generations":[{"#,
        r#""generation":3,"state":"active","since_seconds":65,"workers":[{"worker":5,"slot":0,"pid":4720,"#,
        r#""state":"active","since_seconds":65,"deadline_in_seconds":null,"uptime_seconds":66,"memory_bytes":12582912,"#,
        r#""restarts":0,"weight":1,"active":7,"guards":1,"offered":1000,"taken":990,"refused":1,"#,
        r#""revoked":2},{"worker":9,"slot":1,"pid":null,"state":"killed","since_seconds":0,"#,
        r#""deadline_in_seconds":null,"uptime_seconds":3,"memory_bytes":null,"restarts":3,"weight":5,"active":0,"guards":0,"#,
        r#""offered":20,"taken":19,"refused":0,"revoked":1}],"#,
        r#""resting":[{"slot":1,"since_seconds":40,"retry_in_seconds":12}]}],"listeners":[{"name":"127.0.0.1:8000","#,
        r#""address":"127.0.0.1:8000","policy":"rr","queue":0,"accepted":1020,"accepting":true,"shed":4}],"last_reload":{"#,
        r#""generation":3,"asked_by":{"by":"control","pid":812,"uid":1000},"at":"2026-01-02T03:04:05Z","#,
        r#""outcome":"committed","reason":null,"workers":2,"starting_ms":41,"total_ms":52,"finished":10,"#,
        r#""cut":1,"asked":2,"waited_ms":7,"probation_ms":9,"retired":2,"draining_ms":1500},"reload":{"#,
        r#""generation":4,"step":"probation","slot":null,"left_seconds":12,"pending":false,"why":null},"reloads":[]}"#,
    );

    #[test]
    fn the_json_of_a_status_is_this_and_no_other() {
        assert_eq!(serde_json::to_string(&status()).unwrap(), STATUS);
        assert_eq!(serde_json::from_str::<Status>(STATUS).unwrap(), status());
    }

    #[test]
    fn the_json_of_the_other_answers_is_this_and_no_other() {
        let stopping = Stopping { at_once: false, drain_timeout_ms: 30_000 };
        assert_eq!(serde_json::to_string(&stopping).unwrap(), r#"{"at_once":false,"drain_timeout_ms":30000}"#);
        let refusal = Refusal { error: "the master is stopping".to_owned() };
        assert_eq!(serde_json::to_string(&refusal).unwrap(), r#"{"error":"the master is stopping"}"#);
        let signal = AskedBy::Signal { pid: 1, uid: 0 };
        assert_eq!(serde_json::to_string(&signal).unwrap(), r#"{"by":"signal","pid":1,"uid":0}"#);
    }

    #[test]
    fn a_field_of_a_newer_master_is_passed_over() {
        let newer = r#"{"at_once":true,"drain_timeout_ms":1,"mood":"fine"}"#;
        let stopping: Stopping = serde_json::from_str(newer).unwrap();
        assert_eq!(stopping, Stopping { at_once: true, drain_timeout_ms: 1 });
    }
}
