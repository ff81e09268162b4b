//! The one gate from what was given to a valid [`Config`].

use std::ffi::OsStr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use super::key::Setting;
use super::raw::{Face, Given, RawConfig, Source};
use super::{
    Config, ConfigError, FIRST_BYTE_GRACE, MAX_LISTENERS, MAX_THREADS, MAX_WORKERS, Policy, Problem, Program, Protocol,
    STEAL_AFTER, read,
};

impl TryFrom<RawConfig> for Config {
    type Error = ConfigError;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigError> {
        let (user, sandbox_read) = (raw.one(Setting::User, read::name)?, raw.many(Setting::SandboxRead, read::path)?);
        let sandbox_write = raw.many(Setting::SandboxWrite, read::path)?;
        let is_confined = user.is_some() || !sandbox_read.is_empty() || !sandbox_write.is_empty();
        Ok(Self {
            listen: raw.listen()?,
            workers: raw.one(Setting::Workers, read::workers)?.unwrap_or_else(|| raw.default_workers()),
            policy: raw.policy()?,
            max_connections: raw.max_connections()?,
            shed: raw.shed()?,
            readiness: raw.sure(Setting::Ready, read::word)?,
            ready_timeout: raw.sure(Setting::ReadyTimeout, read::some_time)?,
            ready_after: raw.one(Setting::ReadyAfter, read::duration)?,
            drain_timeout: raw.sure(Setting::DrainTimeout, read::duration)?,
            drain_grace: raw.sure(Setting::DrainGrace, read::duration)?,
            drain_signal: raw.sure(Setting::DrainSignal, read::signal)?,
            drain_generations: raw.sure(Setting::DrainGenerations, read::number(1, 64))?,
            drain_age: raw.one(Setting::DrainAge, read::some_time)?,
            drain_memory: raw.one(Setting::DrainMemory, read::size)?,
            strategy: raw.sure(Setting::Strategy, read::word)?,
            probation: raw.sure(Setting::Probation, read::duration)?,
            hang_timeout: raw.one(Setting::HangTimeout, read::some_time)?,
            restart_limit: raw.sure(Setting::RestartLimit, read::number(1, 1_000_000))?,
            restart_period: raw.sure(Setting::RestartPeriod, read::some_time)?,
            recycle_memory: raw.one(Setting::RecycleMemory, read::size)?,
            recycle_age: raw.one(Setting::RecycleAge, read::some_time)?,
            recycle_connections: raw.one(Setting::RecycleConnections, read::number(1, i64::MAX))?,
            recycle_at_once: raw.sure(Setting::RecycleAtOnce, read::number(1, i64::from(MAX_WORKERS)))?,
            ticket_rotation: raw.sure(Setting::TicketRotation, read::seconds)?,
            env: raw.many(Setting::Env, read::pair)?.into_iter().collect(),
            no_new_privs: raw.one(Setting::NoNewPrivs, read::switch)?.unwrap_or(is_confined),
            user,
            group: raw.one(Setting::Group, read::name)?,
            umask: raw.one(Setting::Umask, read::octal)?,
            nice: raw.one(Setting::Nice, read::number(-20, 19))?,
            oom_score_adj: raw.one(Setting::OomScoreAdj, read::number(-1000, 1000))?,
            nofile: raw.one(Setting::Nofile, read::number(16, i64::from(u32::MAX)))?,
            directory: raw.one(Setting::Directory, read::path)?,
            sandbox_read,
            sandbox_write,
            pid_file: raw.one(Setting::PidFile, read::path)?,
            control: raw.one(Setting::Control, read::socket_path)?,
            daemon: raw.sure(Setting::Daemon, read::switch)?,
            log_file: raw.one(Setting::LogFile, read::path)?,
            worker_log_file: raw.one(Setting::WorkerLogFile, read::path)?,
            audit_file: raw.one(Setting::AuditFile, read::path)?,
            // Last, for they ask what else was given: a value that is wrong in itself comes first.
            protocol: raw.protocol()?,
            program: raw.program()?,
            first_byte_grace: FIRST_BYTE_GRACE,
            steal_after: STEAL_AFTER,
        })
    }
}

impl RawConfig {
    /// The value, if one was given. The last one counts.
    fn one<T>(&self, setting: Setting, read: impl Fn(&OsStr) -> Result<T, Problem>) -> Result<Option<T>, ConfigError> {
        self.get(setting).last().map(|given| checked(setting, given, &read)).transpose()
    }

    /// The value that was given, or the default of the table.
    fn sure<T>(&self, setting: Setting, read: impl Fn(&OsStr) -> Result<T, Problem>) -> Result<T, ConfigError> {
        let given = self.or_default(setting);
        // A test reads the default of every setting that has one.
        let nothing = Given { text: "".into(), source: Source::Default };
        checked(setting, given.last().unwrap_or(&nothing), read)
    }

    /// Every value that was given.
    fn many<T>(&self, setting: Setting, read: impl Fn(&OsStr) -> Result<T, Problem>) -> Result<Vec<T>, ConfigError> {
        self.get(setting).iter().map(|given| checked(setting, given, &read)).collect()
    }

    pub(super) fn default_workers(&self) -> NonZeroU32 {
        const LIMIT: NonZeroU32 = NonZeroU32::new(MAX_WORKERS).unwrap();
        self.processors.unwrap_or(NonZeroU32::MIN).min(LIMIT)
    }

    fn listen(&self) -> Result<Vec<super::ListenAddress>, ConfigError> {
        let addresses = self.many(Setting::Listen, read::address)?;
        match self.get(Setting::Listen).get(MAX_LISTENERS) {
            Some(one_too_many) => {
                Err(ConfigError::wrong_value(Setting::Listen, one_too_many, Problem::TooManyListeners))
            }
            None => Ok(addresses),
        }
    }

    fn program(&self) -> Result<Program, ConfigError> {
        let words = self.many(Setting::Program, read::argument)?;
        match (self.face, self.get(Setting::Program)) {
            (Face::Embedded | Face::Any, []) => Ok(Program::Embedded),
            (Face::Embedded, [given, ..]) => Err(ConfigError::wrong_value(Setting::Program, given, Problem::Embedded)),
            (Face::Command | Face::Any, given) => {
                let mut words = words.into_iter();
                match words.next() {
                    Some(program) if !program.is_empty() => {
                        Ok(Program::Command { program, arguments: words.collect() })
                    }
                    Some(_) => Err(ConfigError::wrong_value(Setting::Program, &given[0], Problem::EmptyPath)),
                    None => Err(ConfigError::missing(Setting::Program, Problem::NoProgram)),
                }
            }
        }
    }

    fn protocol(&self) -> Result<Protocol, ConfigError> {
        let protocol = self.sure(Setting::Protocol, read::word)?;
        let refuse = |setting, problem| match self.get(setting).last() {
            Some(given) => Err(ConfigError::wrong_value(setting, given, problem)),
            None => Ok(protocol),
        };
        match (protocol, self.face) {
            (Protocol::Everport, _) => {
                refuse(Setting::ReadyAfter, Problem::OnlyListenFds)?;
                refuse(Setting::DrainSignal, Problem::OnlyListenFds)
            }
            (Protocol::ListenFds, Face::Embedded) => refuse(Setting::Protocol, Problem::EmbeddedProtocol),
            (Protocol::ListenFds, Face::Command | Face::Any) if self.get(Setting::Listen).is_empty() => {
                Err(ConfigError::missing(Setting::Listen, Problem::NoListener))
            }
            (Protocol::ListenFds, Face::Command | Face::Any) => {
                // They need figures, or obedience, that only a program with Everport in it has.
                refuse(Setting::HangTimeout, Problem::OnlyEverport)?;
                refuse(Setting::MaxConnections, Problem::OnlyEverport)?;
                refuse(Setting::RecycleConnections, Problem::OnlyEverport)
            }
        }
    }

    fn max_connections(&self) -> Result<Option<u64>, ConfigError> {
        let most = self.one(Setting::MaxConnections, read::number(1, i64::MAX))?;
        match self.get(Setting::MaxConnections).last() {
            Some(given) if self.has_policy(Policy::Split)? => {
                Err(ConfigError::wrong_value(Setting::MaxConnections, given, Problem::SplitHasNoLimit))
            }
            _ => Ok(most),
        }
    }

    fn shed(&self) -> Result<bool, ConfigError> {
        let shed = self.sure(Setting::Shed, read::switch)?;
        let problem = match () {
            () if self.get(Setting::MaxConnections).is_empty() => Some(Problem::NothingToShed),
            () if self.has_policy(Policy::None)? => Some(Problem::NotTheMastersToShed),
            () => None,
        };
        match (self.get(Setting::Shed).last(), problem) {
            (Some(given), Some(problem)) if shed => Err(ConfigError::wrong_value(Setting::Shed, given, problem)),
            _ => Ok(shed),
        }
    }

    /// Whether a listener, of those that have been named or may come, has this policy.
    fn has_policy(&self, policy: Policy) -> Result<bool, ConfigError> {
        Ok(self.policy()? == policy || self.listen()?.iter().any(|address| address.policy() == Some(policy)))
    }

    /// A program that knows nothing of Everport cannot be offered anything: it shares the listeners, whatever the default.
    fn policy(&self) -> Result<Policy, ConfigError> {
        let policy = self.sure(Setting::Policy, read::word)?;
        match (self.sure(Setting::Protocol, read::word)?, self.get(Setting::Policy).last()) {
            (Protocol::ListenFds, _)
                if self
                    .listen()?
                    .iter()
                    .any(|address| address.policy().is_some_and(|policy| policy != Policy::None)) =>
            {
                let given = self.get(Setting::Listen);
                Err(ConfigError::wrong_value(Setting::Listen, &given[0], Problem::OnlyShared))
            }
            (Protocol::ListenFds, None) => Ok(Policy::None),
            (Protocol::ListenFds, Some(given)) if policy != Policy::None => {
                Err(ConfigError::wrong_value(Setting::Policy, given, Problem::OnlyShared))
            }
            _ => Ok(policy),
        }
    }
}

fn checked<T>(setting: Setting, given: &Given, read: impl Fn(&OsStr) -> Result<T, Problem>) -> Result<T, ConfigError> {
    read(&given.text).map_err(|problem| ConfigError::wrong_value(setting, given, problem))
}

/// The control socket of a command that asks a running master, if one is named at all.
pub(crate) fn control_path(raw: &RawConfig) -> Result<Option<PathBuf>, ConfigError> {
    raw.one(Setting::Control, read::socket_path)
}

/// How many threads a worker's runtime has.
pub(crate) fn thread_count(threads: usize) -> Result<NonZeroUsize, ConfigError> {
    NonZeroUsize::new(threads)
        .filter(|threads| threads.get() <= MAX_THREADS)
        .ok_or_else(|| ConfigError::named("Builder::threads", threads.to_string(), Problem::Threads))
}
