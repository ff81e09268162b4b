//! Children that are not workers: as process 1 of a container, or as a subreaper, the master inherits whatever loses its
//! parent, and must reap it, or the table of processes fills with the dead.
//!
//! Invariant: a worker's exit status is left for its own pidfd. The dead are looked at before they are reaped.

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use tracing::debug;

/// How many are reaped at once; the next death brings the loop back here.
const MAX_REAPED: usize = 4096;

/// Whether orphans come to this process. If not, a child that is no worker is a matter of the program that this master is
/// embedded in.
pub(super) fn come_to_us() -> bool {
    let is_subreaper = rustix::process::child_subreaper().is_ok_and(|reaper| reaper.is_some());
    is_subreaper || rustix::process::getpid().is_init()
}

/// Reaps dead children, up to the first one that is a worker: those behind it are seen once that one is buried.
pub(super) fn reap(is_worker: impl Fn(i32) -> bool) {
    for _ in 0..MAX_REAPED {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        // It fails when there is no child at all.
        let Some(pid) = waitid(Id::All, look).ok().and_then(|status| status.pid()) else { return };
        if is_worker(pid.as_raw()) {
            return;
        }
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(_) => debug!(pid = pid.as_raw(), "orphan reaped"),
            Err(error) => return debug!(pid = pid.as_raw(), %error, "orphan not reaped"),
        }
    }
}
