//! How a test starts a master.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::log::Log;
use super::master::{Ended, Master};
use super::process;

/// The fixture that is steered by command lines.
pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_worker");
/// The `everport` command.
pub(crate) const CLI: &str = env!("CARGO_BIN_EXE_cli");
/// The fixture on plain axum.
const PLAIN_AXUM: &str = env!("CARGO_BIN_EXE_plain_axum");
/// The web example.
pub(crate) const WEB: &str = env!("CARGO_BIN_EXE_web");

/// What becomes a [`Master`]. Every setting goes through the environment, as the embedded form takes it.
#[derive(Debug)]
pub(crate) struct Setup {
    program: OsString,
    arguments: Vec<OsString>,
    settings: Vec<(&'static str, OsString)>,
    shell: Option<String>,
    stdin: Stdio,
    uid: Option<u32>,
    folder: TempDir,
    working_directory: Option<PathBuf>,
}

impl Setup {
    /// The worker fixture as its own master, with two workers that bind `127.0.0.1:0`.
    pub(crate) fn lines() -> Self {
        Self::program(WORKER, &["127.0.0.1:0"])
    }

    /// The worker fixture with other arguments.
    pub(crate) fn lines_on(arguments: &[&str]) -> Self {
        Self::program(WORKER, arguments)
    }

    /// The fixture on plain axum.
    pub(crate) fn plain_axum() -> Self {
        Self::program(PLAIN_AXUM, &[])
    }

    /// The web example.
    pub(crate) fn web() -> Self {
        Self::program(WEB, &["--listen", "127.0.0.1:0"])
    }

    /// `everport run` with these flags and, behind `--`, these words.
    pub(crate) fn cli(flags: &[&str], program: &[&str]) -> Self {
        Self::program(CLI, &[&["run"], flags, &["--"], program].concat())
    }

    /// Any program that becomes a master.
    pub(crate) fn program(program: impl Into<OsString>, arguments: &[&str]) -> Self {
        let setup = Self {
            program: program.into(),
            arguments: arguments.iter().map(Into::into).collect(),
            settings: Vec::new(),
            shell: None,
            stdin: Stdio::null(),
            uid: None,
            folder: tempfile::tempdir().expect("a temporary folder"),
            working_directory: None,
        };
        let (control, plan) = (setup.control(), setup.plan_file());
        setup
            .set("EVERPORT_WORKERS", "2")
            .set("EVERPORT_CONTROL", control)
            .set("EVERPORT_DRAIN_TIMEOUT", "10s")
            .set("EVERPORT_READY_TIMEOUT", "10s")
            .set("PROOF_PLAN", plan)
    }

    pub(crate) fn workers(self, workers: u32) -> Self {
        self.set("EVERPORT_WORKERS", workers.to_string())
    }

    pub(crate) fn policy(self, policy: &str) -> Self {
        self.set("EVERPORT_SCHED_POLICY", policy)
    }

    pub(crate) fn drain_timeout(self, time: &str) -> Self {
        self.set("EVERPORT_DRAIN_TIMEOUT", time)
    }

    pub(crate) fn ready_timeout(self, time: &str) -> Self {
        self.set("EVERPORT_READY_TIMEOUT", time)
    }

    /// A variable of the environment. The last one of a name counts.
    pub(crate) fn set(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// Takes a variable away again.
    pub(crate) fn unset(mut self, name: &str) -> Self {
        self.settings.retain(|(other, _)| *other != name);
        self
    }

    pub(crate) fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Starts through a shell that runs this first, as in `ulimit -n 64`; it ends by `exec "$@"`.
    pub(crate) fn shell(mut self, script: &str) -> Self {
        self.shell = Some(script.to_owned());
        self
    }

    /// What the master finds as its standard input.
    pub(crate) fn stdin(mut self, stdin: OwnedFd) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Runs as another user. Needs root.
    pub(crate) fn user(mut self, uid: u32) -> Self {
        std::os::unix::fs::chown(self.folder.path(), Some(uid), None).expect("root may give folders away");
        self.uid = Some(uid);
        self
    }

    pub(crate) fn working_directory(mut self, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        self = self.set("PWD", path.clone());
        self.working_directory = Some(path);
        self
    }

    /// What the workers do at their start; see the fixture.
    pub(crate) fn plan(self, plan: &str) -> Self {
        std::fs::write(self.plan_file(), plan).expect("the folder is ours");
        self
    }

    /// A folder that lasts as long as the master.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    fn plan_file(&self) -> PathBuf {
        self.folder.path().join("plan")
    }

    /// Starts the master and waits until its first generation serves.
    #[track_caller]
    pub(crate) fn start(self) -> Master {
        let master = self.launch();
        master.wait_until("the first generation serves", |status| status.state() == "running");
        master.remember();
        master
    }

    /// Starts the master and does not wait for anything.
    #[track_caller]
    pub(crate) fn launch(self) -> Master {
        process::adopt_orphans();
        let mark = mark();
        let mut command = match &self.shell {
            None => Command::new(&self.program),
            Some(script) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{script}\nexec \"$@\""), "sh"]).arg(&self.program);
                shell
            }
        };
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env(process::MARK, &mark)
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // So that a signal for the whole group, which some tests send, spares the tests themselves.
            .process_group(0);
        if let Some(path) = &self.working_directory {
            command.current_dir(path);
        }
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {:?}: {error}", self.program));
        let output = Log::follow(child.stdout.take().expect("it is piped"));
        let log = Log::follow(child.stderr.take().expect("it is piped"));
        Master::new(child, mark, output, log, self.folder)
    }

    /// Runs to the end, which must come by itself and leave no process behind.
    #[track_caller]
    pub(crate) fn run_to_end(self) -> Ended {
        self.launch().wait()
    }
}

/// A file that can be opened and is not a socket, for tests of wrong descriptors.
pub(crate) fn null() -> OwnedFd {
    File::open("/dev/null").expect("every system has it").into()
}

/// A name for everything that one master starts.
fn mark() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}
