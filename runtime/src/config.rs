//! What the master is told to do: the settings, their defaults and their limits.
//!
//! Owns the whole way from text to a [`Config`]: [`raw`] collects values with the place they come from (flag or Builder,
//! then environment, then default), and its one gate turns them into a `Config` or into one sentence that says what is
//! wrong. Invariant: a `Config` is valid; nobody checks a setting again.

mod error;
mod raw;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use everport_handoff::address::ListenAddress;
use serde::{Deserialize, Serialize};

pub use self::error::ConfigError;
pub(crate) use self::error::Problem;
pub(crate) use self::raw::{Given, RawConfig, Setting, Source, control_path, thread_count};

/// How connections are spread over the workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Policy {
    /// `rr`: the master accepts and offers connections to the workers in turn.
    #[default]
    #[serde(rename = "rr")]
    RoundRobin,
    /// `none`: every worker holds the listener, and the kernel picks. `shared` is another name for it.
    #[serde(rename = "none")]
    None,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "rr" => Ok(Self::RoundRobin),
            "none" | "shared" => Ok(Self::None),
            _ => Err(UnknownPolicy),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundRobin => "rr",
            Self::None => "none",
        })
    }
}

/// The text names no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy, the known ones are rr and none (also called shared)")]
pub struct UnknownPolicy;

/// When a worker is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Readiness {
    /// `auto`: when it first polls `accept`, or receives on UDP, with every `bind` that it asked for answered.
    #[default]
    Auto,
    /// `manual`: when it says `worker.ready()`.
    Manual,
}

impl FromStr for Readiness {
    type Err = UnknownReadiness;

    fn from_str(text: &str) -> Result<Self, UnknownReadiness> {
        match text {
            "auto" => Ok(Self::Auto),
            "manual" => Ok(Self::Manual),
            _ => Err(UnknownReadiness),
        }
    }
}

impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
        })
    }
}

/// The text names no readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("want auto or manual")]
pub struct UnknownReadiness;

/// What a worker executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// This very program again, with the same arguments.
    #[default]
    Embedded,
    /// A program of its own, found as a shell would find it.
    Command { program: OsString, arguments: Vec<OsString> },
}

/// The settings of a master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// The listeners that are bound at start. Workers may ask for more.
    pub(crate) listen: Vec<ListenAddress>,
    /// How many slots a generation has, at most [`MAX_WORKERS`].
    pub(crate) workers: NonZeroU32,
    pub(crate) policy: Policy,
    pub(crate) pid_file: Option<PathBuf>,
    /// Where the control socket is bound.
    pub(crate) control: Option<PathBuf>,
    /// How long a worker may drain before what is left is cut. Zero cuts at once.
    pub(crate) drain_timeout: Duration,
    /// How long a worker may take from its start until it is ready. Never zero.
    pub(crate) ready_timeout: Duration,
    pub(crate) readiness: Readiness,
    /// How long a draining worker waits for the first bytes of the streams that it has taken.
    pub(crate) first_byte_grace: Duration,
    /// How long a worker may leave an offer untaken before another gets the connection.
    pub(crate) steal_after: Duration,
    pub(crate) program: Program,
}

/// More workers than any machine has processors for: a larger number is a slip of the finger.
pub(crate) const MAX_WORKERS: u32 = 1024;

/// More runtime threads in one worker than any machine has processors for.
pub(crate) const MAX_THREADS: usize = 1024;

/// Enough for every port of a large program, and few enough to fit into one process's descriptors.
pub(crate) const MAX_LISTENERS: usize = 128;

/// The longest time that a setting may ask for: long enough for any drain, and safe to add to any point in time.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest path that a unix socket can be bound to: `sun_path` without its final zero.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_BYTE_GRACE: Duration = Duration::from_secs(1);
const STEAL_AFTER: Duration = Duration::from_millis(50);

/// Variables of the master's environment that its workers do not get: a master inside a worker must not fight for the same
/// files, and systemd's sockets and notifications are the master's alone. `EVERPORT_LOG_FORMAT` and `RUST_LOG` do pass on.
pub(crate) const MASTER_ENVIRONMENT: [&str; 12] = [
    "EVERPORT_LISTEN",
    "EVERPORT_WORKERS",
    "EVERPORT_SCHED_POLICY",
    "EVERPORT_PID_FILE",
    "EVERPORT_CONTROL",
    "EVERPORT_DRAIN_TIMEOUT",
    "EVERPORT_READY_TIMEOUT",
    "EVERPORT_READY",
    "NOTIFY_SOCKET",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
];
