//! Why a setting was not accepted, in one sentence.

use std::ffi::OsStr;
use std::fmt;

use everport_handoff::address::AddressError;

use super::key::{Kind, Setting};
use super::raw::{Given, Source};
use super::{
    MAX_LISTENERS, MAX_SOCKET_PATH, MAX_THREADS, MAX_TIMEOUT, UnknownPolicy, UnknownProtocol, UnknownReadiness,
    UnknownStrategy,
};

/// A setting that is wrong: which, where it came from, the value found and what was wanted.
#[derive(Debug)]
pub struct ConfigError(Box<Wrong>);

#[derive(Debug)]
struct Wrong {
    /// File and line, where there is one.
    place: Option<String>,
    /// The setting's name in its place, as its user knows it.
    name: String,
    /// What was given, quoted so that line breaks and escapes in it stay one harmless line.
    value: Option<String>,
    problem: Problem,
}

impl ConfigError {
    /// A value is wrong.
    pub(super) fn wrong_value(setting: Setting, given: &Given, problem: Problem) -> Self {
        // The Builder and a file have numbers as numbers.
        let is_bare = matches!(setting.key().kind, Kind::Number | Kind::Switch)
            && matches!(given.source, Source::Builder | Source::File { .. });
        let value = if is_bare { given.text.to_string_lossy().into_owned() } else { quoted(&given.text) };
        let place = match &given.source {
            Source::File { path, line } => Some(format!("{}:{line}", path.display())),
            Source::Flag | Source::Builder | Source::Environment | Source::Default => None,
        };
        Self(Box::new(Wrong { place, name: setting.name_in(&given.source), value: Some(value), problem }))
    }

    /// The value of something that exists in one place only is wrong.
    pub(crate) fn named(name: &str, value: String, problem: Problem) -> Self {
        Self(Box::new(Wrong { place: None, name: name.to_owned(), value: Some(value), problem }))
    }

    /// Nothing was given, and something must be.
    pub(super) fn missing(setting: Setting, problem: Problem) -> Self {
        Self(Box::new(Wrong { place: None, name: setting.key().name.to_owned(), value: None, problem }))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Wrong { place, name, value, problem } = &*self.0;
        if let Some(place) = place {
            write!(f, "{place}: ")?;
        }
        match value {
            Some(value) => write!(f, "invalid {name} {value}: {problem}"),
            None => write!(f, "no {name}: {problem}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0.problem)
    }
}

/// The text in one line, whatever it is made of.
pub(crate) fn quoted(text: &OsStr) -> String {
    format!("{:?}", text.to_string_lossy())
}

/// What is wrong with a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("not valid UTF-8")]
    NotUtf8,
    #[error("want a whole number from {least} to {most}")]
    Number { least: i64, most: i64 },
    #[error("want true or false")]
    Switch,
    #[error("want a whole number from 1 to {MAX_THREADS}")]
    Threads,
    #[error("more than {MAX_LISTENERS} listeners")]
    TooManyListeners,
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    #[error(transparent)]
    Readiness(#[from] UnknownReadiness),
    #[error(transparent)]
    Strategy(#[from] UnknownStrategy),
    #[error(transparent)]
    Protocol(#[from] UnknownProtocol),
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
    #[error("must be longer than zero")]
    Zero,
    #[error("the unit is missing, write for example 512MiB or 2GiB")]
    SizeUnitMissing,
    #[error("not an amount of memory, write for example 512MiB or 2GiB")]
    Size,
    #[error("want an octal number up to 777, such as 027")]
    Umask,
    #[error("want a name or a number")]
    Name,
    #[error("want a signal that a program can handle, such as TERM")]
    Signal,
    #[error("want NAME=VALUE")]
    Pair,
    #[error("Everport itself sets this variable for its workers")]
    ReservedVariable,
    #[error("the path is empty")]
    EmptyPath,
    #[error("there is a zero byte in it")]
    ZeroInPath,
    #[error("the path has {length} bytes, but a socket's path can have only {MAX_SOCKET_PATH}")]
    SocketPathTooLong { length: usize },
    #[error("this program is itself what its workers run")]
    Embedded,
    #[error("name it behind --, or as program in the configuration file")]
    NoProgram,
    #[error("of use only with --protocol listen-fds")]
    OnlyListenFds,
    #[error("of no use with --protocol listen-fds: the program tells no such figure")]
    OnlyEverport,
    #[error("--protocol listen-fds needs policy none: the program shares the listeners")]
    OnlyShared,
    #[error("with --protocol listen-fds, name at least one by --listen")]
    NoListener,
    #[error("a program that embeds Everport speaks its protocol")]
    EmbeddedProtocol,
    #[error("want text or json")]
    LogFormat,
    #[error("not a log filter such as info or everport=debug ({0})")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
}
