//! What a worker's process is allowed: data, resolved before the fork and applied in the child between fork and exec.
//!
//! Invariant: everything that only a privileged process may do comes before the user is changed, and the sandbox comes
//! last, so that no step takes away what a later one needs.

use std::fmt;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use rustix::fs::OFlags;

use crate::sys::spawn;

/// What a worker's process is allowed. By default exactly what the master is.
#[derive(Debug, Default)]
pub struct Privileges {
    /// As whom it runs.
    pub account: Option<Account>,
    /// Whether exec may never again give it more than it has, as by a set-user-id program.
    pub no_new_privs: bool,
    /// The permissions that the files it makes do not get.
    pub umask: Option<u32>,
    /// From -20, served first, to 19.
    pub nice: Option<i32>,
    /// From -1000, never killed for want of memory, to 1000, killed first.
    pub oom_score_adj: Option<i32>,
    /// How many descriptors it may have open: the soft limit. The hard one stays.
    pub nofile: Option<u64>,
    /// A Landlock ruleset that it is bound by. Needs `no_new_privs`, or a master that may administer the system.
    pub ruleset: Option<OwnedFd>,
}

/// A user, by the numbers that the kernel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All supplementary groups; those of the master are dropped.
    pub groups: Vec<u32>,
}

/// A step of the child, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Step {
    Nice,
    OomScoreAdj,
    Nofile,
    Groups,
    Group,
    User,
    NoNewPrivs,
    Sandbox,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::Nice,
        Self::OomScoreAdj,
        Self::Nofile,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::NoNewPrivs,
        Self::Sandbox,
    ];
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nice => "set its nice value",
            Self::OomScoreAdj => "set its oom_score_adj",
            Self::Nofile => "set its limit of descriptors",
            Self::Groups => "set its supplementary groups",
            Self::Group => "set its group",
            Self::User => "set its user",
            Self::NoNewPrivs => "set no_new_privs",
            Self::Sandbox => "enter its sandbox",
        })
    }
}

impl Privileges {
    /// Makes `command` start a process with these privileges and no others. Called in the master.
    ///
    /// # Errors
    ///
    /// There is no pipe for the [`Report`].
    pub fn pass_to(self, command: &mut Command) -> io::Result<Report> {
        let (report, failed) = io::pipe()?;
        // What a failed child says is there before its spawn returns: reading need not wait.
        rustix::fs::fcntl_setfl(&report, OFlags::NONBLOCK)?;
        spawn::restrict(command, self, failed.into());
        Ok(Report(report))
    }
}

/// Tells after a failed spawn at which step it failed: of a child that fails before exec, std keeps the number alone.
#[derive(Debug)]
pub struct Report(PipeReader);

impl Report {
    /// The error of the spawn, with the step at which it came, if it was one of ours.
    pub fn explain(self, error: io::Error) -> io::Error {
        let mut number = [0];
        let step = match rustix::io::read(self.0.as_fd(), &mut number) {
            Ok(1) => Step::ALL.into_iter().find(|step| *step as u8 == number[0]),
            _ => None,
        };
        match step {
            Some(step) => io::Error::new(error.kind(), format!("{step}: {error}")),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(privileges: Privileges, script: &str) -> io::Result<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let report = privileges.pass_to(&mut command)?;
        let output = command.output().map_err(|error| report.explain(error))?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    #[test]
    fn without_wishes_nothing_changes() {
        let plain = Command::new("sh").args(["-c", "id; umask; ulimit -n; nice"]).output().unwrap();
        let same = output(Privileges::default(), "id; umask; ulimit -n; nice").unwrap();
        assert_eq!(same, String::from_utf8_lossy(&plain.stdout).trim());
    }

    #[test]
    fn what_everybody_may_do_is_done() {
        let privileges = Privileges {
            no_new_privs: true,
            umask: Some(0o027),
            nice: Some(19),
            oom_score_adj: Some(1000),
            nofile: Some(77),
            ..Privileges::default()
        };
        let script = "umask; nice; cat /proc/self/oom_score_adj; ulimit -S -n; grep NoNewPrivs /proc/self/status";
        assert_eq!(output(privileges, script).unwrap(), "0027\n19\n1000\n77\nNoNewPrivs:\t1");
    }

    #[test]
    fn the_hard_limit_stays() {
        let before = output(Privileges::default(), "ulimit -H -n").unwrap();
        let privileges = Privileges { nofile: Some(77), ..Privileges::default() };
        assert_eq!(output(privileges, "ulimit -H -n").unwrap(), before);
    }

    #[test]
    fn a_failed_step_is_named() {
        let too_many = Privileges { nofile: Some(u64::MAX - 1), ..Privileges::default() };
        let error = output(too_many, "true").unwrap_err();
        assert_eq!(error.to_string(), "set its limit of descriptors: Invalid argument (os error 22)");
        let no_ruleset: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        let error = output(Privileges { ruleset: Some(no_ruleset), ..Privileges::default() }, "true").unwrap_err();
        assert!(error.to_string().starts_with("enter its sandbox: "), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_no_step() {
        let mut command = Command::new("/nowhere/at/all");
        let report = Privileges::default().pass_to(&mut command).unwrap();
        let error = report.explain(command.spawn().unwrap_err());
        assert_eq!(error.to_string(), "No such file or directory (os error 2)");
    }

    #[test]
    fn another_user_is_for_root_and_then_it_is_whole() {
        let account = Account { uid: 4711, gid: 4712, groups: vec![4713, 4714] };
        let seen = output(Privileges { account: Some(account), ..Privileges::default() }, "id -u; id -g; id -G");
        match rustix::process::geteuid().is_root() {
            true => assert_eq!(seen.unwrap(), "4711\n4712\n4712 4713 4714"),
            false => {
                let error = seen.unwrap_err().to_string();
                assert_eq!(error, "set its supplementary groups: Operation not permitted (os error 1)");
            }
        }
    }
}
