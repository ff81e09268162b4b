//! The commands that ask a running master.

use std::path::Path;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::{Failure, print, table};
use crate::control::client::Connection;
use crate::control::protocol::{Begun, ReloadOutcome, ReloadRecord, Reopened, Status, Stopping};

/// Longer than the master's own patience with its loop, so that its reason arrives first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How long the master may take to stop beyond the drain timeout: to kill what is left, reap it and clean up.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Reloads, and waits for the outcome as long as the master does.
pub(super) fn reload(control: &Path) -> Result<(), Failure> {
    let answer = Connection::open(control)?.ask(Method::POST, "/reload", None)?;
    let record: ReloadRecord = answer.read(&[StatusCode::OK, StatusCode::CONFLICT])?;
    match record.outcome {
        ReloadOutcome::Committed => print(table::committed(&record).as_bytes()),
        ReloadOutcome::RolledBack => Err(Failure::RolledBack {
            generation: record.generation.0,
            reason: record.reason.unwrap_or_else(|| "no reason given".to_owned()),
        }),
    }
}

/// Reloads, and says what has begun.
pub(super) fn begin_reload(control: &Path) -> Result<(), Failure> {
    let answer = Connection::open(control)?.ask(Method::POST, "/reload?wait=false", Some(PATIENCE))?;
    let begun: Begun = answer.read(&[StatusCode::ACCEPTED])?;
    print(table::begun(&begun).as_bytes())
}

/// Rolls the reload under way back.
pub(super) fn rollback(control: &Path) -> Result<(), Failure> {
    let answer = Connection::open(control)?.ask(Method::POST, "/rollback", Some(PATIENCE))?;
    let record: ReloadRecord = answer.read(&[StatusCode::OK])?;
    print(table::rolled_back(&record).as_bytes())
}

/// Shows the status, as tables or as the master's own JSON.
pub(super) fn status(control: &Path, json: bool) -> Result<(), Failure> {
    let answer = Connection::open(control)?.ask(Method::GET, "/status", Some(PATIENCE))?;
    let status: Status = answer.read(&[StatusCode::OK])?;
    if json {
        // As it came: a newer master may say more than this command knows.
        return print(&[&answer.body[..], b"\n"].concat());
    }
    print(table::status(&status).as_bytes())
}

/// Opens the log files again.
pub(super) fn reopen(control: &Path) -> Result<(), Failure> {
    let answer = Connection::open(control)?.ask(Method::POST, "/reopen", Some(PATIENCE))?;
    let reopened: Reopened = answer.read(&[StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR])?;
    print(reopened.files.iter().map(|file| format!("reopened: {file}\n")).collect::<String>().as_bytes())?;
    match reopened.failures {
        reasons if reasons.is_empty() => Ok(()),
        reasons => Err(Failure::NotReopened { reasons }),
    }
}

/// Stops the master and waits until its process has gone.
pub(super) fn stop(control: &Path, now: bool) -> Result<(), Failure> {
    let connection = Connection::open(control)?;
    let Some(master) = connection.master() else {
        let _: Stopping = connection.ask(Method::POST, stop_uri(now), Some(PATIENCE))?.read(&[StatusCode::ACCEPTED])?;
        return print(b"stopping, in a pid namespace that cannot be seen from here\n");
    };
    let pid = master.as_raw_nonzero().get();
    let failed = |errno: Errno| Failure::Wait { pid, source: errno.into() };
    // Before asking: afterwards the number might already be another process's.
    let process = pidfd_open(master, PidfdFlags::empty()).map_err(failed)?;
    let stopping: Stopping =
        connection.ask(Method::POST, stop_uri(now), Some(PATIENCE))?.read(&[StatusCode::ACCEPTED])?;
    let drain = if now { Duration::ZERO } else { Duration::from_millis(stopping.drain_timeout_ms) };
    let patience = drain.saturating_add(STOP_MARGIN);
    let limit = Timespec::try_from(patience).map_err(|_| failed(Errno::INVAL))?;
    // No handler of ours interrupts the wait. A pidfd is readable once its process has ended.
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).map_err(failed)? {
        0 => Err(Failure::LivesOn { pid, after: patience }),
        _ => print(format!("stopped: process {pid} has gone\n").as_bytes()),
    }
}

fn stop_uri(now: bool) -> &'static str {
    if now { "/stop?now=true" } else { "/stop" }
}
