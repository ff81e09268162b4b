//! What happens in a child between fork and exec: only calls that are safe in a signal handler.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};

use crate::privileges::{Account, Privileges, Step};

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
            reset_signals()
        });
    }
}

/// Lets every signal do what it does by default, and blocks none. Runs in the child.
pub(super) fn reset_signals() -> io::Result<()> {
    for number in Signal::iterator().filter(|s| !matches!(s, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action calls nothing of ours.
        unsafe { signal(number, SigHandler::SigDfl) }?;
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Makes the child of `command` give up what `privileges` does not allow, before exec. A failure is told by the number of
/// its step on `report`.
pub(crate) fn restrict(command: &mut Command, privileges: Privileges, report: OwnedFd) {
    let oom_score_adj = privileges.oom_score_adj.map(|score| score.to_string());
    let account = privileges.account.as_ref().map(Numbers::of);
    // SAFETY: the closure allocates nothing and takes no lock: it makes plain system calls with what was prepared here,
    // and turns their error numbers into errors. Those that change the user do so for the calling thread, the only one
    // that the child has.
    unsafe {
        command.pre_exec(move || {
            give_up(&privileges, oom_score_adj.as_deref(), account.as_ref()).map_err(|(step, errno)| {
                // The error itself is told by std; without the step it is only less clear.
                let _ = rustix::io::write(&report, &[step as u8]);
                io::Error::from(errno)
            })
        });
    }
}

/// An account in the types of the system calls.
struct Numbers {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Numbers {
    fn of(account: &Account) -> Self {
        let groups = account.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        Self { uid: Uid::from_raw(account.uid), gid: Gid::from_raw(account.gid), groups }
    }
}

/// Runs in the child: what needs the master's privileges first, then the account, and the sandbox last.
fn give_up(
    privileges: &Privileges,
    oom_score_adj: Option<&str>,
    account: Option<&Numbers>,
) -> Result<(), (Step, Errno)> {
    let at = |step| move |errno| (step, errno);
    if let Some(mask) = privileges.umask {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }
    if let Some(nice) = privileges.nice {
        rustix::process::setpriority_process(None, nice).map_err(at(Step::Nice))?;
    }
    if let Some(score) = oom_score_adj {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty());
        file.and_then(|file| rustix::io::write(file, score.as_bytes())).map_err(at(Step::OomScoreAdj))?;
    }
    if let Some(current) = privileges.nofile {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(current), maximum };
        rustix::process::setrlimit(Resource::Nofile, limit).map_err(at(Step::Nofile))?;
    }
    if let Some(Numbers { uid, gid, groups }) = account {
        rustix::thread::set_thread_groups(groups).map_err(at(Step::Groups))?;
        rustix::thread::set_thread_res_gid(*gid, *gid, *gid).map_err(at(Step::Group))?;
        rustix::thread::set_thread_res_uid(*uid, *uid, *uid).map_err(at(Step::User))?;
    }
    if privileges.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(at(Step::NoNewPrivs))?;
    }
    if let Some(ruleset) = &privileges.ruleset {
        restrict_self(ruleset).map_err(at(Step::Sandbox))?;
    }
    Ok(())
}

/// `landlock_restrict_self`, for which neither rustix nor nix has a wrapper.
fn restrict_self(ruleset: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: the call takes a descriptor, which is open, and flags; it touches no memory of ours.
    let result = unsafe { nix::libc::syscall(nix::libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    match result {
        0 => Ok(()),
        _ => Err(Errno::from_raw_os_error(nix::errno::Errno::last_raw())),
    }
}
