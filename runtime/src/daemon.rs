//! A master that leaves the foreground (`--daemon`). Three processes of the same program, each started by exec, for a
//! process with threads cannot be forked:
//!
//! | process | does |
//! |---|---|
//! | the first | starts the second, waits until the master serves, and exits 0, or 1 when it does not |
//! | the second | becomes the leader of a new session, starts the third in it, and exits: so the third leads nothing, and no terminal that it opens becomes its controlling one |
//! | the third | is the master: says on standard output, a pipe to the first, that it serves, and then lets go of the terminal |
//!
//! Until the master serves, its standard error is that of the first, so that the reason of a failure is seen.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::Config;
use crate::error::{Error, Result};

/// Which of the three this process is. Never reaches a worker.
pub(crate) const STAGE: &str = "EVERPORT_DAEMON_STAGE";

const SECOND: &str = "session";
const THIRD: &str = "master";

/// What the master writes when it serves.
const SERVES: &[u8] = b"serves\n";

/// How much longer than its workers the master may take to start or to give up.
const MARGIN: Duration = Duration::from_secs(10);

/// What this process shall do.
#[derive(Debug)]
pub(crate) enum Role {
    /// Be the master, in the foreground or as the third process.
    Master(Option<Notice>),
    /// Nothing more: the master runs elsewhere.
    Done,
}

/// The way from the master to the process that waits for it.
#[derive(Debug)]
pub(crate) struct Notice;

/// Finds out which process this is and does its part.
pub(crate) fn take_part(config: &Config) -> Result<Role> {
    if !config.daemon {
        return Ok(Role::Master(None));
    }
    match env::var_os(STAGE).as_deref().and_then(OsStr::to_str) {
        Some(THIRD) => Ok(Role::Master(Some(Notice))),
        Some(SECOND) => {
            rustix::process::setsid().map_err(|errno| Error::io("lead", &"a new session")(errno.into()))?;
            let mut master = again(THIRD).map_err(failed)?;
            master.spawn().map_err(failed)?;
            Ok(Role::Done)
        }
        _ => {
            let mut second = again(SECOND).map_err(failed)?.stdout(Stdio::piped()).spawn().map_err(failed)?;
            // It was asked for a pipe.
            let pipe = second.stdout.take().ok_or(Error::DaemonFailed)?;
            second.wait().map_err(failed)?;
            wait_until_it_serves(pipe, config.ready_timeout.saturating_add(MARGIN))?;
            Ok(Role::Done)
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("start", &"the master in the background")(source)
}

/// This program again, with the same arguments.
fn again(stage: &str) -> io::Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    let mut arguments = env::args_os();
    if let Some(name) = arguments.next() {
        // By which the master finds the program of a later generation.
        command.arg0(name);
    }
    command.args(arguments).env(STAGE, stage).stdin(Stdio::null());
    Ok(command)
}

/// Returns when the master says that it serves. It holds the only other end of the pipe, so its death is the end of it.
fn wait_until_it_serves(mut pipe: impl Read + std::os::fd::AsFd, patience: Duration) -> Result<()> {
    let limit = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
    // Nothing of the kind interrupts the wait: this process catches no signal.
    let ready = poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&limit));
    if ready.map_err(|errno| failed(errno.into()))? == 0 {
        return Err(Error::DaemonSilent { after: patience });
    }
    let mut said = Vec::new();
    pipe.by_ref().take(SERVES.len() as u64).read_to_end(&mut said).map_err(failed)?;
    if said == SERVES { Ok(()) } else { Err(Error::DaemonFailed) }
}

impl Notice {
    /// Tells the waiting process that the master serves, and lets go of its terminal. Called in the master, once.
    pub(crate) fn serves(self) -> io::Result<()> {
        let nowhere = File::options().read(true).write(true).open("/dev/null")?;
        // Whoever waited may have been killed.
        let _ = rustix::io::write(rustix::stdio::stdout(), SERVES);
        rustix::stdio::dup2_stdout(&nowhere)?;
        rustix::stdio::dup2_stderr(&nowhere)?;
        Ok(())
    }
}
