//! Why a setting was not accepted, in one sentence.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use everport_handoff::address::AddressError;

use super::key::{KEYS, Kind, Setting};
use super::raw::{Given, Source};
use super::{
    MAX_LISTENERS, MAX_SOCKET_PATH, MAX_THREADS, MAX_TIMEOUT, UnknownPolicy, UnknownProtocol, UnknownReadiness,
    UnknownStrategy,
};

/// A setting that is wrong: which, where it came from, the value found and what was wanted.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConfigError(Box<Wrong>);

#[derive(Debug, thiserror::Error)]
enum Wrong {
    /// When a value is not what its setting wants. The name is that of the place, as its user knows it; the value is
    /// quoted so that line breaks and escapes in it stay one harmless line.
    #[error("{place}invalid {name} {value}: {problem}")]
    Value { place: Place, name: String, value: String, problem: Problem },
    /// When nothing was given, and something must be.
    #[error("no {name}: {problem}")]
    Missing { name: &'static str, problem: Problem },
    /// When a file has a key that nobody knows.
    #[error("{place}unknown key {name}, want {wanted}")]
    UnknownKey { place: Place, name: String, wanted: String },
    /// When a file is not TOML.
    #[error("{place}{problem}")]
    Syntax { place: Place, problem: String },
    /// When a file cannot be read.
    #[error("cannot read the configuration file {path:?}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
}

/// A line of a file, or nowhere that has a line.
#[derive(Debug)]
struct Place(Option<(PathBuf, usize)>);

impl Place {
    fn of(source: &Source) -> Self {
        match source {
            Source::File { path, line } => Self::line(path, *line),
            Source::Flag | Source::Builder | Source::Environment | Source::Default => Self(None),
        }
    }

    fn line(path: &Path, line: usize) -> Self {
        Self(Some((path.to_owned(), line)))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((path, line)) => write!(f, "{}:{line}: ", path.display()),
            None => Ok(()),
        }
    }
}

impl ConfigError {
    /// A value is wrong.
    pub(super) fn wrong_value(setting: Setting, given: &Given, problem: Problem) -> Self {
        // The Builder and a file have numbers as numbers.
        let is_bare = matches!(setting.key().kind, Kind::Number | Kind::Switch)
            && matches!(given.source, Source::Builder | Source::File { .. });
        let value = if is_bare { given.text.to_string_lossy().into_owned() } else { quoted(&given.text) };
        Self(Box::new(Wrong::Value {
            place: Place::of(&given.source),
            name: setting.name_in(&given.source),
            value,
            problem,
        }))
    }

    /// The value of something that exists in one place only is wrong.
    pub(crate) fn named(name: &str, value: String, problem: Problem) -> Self {
        Self(Box::new(Wrong::Value { place: Place(None), name: name.to_owned(), value, problem }))
    }

    /// Nothing was given, and something must be.
    pub(super) fn missing(setting: Setting, problem: Problem) -> Self {
        Self(Box::new(Wrong::Missing { name: setting.key().name, problem }))
    }

    /// A value in a file is not of its setting's form.
    pub(super) fn in_file(path: &Path, line: usize, setting: Setting, value: &str, problem: Problem) -> Self {
        let (place, name) = (Place::line(path, line), setting.key().name.to_owned());
        Self(Box::new(Wrong::Value { place, name, value: value.to_owned(), problem }))
    }

    /// A key in a file is none of those that are known.
    pub(super) fn unknown_key(
        path: &Path,
        line: usize,
        name: &str,
        known: impl Iterator<Item = &'static str> + Clone,
    ) -> Self {
        Self::unknown(Place::line(path, line), name, known)
    }

    /// A name is that of no setting.
    pub(crate) fn unknown_setting(name: &str) -> Self {
        Self::unknown(Place(None), name, KEYS.iter().map(|key| key.name))
    }

    fn unknown(place: Place, name: &str, known: impl Iterator<Item = &'static str> + Clone) -> Self {
        let distance = |known: &&str| strsim::damerau_levenshtein(&name.replace('-', "_"), known);
        let wanted = match known.clone().min_by_key(distance).filter(|known| distance(known) <= 1 + name.len() / 8) {
            Some(nearest) => nearest.to_owned(),
            None => format!("one of {}", known.collect::<Vec<_>>().join(", ")),
        };
        Self(Box::new(Wrong::UnknownKey { place, name: printable(name), wanted }))
    }

    /// A file is not TOML.
    pub(super) fn syntax(path: &Path, line: usize, message: &str) -> Self {
        let problem = message.lines().collect::<Vec<_>>().join(", ");
        Self(Box::new(Wrong::Syntax { place: Place::line(path, line), problem }))
    }

    /// A file cannot be read.
    pub(super) fn unreadable(path: &Path, source: io::Error) -> Self {
        Self(Box::new(Wrong::Unreadable { path: path.to_owned(), source }))
    }
}

/// A name as it is, or quoted if there is anything unusual in it.
fn printable(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.bytes().all(is_plain) { name.to_owned() } else { quoted(name.as_ref()) }
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
    #[error("want {wanted}, found {found}")]
    Type { wanted: &'static str, found: &'static str },
    #[error("a variable's name can have no =")]
    VariableName,
    #[error("a listener needs an address")]
    ListenerWithoutAddress,
    #[error("want a name of letters, digits, '-', '_' and '.'")]
    ListenerName,
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
    #[error("must be at least 1s")]
    TooShort,
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
    #[error("a quotation mark or a backslash has no end")]
    Quotes,
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
    #[error("of no use with --protocol listen-fds: the program knows nothing of it")]
    OnlyEverport,
    #[error("--protocol listen-fds needs policy none: the program shares the listeners")]
    OnlyShared,
    #[error("who waits in the queue of one slot cannot go to another: no listener may have policy split")]
    SplitHasNoLimit,
    #[error("what the workers accept themselves, the master cannot close: no listener may have policy none")]
    NotTheMastersToShed,
    #[error("of use only with max-connections")]
    NothingToShed,
    #[error("with --protocol listen-fds, name at least one by --listen")]
    NoListener,
    #[error("a program that embeds Everport speaks its protocol")]
    EmbeddedProtocol,
    #[error("want text or json")]
    LogFormat,
    #[error("not a log filter such as info or everport=debug ({0})")]
    LogFilter(#[source] tracing_subscriber::filter::ParseError),
}
