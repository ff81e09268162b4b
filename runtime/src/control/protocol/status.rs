//! What `GET /status` answers: the master, its generations, workers and listeners, and the reload under way.

use everport_handoff::id::{Generation, Slot, WorkerId};
use serde::{Deserialize, Serialize};

use super::ReloadRecord;
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
    /// In how long it is killed, or drained if it is leaving, should it still be in this state: the hard deadline of a drain.
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
    /// Connections of this worker that moved to others.
    #[serde(default)]
    pub(crate) given: u64,
    /// Connections of others that moved to this worker; they are among the `taken` ones.
    #[serde(default)]
    pub(crate) received: u64,
    /// In how long connections on which nothing is under way are closed gently, while it drains.
    #[serde(default)]
    pub(crate) soft_deadline_in_seconds: Option<u64>,
    /// How long its oldest connection has lasted.
    #[serde(default)]
    pub(crate) oldest_seconds: Option<u64>,
    /// Requests in progress, where it can tell.
    #[serde(default)]
    pub(crate) requests: u64,
    /// Connections where it can tell that no request is in progress.
    #[serde(default)]
    pub(crate) idle: u64,
    /// Connections that it has not read from yet: a drain gives them `first_byte_grace`.
    #[serde(default)]
    pub(crate) unread: u64,
    /// Connections that it closed at the soft deadline.
    #[serde(default)]
    pub(crate) lingered: u64,
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
