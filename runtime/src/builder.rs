//! The embedded face: one program that is the master and its workers.

use std::env;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use everport_handoff::worker::Worker;
use tokio::runtime::{Handle, Runtime};
use tracing::warn;

use crate::config::{ConfigError, Origin, Policy, RawConfig, Readiness, Setting, Source, Strategy, thread_count};
use crate::error::{Error, Result};
use crate::telemetry::Role;
use crate::{daemon, shell, telemetry};

/// Settings of a master, and the way to become one.
///
/// What is not set here comes from the environment (`EVERPORT_WORKERS`, `EVERPORT_SCHED_POLICY` and so on, as named at each
/// method), else it has its default. Wrong values are reported by [`run`](Self::run).
///
/// ```no_run
/// fn main() -> everport::Result<()> {
///     everport::Builder::new().workers(2).run(async |worker| {
///         // Bind with `everport::net::TcpListener` and serve until `worker.draining()`.
///         # let _ = worker;
///         Ok::<(), std::io::Error>(())
///     })
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing starts before `run`"]
pub struct Builder {
    raw: RawConfig,
    threads: usize,
    /// A name by which [`set`](Self::set) was called and that no setting has.
    unknown: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// Settings of which none is set.
    pub fn new() -> Self {
        Self { raw: RawConfig::embedded(), threads: 1, unknown: None }
    }

    /// Binds a listener at start, such as `127.0.0.1:8000` or `unix:/run/app.sock`; a failure ends the start. May be called
    /// several times. Listeners that the application binds itself need not be named here. Variable: `EVERPORT_LISTEN`,
    /// separated by commas or spaces.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.raw.add(Setting::Listen, address.into(), Source::Builder);
        self
    }

    /// How many workers run at a time. Default: as many as there are processors that the process may use. Variable:
    /// `EVERPORT_WORKERS`.
    pub fn workers(self, workers: u32) -> Self {
        self.put(Setting::Workers, workers.to_string())
    }

    /// How connections are spread over the workers. Default: [`Policy::RoundRobin`]. Variable: `EVERPORT_SCHED_POLICY`.
    pub fn policy(self, policy: Policy) -> Self {
        self.put(Setting::Policy, policy.to_string())
    }

    /// Where the master writes its pid. Default: nowhere. Variable: `EVERPORT_PID_FILE`.
    pub fn pid_file(self, path: impl Into<PathBuf>) -> Self {
        self.put(Setting::PidFile, path.into())
    }

    /// Where the master listens for `everport status`, `reload` and `stop`. Default: nowhere. Variable: `EVERPORT_CONTROL`.
    pub fn control(self, path: impl Into<PathBuf>) -> Self {
        self.put(Setting::Control, path.into())
    }

    /// How long a worker may drain before what is left is cut. Default: 30 s. Variable: `EVERPORT_DRAIN_TIMEOUT`.
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        self.put(Setting::DrainTimeout, time(timeout))
    }

    /// How long a worker may take until it is ready. Default: 30 s. Variable: `EVERPORT_READY_TIMEOUT`.
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        self.put(Setting::ReadyTimeout, time(timeout))
    }

    /// When a worker is ready. Default: [`Readiness::Auto`]. Variable: `EVERPORT_READY`.
    pub fn ready(self, readiness: Readiness) -> Self {
        self.put(Setting::Ready, readiness.to_string())
    }

    /// How a new generation takes over. Default: [`Strategy::All`]. Variable: `EVERPORT_STRATEGY`.
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.put(Setting::Strategy, strategy.to_string())
    }

    /// How long the old generation stays warm, to serve again at once if the new one crashes. Default: not at all. Variable:
    /// `EVERPORT_PROBATION`.
    pub fn probation(self, time_on_trial: Duration) -> Self {
        self.put(Setting::Probation, time(time_on_trial))
    }

    /// Replaces a worker that shows no life for this long. Default: never, for an application may block its runtime for
    /// reasons of its own; 30 s suits one that does not. Variable: `EVERPORT_HANG_TIMEOUT`.
    pub fn hang_timeout(self, timeout: Duration) -> Self {
        self.put(Setting::HangTimeout, time(timeout))
    }

    /// Replaces a worker that has more memory than this, in bytes. Default: unlimited. Variable: `EVERPORT_RECYCLE_MEMORY`.
    pub fn recycle_memory(self, bytes: u64) -> Self {
        self.put(Setting::RecycleMemory, format!("{bytes}B"))
    }

    /// Replaces a worker that is older than this. Default: unlimited. Variable: `EVERPORT_RECYCLE_AGE`.
    pub fn recycle_age(self, age: Duration) -> Self {
        self.put(Setting::RecycleAge, time(age))
    }

    /// Replaces a worker that has taken this many connections. Default: unlimited. Variable:
    /// `EVERPORT_RECYCLE_CONNECTIONS`.
    pub fn recycle_connections(self, connections: u64) -> Self {
        self.put(Setting::RecycleConnections, connections.to_string())
    }

    /// Reads this configuration file, at the start and at every reload. What is set here, or in the environment, goes before
    /// what the file says. Default: none. Variable: `EVERPORT_CONFIG`.
    pub fn config(mut self, path: impl Into<PathBuf>) -> Self {
        self.raw.file = Some(path.into());
        self
    }

    /// Sets any setting by the name that it has in the configuration file or as a flag, to a value as it would stand on the
    /// command line: `set("recycle-at-once", "2")`, `set("sandbox.read", "/usr")`. One that holds a list gets one value more
    /// each time. `everport run --help` and `ops/configuration.md` have them all.
    pub fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        match Setting::named(name) {
            Some(setting) if setting.key().holds_many() => self.raw.add(setting, value, Source::Builder),
            Some(setting) => self.raw.set(setting, value, Source::Builder),
            None => self.unknown = Some(name.to_owned()),
        }
        self
    }

    fn put(mut self, setting: Setting, text: impl Into<OsString>) -> Self {
        self.raw.set(setting, text, Source::Builder);
        self
    }

    /// How many threads a worker's runtime has. Default: 1, the worker's main thread; the number of workers is what uses the
    /// processors. With more, spawned tasks run on as many threads beside the main one.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Becomes the master, or, in a process that a master has started, the worker.
    ///
    /// The program is started again, by exec, for each worker. So **code before `run` executes in the master and in every
    /// worker**: keep it to reading arguments and the like. Code in `application` executes in the workers only, within a
    /// tokio runtime of each worker's own, and code after `run` when the master or the worker has ended.
    ///
    /// Logs go to standard error as `RUST_LOG` and `EVERPORT_LOG_FORMAT` say, unless the program has set a `tracing`
    /// subscriber before.
    ///
    /// # Errors
    ///
    /// A setting is wrong, the master cannot start, the first generation fails; in a worker, the error of `application`.
    /// Called within an async runtime it fails at once.
    ///
    /// ```no_run
    /// # async fn serve(_worker: everport::Worker) -> std::io::Result<()> { Ok(()) }
    /// fn main() -> everport::Result<()> {
    ///     let greeting = std::env::args().nth(1); // In the master and in every worker.
    ///     everport::Builder::new().listen("127.0.0.1:8000").run(async |worker| {
    ///         // In the workers only.
    ///         # let _ = greeting;
    ///         serve(worker).await
    ///     })
    /// }
    /// ```
    pub fn run<F, E>(self, application: F) -> Result<()>
    where
        F: AsyncFnOnce(Worker) -> Result<(), E>,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if Handle::try_current().is_ok() {
            return Err(Error::RunInsideRuntime);
        }
        let threads = thread_count(self.threads)?;
        if let Some(name) = self.unknown {
            return Err(ConfigError::unknown_setting(&name).into());
        }
        let worker = Worker::current().map_err(Error::io("adopt", &"what the master left for this worker"))?;
        if worker.is_managed() {
            let _flush = telemetry::init(Role::Worker, None, |variable| env::var_os(variable))?;
            run_worker(worker, threads, application)
        } else {
            run_master(self.raw.or_surroundings()?)
        }
    }
}

/// A duration as it is written.
fn time(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Runs the application in this process, which a master has started, until it returns and nothing that it serves is left.
fn run_worker<F, E>(worker: Worker, threads: NonZeroUsize, application: F) -> Result<()>
where
    F: AsyncFnOnce(Worker) -> Result<(), E>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let runtime = runtime(threads)?;
    let ended = runtime.block_on(async {
        application(worker.clone()).await?;
        if worker.is_draining() {
            worker.finished().await;
        }
        Ok(())
    });
    // Whatever still blocks one of its threads has had its time.
    runtime.shutdown_background();
    worker.exit_if_master_lost();
    ended.map_err(|error: E| Error::Application(error.into()))
}

/// Runs the master until it has stopped: in this process, or, once it serves, in the background.
pub(crate) fn run_master(given: RawConfig) -> Result<()> {
    let (origin, config) = Origin::read(given)?;
    match daemon::take_part(&config)? {
        daemon::Role::Done => Ok(()),
        daemon::Role::Master(notice) => {
            let log_file = config.log_file.as_deref();
            let _flush = telemetry::init(Role::Master, log_file, |variable| env::var_os(variable))?;
            if notice.is_some() && log_file.is_none() {
                warn!("nothing of the log is kept once the workers serve; --log-file F keeps it");
            }
            shell::run(config, origin, notice)
        }
    }
}

/// A worker's runtime.
fn runtime(threads: NonZeroUsize) -> Result<Runtime> {
    let mut builder = match threads.get() {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads);
            builder
        }
    };
    builder.enable_all().build().map_err(Error::io("make", &"the worker's runtime"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    async fn application(_worker: Worker) -> Result<(), std::io::Error> {
        panic!("the settings are wrong, nothing may run");
    }

    #[test]
    fn run_within_a_runtime_is_refused() {
        let runtime = runtime(NonZeroUsize::MIN).unwrap();
        let _context = runtime.enter();
        let error = Builder::new().run(application).unwrap_err();
        assert!(matches!(error, Error::RunInsideRuntime), "{error}");
    }

    #[test]
    fn wrong_settings_are_reported_by_run() {
        let table = [
            (Builder::new().workers(0), "invalid Builder::workers 0: want a whole number from 1 to 1024"),
            (Builder::new().threads(0), "invalid Builder::threads 0: want a whole number from 1 to 1024"),
            (
                Builder::new().ready_timeout(Duration::ZERO),
                r#"invalid Builder::ready_timeout "0s": must be longer than zero"#,
            ),
            (Builder::new().control(""), r#"invalid Builder::control "": the path is empty"#),
            (
                Builder::new().set("drain-grace", "5"),
                r#"invalid Builder::drain_grace "5": the unit is missing, write for example 30s, 500ms or 1m 30s"#,
            ),
            (Builder::new().set("sandbox.read", ""), r#"invalid Builder::sandbox_read "": the path is empty"#),
            (Builder::new().set("drian-grace", "5s"), "unknown key drian-grace, want drain_grace"),
        ];
        for (builder, expected) in table {
            // What `main` would print.
            assert_eq!(format!("{:?}", builder.run(application).unwrap_err()), expected);
        }
    }

    #[test]
    fn any_setting_can_be_set_by_its_name() {
        let builder = Builder::new()
            .set("drain-grace", "3s")
            .set("drain_timeout", "7s")
            .set("listen", "127.0.0.1:0")
            .set("listener", "127.0.0.1:80")
            .set("sandbox.read", "/usr")
            .set("sandbox-read", "/etc");
        let config = Config::try_from(builder.raw).unwrap();
        assert_eq!((config.drain_grace, config.drain_timeout), (Duration::from_secs(3), Duration::from_secs(7)));
        assert_eq!(config.sandbox_read, [PathBuf::from("/usr"), PathBuf::from("/etc")]);
        assert_eq!(config.listen.len(), 2);
    }

    #[test]
    fn a_worker_has_as_many_threads_as_asked_for() {
        for threads in [1, 3] {
            let runtime = runtime(NonZeroUsize::new(threads).unwrap()).unwrap();
            assert_eq!(runtime.metrics().num_workers(), threads);
        }
    }
}
