//! How a run of Everport can fail: one sentence each, which names the operation, the object and the reason.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::ConfigError;
use crate::shell::PrivilegeError;

/// The result of running a master or a worker.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a master or a worker ended otherwise than asked.
///
/// `Debug` prints the same sentence as `Display`, so that `fn main() -> everport::Result<()>` ends with one clear line.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// When a flag, a call of the Builder or an environment variable has a wrong value.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// When `run` was called within an async runtime, which could neither fork nor be driven from there.
    #[error("run was called within an async runtime: call it from a plain fn main, it makes a runtime for each worker")]
    RunInsideRuntime,
    /// When a configured listener could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address as it was given.
        address: String,
        /// The system's reason.
        source: io::Error,
    },
    /// When the pid file belongs to a process that lives.
    #[error("the pid file {path:?} is taken by {}", Holder(*pid))]
    PidFileTaken {
        /// The pid file.
        path: PathBuf,
        /// Who holds it, if the file says so.
        pid: Option<u32>,
    },
    /// When the first generation could not start, so that there is nothing to fall back to.
    #[error("the first generation failed: {reason}")]
    FirstGeneration {
        /// Which worker failed, and how.
        reason: String,
    },
    /// When a worker's application returned an error.
    #[error("the application failed: {0}")]
    Application(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// When workers cannot run as the settings say.
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    /// When the master that was started in the background ended before it served.
    #[error("the master has not started in the background; its reason stands above")]
    DaemonFailed,
    /// When the master that was started in the background neither served nor ended.
    #[error("the master in the background does not serve after {}", humantime::format_duration(*.after))]
    DaemonSilent {
        /// How long it was waited for.
        after: Duration,
    },
    /// When the system refused something else.
    #[error("cannot {operation} {object}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        object: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: the system refused `operation` on `object`.
    pub(crate) fn io(operation: &'static str, object: &dyn fmt::Display) -> impl FnOnce(io::Error) -> Self + use<> {
        let object = object.to_string();
        move |source| Self::Io { operation, object, source }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The holder of a file, in words.
struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
