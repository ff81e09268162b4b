//! Why a setting was not accepted, in one sentence.

use std::ffi::OsStr;
use std::fmt;

use everport_handoff::address::AddressError;

use super::raw::{Setting, Source, quoted};
use super::{MAX_LISTENERS, MAX_SOCKET_PATH, MAX_THREADS, MAX_TIMEOUT, MAX_WORKERS, UnknownPolicy, UnknownReadiness};

/// A setting that is wrong: which, where it came from, the value found and what was wanted.
#[derive(Debug)]
pub struct ConfigError {
    pub(super) setting: Setting,
    pub(super) source: Source,
    /// What was given, quoted so that line breaks and escapes in it stay one harmless line.
    pub(super) value: String,
    pub(super) problem: Problem,
}

impl ConfigError {
    /// The variable's value is wrong.
    pub(crate) fn in_environment(setting: Setting, value: &OsStr, problem: Problem) -> Self {
        Self { setting, source: Source::Environment, value: quoted(value), problem }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {} {}: {}", self.source.name(self.setting), self.value, self.problem)
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// What is wrong with a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("not valid UTF-8")]
    NotUtf8,
    #[error("want a whole number from 1 to {MAX_WORKERS}")]
    Workers,
    #[error("want a whole number from 1 to {MAX_THREADS}")]
    Threads,
    #[error("more than {MAX_LISTENERS} listeners")]
    TooManyListeners,
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    #[error(transparent)]
    Readiness(#[from] UnknownReadiness),
    #[error("{}: found {}, wanted {}", .0.part, .0.found, .0.wanted)]
    Address(#[source] Box<AddressError>),
    #[error("the unit is missing, write for example 30s, 500ms or 1m 30s")]
    UnitMissing,
    #[error("not a duration, write for example 30s, 500ms or 1m 30s")]
    Duration,
    #[error("too long, or finer than a nanosecond")]
    OutOfRange,
    #[error("longer than {}", humantime::format_duration(MAX_TIMEOUT))]
    TooLong,
    #[error("must be longer than zero, for nothing is ready at once")]
    Zero,
    #[error("the path is empty")]
    EmptyPath,
    #[error("the path has a zero byte in it")]
    ZeroInPath,
    #[error("the path has {length} bytes, but a socket's path can have only {MAX_SOCKET_PATH}")]
    SocketPathTooLong { length: usize },
    #[error("want text or json")]
    LogFormat,
    #[error("not a log filter such as info or everport=debug ({0})")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
}
