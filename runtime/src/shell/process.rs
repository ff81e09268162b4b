//! Processes of workers: which program, how it is started, its death.
//!
//! Invariant: a process is signalled only while its pidfd is unreaped, so that its number cannot have a new bearer.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use everport_handoff::id::Generation;
use rustix::fs::Access;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tracing::warn;

use super::pin::Pin;
use super::surroundings::{Output, Surroundings};
use crate::config::{Config, Program};
use crate::error::{Error, Result};
use crate::machine::Exit;

/// Starts workers from the program as it was given, so that a switched symlink leads to the new release; but every worker
/// of one generation from the same file, and in the same directory.
#[derive(Debug)]
pub(crate) struct Launcher {
    program: OsString,
    arguments: Vec<OsString>,
    surroundings: Surroundings,
    start: Start,
    /// What the generations that have not gone were started from.
    pins: BTreeMap<Generation, Pins>,
}

/// What all workers of a generation have in common.
#[derive(Debug)]
struct Pins {
    program: Pin,
    directory: Pin,
}

/// What was so when the master was started, and stays so for every generation.
#[derive(Clone, Debug)]
struct Start {
    /// The working directory, as it was given.
    directory: PathBuf,
    soft_nofile: Option<u64>,
}

impl Launcher {
    /// Notes what was given and from where, at the start of the master.
    ///
    /// # Errors
    ///
    /// The working directory is gone, there is no such program, or workers cannot have such privileges.
    pub(crate) fn new(config: &Config, soft_nofile: Option<u64>) -> Result<Self> {
        let directory = directory_as_given().map_err(Error::io("find", &"the working directory"))?;
        let start = Start { directory, soft_nofile };
        Self::make(config, start, |directory| {
            let program = itself_as_given(directory).map_err(Error::io("find", &"this program's own file"))?;
            Ok((program, env::args_os().skip(1).collect()))
        })
    }

    /// Starts workers as other settings say, from where this one does.
    ///
    /// # Errors
    ///
    /// There is no such program, or workers cannot have such privileges.
    pub(crate) fn renewed(&self, config: &Config) -> Result<Self> {
        Self::make(config, self.start.clone(), |_| Ok((self.program.clone(), self.arguments.clone())))
    }

    fn make(
        config: &Config,
        start: Start,
        itself: impl FnOnce(&Path) -> Result<(OsString, Vec<OsString>)>,
    ) -> Result<Self> {
        let directory = &start.directory;
        let (program, arguments) = match &config.program {
            Program::Embedded => itself(directory)?,
            Program::Command { program, arguments } => {
                let named = format!("the program {program:?}");
                find(program, directory).map_err(Error::io("run", &named))?;
                // In whatever directory the workers are to run, the name is meant here.
                let is_path = program.as_encoded_bytes().contains(&b'/');
                let moves = is_path && config.directory.is_some();
                let program = if moves { directory.join(program).into() } else { program.clone() };
                (program, arguments.clone())
            }
        };
        let surroundings = Surroundings::new(config, directory, start.soft_nofile)?;
        Ok(Self { program, arguments, surroundings, start, pins: BTreeMap::new() })
    }

    /// The master's working directory, as it was given.
    pub(crate) fn directory(&self) -> &Path {
        &self.start.directory
    }

    /// The program as it was given.
    pub(crate) fn program(&self) -> &Path {
        Path::new(&self.program)
    }

    /// What the workers find around them.
    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// Starts one worker, in its own process group. `endow` gives it what it inherits, and is told the program's name.
    ///
    /// # Errors
    ///
    /// What fork or exec answered, or the step between the two that failed.
    pub(super) fn spawn(
        &mut self,
        generation: Generation,
        endow: impl FnOnce(&mut Command, &OsStr) -> io::Result<()>,
        output: &Output,
    ) -> io::Result<Process> {
        let pins = self.pins(generation)?;
        let (program, directory) = (pins.program.path(), pins.directory.path());
        let mut command = Command::new(program);
        command.arg0(&self.program).args(&self.arguments).process_group(0);
        let report = self.surroundings.give_to(&mut command, &directory, output)?;
        endow(&mut command, &self.program)?;
        // The child is reaped through its pidfd; dropping std's handle neither waits for it nor kills it.
        let mut child = command.spawn().map_err(|error| report.explain(error))?;
        let pid = Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Process { pid, pidfd }),
            // Nobody could watch it.
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error.into())
            }
        }
    }

    /// Forgets what all generations but these were started from.
    pub(crate) fn keep_pins(&mut self, generations: &BTreeSet<Generation>) {
        self.pins.retain(|generation, _| generations.contains(generation));
    }

    fn pins(&mut self, generation: Generation) -> io::Result<&Pins> {
        match self.pins.entry(generation) {
            Entry::Occupied(pinned) => Ok(pinned.into_mut()),
            Entry::Vacant(free) => {
                let program = Pin::program(find(&self.program, self.surroundings.directory())?)?;
                let directory = Pin::directory(self.surroundings.directory().to_owned())?;
                Ok(free.insert(Pins { program, directory }))
            }
        }
    }
}

/// A worker's process that has not been reaped. Its descriptor is readable once it has ended.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Kills the process and all of its group.
    pub(crate) fn kill(&self) {
        // Each fails only when there is nobody left to kill.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Lets the process abort, so that it leaves a core where cores are kept.
    pub(crate) fn abort(&self) {
        // It fails only when there is nobody left to abort.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::ABORT);
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some(signal) = Signal::from_named_raw(signal as i32) {
            // It fails only when there is nobody left to signal.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
        }
    }

    /// Waits for the end of a process that was killed.
    pub(crate) fn wait(&self) -> io::Result<()> {
        rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        Ok(())
    }

    /// Reaps the process if it has ended.
    pub(crate) fn reap(&self) -> Option<Exit> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(status) => status.map(|status| match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, signal) => Exit::Signal(signal.unwrap_or(0)),
            }),
            // The exit status went elsewhere: somebody else in this process waits for all children.
            Err(error) => {
                warn!(pid = self.pid(), %error, "exit status lost");
                Some(Exit::Code(-1))
            }
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// The file of the program that can be run, as exec would find it. Found at the start too, so that a slip of the pen is told
/// once and not by every worker.
fn find(program: &OsStr, directory: &Path) -> io::Result<PathBuf> {
    let runs = |file: PathBuf| -> io::Result<PathBuf> {
        rustix::fs::access(&file, Access::EXEC_OK)?;
        if fs::metadata(&file)?.is_file() { Ok(file) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    };
    if program.as_encoded_bytes().contains(&b'/') {
        return runs(directory.join(program));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut folders = env::split_paths(&path);
    let found = folders.find_map(|folder| runs(directory.join(folder).join(program)).ok());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no folder of PATH has it"))
}

/// The working directory by the name that the shell gave it: `$PWD` keeps symlinks that `getcwd` resolves.
fn directory_as_given() -> io::Result<PathBuf> {
    let real = env::current_dir()?;
    let given = env::var_os("PWD").map(PathBuf::from).filter(|path| path.is_absolute());
    Ok(given.filter(|given| is_same_file(given, &real)).unwrap_or(real))
}

/// This program by the name that it was started with, if that leads to the file that runs; else the file's own path.
fn itself_as_given(directory: &Path) -> io::Result<OsString> {
    let own = Path::new("/proc/self/exe");
    let given = env::args_os().next().and_then(|name| {
        if name.as_encoded_bytes().contains(&b'/') {
            return Some(directory.join(name));
        }
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|folder| directory.join(folder).join(&name)).find(|file| is_same_file(file, own))
    });
    match given.filter(|given| is_same_file(given, own)) {
        Some(given) => Ok(given.into()),
        None => Ok(fs::read_link(own)?.into()),
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    matches!((fs::metadata(one), fs::metadata(other)), (Ok(one), Ok(other)) if id(&one) == id(&other))
}
