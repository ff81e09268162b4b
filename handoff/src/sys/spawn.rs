//! What happens in a child between fork and exec: only calls that are safe in a signal handler.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Lets the program of `command` inherit `fds` under their present numbers, with every signal but the real-time ones at its
/// default, and none blocked.
///
/// What is ignored or blocked would stay so through exec: a worker that did so with TERM by accident could never leave.
/// The caller keeps the descriptors open until the child is spawned.
pub(crate) fn inherit(command: &mut Command, fds: [BorrowedFd<'_>; 2]) {
    let fds: [RawFd; 2] = fds.map(|fd| fd.as_raw_fd());
    // SAFETY: the closure allocates nothing, takes no lock, and makes only calls that are safe between fork and exec.
    // The numbers are valid there: the child has copies of all descriptors of the parent.
    unsafe {
        command.pre_exec(move || {
            for fd in fds {
                fcntl(BorrowedFd::borrow_raw(fd), FcntlArg::F_SETFD(FdFlag::empty())).map_err(io::Error::from)?;
            }
            for number in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
                signal(number, SigHandler::SigDfl).map_err(io::Error::from)?;
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(io::Error::from)?;
            Ok(())
        });
    }
}
