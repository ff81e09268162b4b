//! Watching a descriptor in a tokio runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime, and closes it when the answer is dropped.
///
/// # Errors
///
/// The system refuses to watch it; then it is closed.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and the `AsyncFd` owns it. `blank` may
    // put another file under the number when the master is lost; then tokio cannot deregister it, and keeps what epoll
    // points to until its runtime ends (`deregister_source` in tokio's `runtime/io/driver.rs`).
    let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
    Ok(watched?)
}
