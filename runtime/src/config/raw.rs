//! Values as they were given, each with the place it came from, and the one gate to a [`Config`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::{NonZeroU32, NonZeroUsize};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use everport_handoff::address::ListenAddress;

use super::{
    Config, ConfigError, DEFAULT_DRAIN_TIMEOUT, DEFAULT_READY_TIMEOUT, FIRST_BYTE_GRACE, MAX_LISTENERS,
    MAX_SOCKET_PATH, MAX_THREADS, MAX_TIMEOUT, MAX_WORKERS, Policy, Problem, Program, Readiness, STEAL_AFTER,
};

/// One thing that can be set, by whichever name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Listen,
    Workers,
    Policy,
    PidFile,
    Control,
    DrainTimeout,
    ReadyTimeout,
    Ready,
    Threads,
    LogFormat,
    LogFilter,
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Builder,
    Environment,
}

impl Source {
    /// The setting's name in this place, as its user knows it.
    pub(super) const fn name(self, setting: Setting) -> &'static str {
        let (flag, builder, variable) = match setting {
            Setting::Listen => ("--listen", "Builder::listen", "EVERPORT_LISTEN"),
            Setting::Workers => ("--workers", "Builder::workers", "EVERPORT_WORKERS"),
            Setting::Policy => ("--policy", "Builder::policy", "EVERPORT_SCHED_POLICY"),
            Setting::PidFile => ("--pid-file", "Builder::pid_file", "EVERPORT_PID_FILE"),
            Setting::Control => ("--control", "Builder::control", "EVERPORT_CONTROL"),
            Setting::DrainTimeout => ("--drain-timeout", "Builder::drain_timeout", "EVERPORT_DRAIN_TIMEOUT"),
            Setting::ReadyTimeout => ("--ready-timeout", "Builder::ready_timeout", "EVERPORT_READY_TIMEOUT"),
            Setting::Ready => ("--ready", "Builder::ready", "EVERPORT_READY"),
            // These exist in one place only.
            Setting::Threads => return "Builder::threads",
            Setting::LogFormat => return "EVERPORT_LOG_FORMAT",
            Setting::LogFilter => return "RUST_LOG",
        };
        match self {
            Self::Flag => flag,
            Self::Builder => builder,
            Self::Environment => variable,
        }
    }
}

/// A value as it was given: as text that is still to be read, or by a caller of the Builder in its own type.
#[derive(Clone, Debug)]
pub(crate) enum Given<T> {
    Text(OsString, Source),
    Value(T),
}

/// Everything that was given, unread. What was not given is `None`.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawConfig {
    pub(crate) listen: Vec<Given<ListenAddress>>,
    pub(crate) workers: Option<Given<u32>>,
    pub(crate) policy: Option<Given<Policy>>,
    pub(crate) pid_file: Option<Given<PathBuf>>,
    pub(crate) control: Option<Given<PathBuf>>,
    pub(crate) drain_timeout: Option<Given<Duration>>,
    pub(crate) ready_timeout: Option<Given<Duration>>,
    pub(crate) readiness: Option<Given<Readiness>>,
    pub(crate) program: Program,
    /// How many processors the process may use, if that is known: the default for `workers`.
    pub(crate) processors: Option<NonZeroU32>,
}

impl RawConfig {
    /// Fills in from this process's environment what was not given otherwise, and counts its processors.
    pub(crate) fn or_surroundings(mut self) -> Self {
        let processors = std::thread::available_parallelism().ok();
        self.processors = processors.and_then(|processors| NonZeroU32::try_from(processors).ok());
        self.or_environment(|variable| std::env::var_os(variable))
    }

    /// Fills in from the environment what was not given otherwise. An empty variable counts as not set.
    pub(crate) fn or_environment(mut self, lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        if self.listen.is_empty() {
            let addresses = from_environment(&lookup, Setting::Listen).unwrap_or_default();
            self.listen = addresses
                .as_bytes()
                .split(|&byte| byte == b',' || byte.is_ascii_whitespace())
                .filter(|address| !address.is_empty())
                .map(|address| Given::Text(OsStr::from_bytes(address).to_owned(), Source::Environment))
                .collect();
        }
        fill(&mut self.workers, &lookup, Setting::Workers);
        fill(&mut self.policy, &lookup, Setting::Policy);
        fill(&mut self.pid_file, &lookup, Setting::PidFile);
        fill(&mut self.control, &lookup, Setting::Control);
        fill(&mut self.drain_timeout, &lookup, Setting::DrainTimeout);
        fill(&mut self.ready_timeout, &lookup, Setting::ReadyTimeout);
        fill(&mut self.readiness, &lookup, Setting::Ready);
        self
    }
}

fn fill<T>(given: &mut Option<Given<T>>, lookup: impl Fn(&str) -> Option<OsString>, setting: Setting) {
    if given.is_none() {
        *given = from_environment(lookup, setting).map(|text| Given::Text(text, Source::Environment));
    }
}

fn from_environment(lookup: impl Fn(&str) -> Option<OsString>, setting: Setting) -> Option<OsString> {
    lookup(Source::Environment.name(setting)).filter(|text| !text.is_empty())
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let RawConfig { listen, workers, policy, pid_file, control, .. } = raw;
        let listen = read_listen(listen)?;
        let workers = match workers {
            Some(given) => given.read(Setting::Workers, utf8(whole_number), worker_count)?,
            None => raw.processors.unwrap_or(NonZeroU32::MIN).min(WORKERS_LIMIT),
        };
        let policy = match policy {
            Some(given) => given.read(Setting::Policy, utf8(|text| Ok(text.parse()?)), Ok)?,
            None => Policy::default(),
        };
        let pid_file = pid_file.map(|given| given.read(Setting::PidFile, any_path, file_path)).transpose()?;
        let control = control.map(|given| given.read(Setting::Control, any_path, socket_path)).transpose()?;
        let drain_timeout = match raw.drain_timeout {
            Some(given) => given.read(Setting::DrainTimeout, utf8(duration), bounded)?,
            None => DEFAULT_DRAIN_TIMEOUT,
        };
        let ready_timeout = match raw.ready_timeout {
            Some(given) => given.read(Setting::ReadyTimeout, utf8(duration), bounded_and_some)?,
            None => DEFAULT_READY_TIMEOUT,
        };
        let readiness = match raw.readiness {
            Some(given) => given.read(Setting::Ready, utf8(|text| Ok(text.parse()?)), Ok)?,
            None => Readiness::default(),
        };
        Ok(Self {
            listen,
            workers,
            policy,
            pid_file,
            control,
            drain_timeout,
            ready_timeout,
            readiness,
            first_byte_grace: FIRST_BYTE_GRACE,
            steal_after: STEAL_AFTER,
            program: raw.program,
        })
    }
}

/// The control socket of a command that asks a running master, if one is named at all.
pub(crate) fn control_path(
    flag: Option<OsString>,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<PathBuf>, ConfigError> {
    let mut given = flag.map(|text| Given::Text(text, Source::Flag));
    fill(&mut given, lookup, Setting::Control);
    given.map(|given| given.read(Setting::Control, any_path, socket_path)).transpose()
}

/// How many threads a worker's runtime has.
pub(crate) fn thread_count(threads: usize) -> Result<NonZeroUsize, ConfigError> {
    Given::Value(threads).read(
        Setting::Threads,
        |_| Err(Problem::Threads),
        |threads| NonZeroUsize::new(threads).filter(|threads| threads.get() <= MAX_THREADS).ok_or(Problem::Threads),
    )
}

impl<T: fmt::Debug> Given<T> {
    /// The checked value: `parse` reads what was given as text, `check` sees every value.
    fn read<R>(
        self,
        setting: Setting,
        parse: impl FnOnce(&OsStr) -> Result<T, Problem>,
        check: impl FnOnce(T) -> Result<R, Problem>,
    ) -> Result<R, ConfigError> {
        let (source, value, result) = match self {
            Self::Text(text, source) => (source, quoted(&text), parse(&text).and_then(check)),
            Self::Value(value) => (Source::Builder, format!("{value:?}"), check(value)),
        };
        result.map_err(|problem| ConfigError { setting, source, value, problem })
    }
}

/// The text in one line, whatever it is made of.
pub(super) fn quoted(text: &OsStr) -> String {
    format!("{:?}", text.to_string_lossy())
}

fn read_listen(given: Vec<Given<ListenAddress>>) -> Result<Vec<ListenAddress>, ConfigError> {
    let read = |(index, address): (usize, Given<ListenAddress>)| {
        let in_limit = |address| {
            if index < MAX_LISTENERS { Ok(address) } else { Err(Problem::TooManyListeners) }
        };
        address.read(
            Setting::Listen,
            utf8(|text| text.parse().map_err(|error| Problem::Address(Box::new(error)))),
            in_limit,
        )
    };
    given.into_iter().enumerate().map(read).collect()
}

const WORKERS_LIMIT: NonZeroU32 = NonZeroU32::new(MAX_WORKERS).unwrap();

/// Lifts a reader of text to a reader of whatever the operating system passes.
fn utf8<T>(parse: impl FnOnce(&str) -> Result<T, Problem>) -> impl FnOnce(&OsStr) -> Result<T, Problem> {
    |text| parse(text.to_str().ok_or(Problem::NotUtf8)?)
}

fn whole_number(text: &str) -> Result<u32, Problem> {
    text.parse().map_err(|_| Problem::Workers)
}

fn worker_count(workers: u32) -> Result<NonZeroU32, Problem> {
    NonZeroU32::new(workers).filter(|&workers| workers <= WORKERS_LIMIT).ok_or(Problem::Workers)
}

fn duration(text: &str) -> Result<Duration, Problem> {
    let text = text.trim();
    let bare_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match humantime::parse_duration(text) {
        _ if bare_number && !text.is_empty() => Err(Problem::UnitMissing),
        Ok(duration) => Ok(duration),
        Err(humantime::DurationError::NumberOverflow) => Err(Problem::OutOfRange),
        Err(_) => Err(Problem::Duration),
    }
}

fn bounded(duration: Duration) -> Result<Duration, Problem> {
    if duration > MAX_TIMEOUT { Err(Problem::TooLong) } else { Ok(duration) }
}

fn bounded_and_some(duration: Duration) -> Result<Duration, Problem> {
    if duration.is_zero() { Err(Problem::Zero) } else { bounded(duration) }
}

fn any_path(text: &OsStr) -> Result<PathBuf, Problem> {
    Ok(PathBuf::from(text))
}

fn file_path(path: PathBuf) -> Result<PathBuf, Problem> {
    match path.as_os_str().as_bytes() {
        [] => Err(Problem::EmptyPath),
        bytes if bytes.contains(&0) => Err(Problem::ZeroInPath),
        _ => Ok(path),
    }
}

fn socket_path(path: PathBuf) -> Result<PathBuf, Problem> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH { Err(Problem::SocketPathTooLong { length }) } else { file_path(path) }
}
