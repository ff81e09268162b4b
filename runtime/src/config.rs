//! What the master is told to do: the settings, their defaults and their limits.
//!
//! Owns the whole way from text to a [`Config`]: `key` is the table of all settings, `raw` collects values with the place
//! they come from (flag or Builder, then environment, then file, then default), and `gate` turns them into a `Config` or into
//! one sentence that says what is wrong. Invariant: a `Config` is valid; nobody checks a setting again.

mod effective;
mod error;
mod file;
mod gate;
mod key;
mod origin;
mod raw;
mod read;
#[cfg(test)]
mod tests;
mod word;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use everport_handoff::address::ListenAddress;
pub use everport_handoff::policy::{Policy, UnknownPolicy};
use nix::sys::signal::Signal;

pub(crate) use self::effective::{Effective, effective};
pub use self::error::ConfigError;
pub(crate) use self::error::{Problem, quoted};
pub(crate) use self::gate::{control_path, thread_count};
pub(crate) use self::key::{Default as KeyDefault, KEYS, Key, Kind, Setting, master_environment};
pub(crate) use self::origin::Origin;
pub(crate) use self::raw::{Face, RawConfig, Source};
pub(crate) use self::word::{Protocol, UnknownProtocol};
pub use self::word::{Readiness, Strategy, UnknownReadiness, UnknownStrategy};

/// What a worker executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Program {
    /// This very program again, with the same arguments.
    #[default]
    Embedded,
    /// A program of its own, found as a shell would find it.
    Command { program: OsString, arguments: Vec<OsString> },
}

/// The settings of a master. What they are for, their defaults and the reasons for those: `ops/configuration.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) program: Program,
    /// The listeners that are bound at start. Workers may ask for more.
    pub(crate) listen: Vec<ListenAddress>,
    /// How many slots a generation has, at most [`MAX_WORKERS`].
    pub(crate) workers: NonZeroU32,
    pub(crate) policy: Policy,
    /// How many connections a worker may have. Never zero, and not under policy `none`.
    pub(crate) max_connections: Option<u64>,
    /// Whether connections that no worker may have are closed. Only with `max_connections`.
    pub(crate) shed: bool,
    pub(crate) protocol: Protocol,
    pub(crate) readiness: Readiness,
    /// How long a worker may take from its start until it is ready. Never zero.
    pub(crate) ready_timeout: Duration,
    /// When a program under `listen-fds` is believed to be ready if nothing shows it. Only with that protocol.
    pub(crate) ready_after: Option<Duration>,
    /// How long a worker may drain before what is left is cut. Zero cuts at once.
    pub(crate) drain_timeout: Duration,
    /// How long a connection that cannot move may wait for its next response while its worker drains.
    pub(crate) drain_grace: Duration,
    /// What makes a program under `listen-fds` drain. Never KILL or STOP.
    pub(crate) drain_signal: Signal,
    /// How many generations may drain at once, from 1 to 64.
    pub(crate) drain_generations: u32,
    /// How old a draining generation may be before the next reload waits for its end.
    pub(crate) drain_age: Option<Duration>,
    /// How much memory, in bytes, draining generations may have before the next reload waits.
    pub(crate) drain_memory: Option<u64>,
    pub(crate) strategy: Strategy,
    /// How long the old generation stays warm after activation of the new one. Zero: not at all.
    pub(crate) probation: Duration,
    /// How long a worker may show no life. Never zero.
    pub(crate) hang_timeout: Option<Duration>,
    /// How many crashes within `restart_period` a slot, and a generation, is allowed before it rests. Never zero.
    pub(crate) restart_limit: u32,
    pub(crate) restart_period: Duration,
    /// How much memory, in bytes, a worker may have. Never zero.
    pub(crate) recycle_memory: Option<u64>,
    /// How old a worker may become. Never zero.
    pub(crate) recycle_age: Option<Duration>,
    /// How many connections a worker may take. Never zero.
    pub(crate) recycle_connections: Option<u64>,
    /// How many workers may be under replacement by recycling at once. Never zero.
    pub(crate) recycle_at_once: u32,
    /// How long one key seals TLS session tickets. At least a second, for their life is told in seconds.
    pub(crate) ticket_rotation: Duration,
    /// Variables that the workers get beside the master's own.
    pub(crate) env: BTreeMap<String, String>,
    /// Whom the workers run as: a name or a number.
    pub(crate) user: Option<String>,
    pub(crate) group: Option<String>,
    pub(crate) no_new_privs: bool,
    /// At most 0o777.
    pub(crate) umask: Option<u32>,
    /// From -20 to 19.
    pub(crate) nice: Option<i32>,
    /// From -1000 to 1000.
    pub(crate) oom_score_adj: Option<i32>,
    /// The workers' soft limit of descriptors, if it is not the one that the master was started with.
    pub(crate) nofile: Option<u64>,
    pub(crate) directory: Option<PathBuf>,
    /// Where workers may read, if that is limited.
    pub(crate) sandbox_read: Vec<PathBuf>,
    /// Where workers may read and write, if that is limited.
    pub(crate) sandbox_write: Vec<PathBuf>,
    pub(crate) pid_file: Option<PathBuf>,
    /// Where the control socket is bound.
    pub(crate) control: Option<PathBuf>,
    pub(crate) daemon: bool,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) worker_log_file: Option<PathBuf>,
    pub(crate) audit_file: Option<PathBuf>,
    /// How long a draining worker waits for the first bytes of the streams that it has taken.
    pub(crate) first_byte_grace: Duration,
    /// How long a worker may leave an offer untaken before another gets the connection.
    pub(crate) steal_after: Duration,
}

impl Config {
    /// Why a listener with a policy of its own cannot be had with these settings, if so.
    pub(crate) fn refuses(&self, policy: Option<Policy>) -> Option<Problem> {
        match policy {
            Some(Policy::Split) if self.max_connections.is_some() => Some(Problem::SplitHasNoLimit),
            Some(Policy::None) if self.shed => Some(Problem::NotTheMastersToShed),
            _ => None,
        }
    }
}

/// More workers than any machine has processors for: a larger number is a slip of the finger.
pub(crate) const MAX_WORKERS: u32 = 1024;

/// More runtime threads in one worker than any machine has processors for.
pub(crate) const MAX_THREADS: usize = 1024;

/// Enough for every port of a large program, and few enough to fit into one process's descriptors.
pub(crate) const MAX_LISTENERS: usize = 128;

/// The longest time that a setting may ask for: long enough for any drain, and safe to add to any point in time.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The longest configuration file that is read, in bytes: many times what all keys take.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// The longest path that a unix socket can be bound to: `sun_path` without its final zero.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

const FIRST_BYTE_GRACE: Duration = Duration::from_secs(1);
const STEAL_AFTER: Duration = Duration::from_millis(50);
