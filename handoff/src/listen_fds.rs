//! The contract of sd_listen_fds(3), the side that gives: listeners for a program that knows nothing of Everport. The side
//! that takes is in `socket`.
//!
//! | variable | value |
//! |---|---|
//! | `LISTEN_FDS` | how many listeners there are, from descriptor 3 on |
//! | `LISTEN_FDNAMES` | their names in that order, separated by colons; `unknown` for one that has none |
//! | `LISTEN_PID` | the pid of the program; only the child knows it, and writes it between fork and exec |
//!
//! The listeners are non-blocking. That belongs to the open file, which all workers share: with blocking ones, two that
//! wake up for one client would leave the slower one stuck in `accept`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::sys::image::{self, Numbered};

/// What systemd writes for a listener without a name.
const UNNAMED: &str = "unknown";

/// What a program that knows nothing of Everport is given.
#[derive(Clone, Copy, Debug)]
pub struct ListenFds<'a> {
    /// The name by which it is started.
    pub arg0: &'a OsStr,
    /// The listeners, each with its name if it has one.
    pub listeners: &'a [(BorrowedFd<'a>, Option<&'a str>)],
    /// What it gets when the master's thread that spawned it ends, and again for every other thread that is left then.
    pub orphaned: Signal,
}

impl ListenFds<'_> {
    /// Makes `command` start such a program. Called in the master, as the last thing before the spawn: of what is added to
    /// `command` later, the child sees nothing.
    ///
    /// The child starts with the default action for every signal.
    ///
    /// # Errors
    ///
    /// There are no descriptors left for the copies of the listeners, or an argument has a zero byte.
    pub fn pass_to(self, command: &mut Command) -> io::Result<()> {
        let names: Vec<&str> = self.listeners.iter().map(|(_, name)| name.unwrap_or(UNNAMED)).collect();
        command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        let fds: Vec<BorrowedFd<'_>> = self.listeners.iter().map(|(fd, _)| *fd).collect();
        image::exec_with(command, self.arg0, Numbered::from(&fds)?, self.orphaned)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::process::Stdio;

    use super::*;

    fn sh(script: &str, listeners: &[(BorrowedFd<'_>, Option<&str>)]) -> Vec<String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("GIVEN", "yes").env_remove("HOME").stdin(Stdio::null());
        ListenFds { arg0: OsStr::new("sh"), listeners, orphaned: Signal::SIGTERM }.pass_to(&mut command).unwrap();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_program_finds_the_listeners_by_number_and_its_own_pid() {
        // More than there are free numbers, and the last one first.
        let sockets: Vec<TcpListener> = (0..40).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let listeners: Vec<_> = sockets.iter().rev().map(|socket| (socket.as_fd(), None)).collect();
        let said =
            sh("echo $LISTEN_PID $$ $LISTEN_FDS; for n in $(seq 3 42); do readlink /proc/$$/fd/$n; done", &listeners);
        let first: Vec<&str> = said[0].split(' ').collect();
        assert_eq!((first[0], first[2]), (first[1], "40"));
        let inode = |fd: &BorrowedFd<'_>| format!("socket:[{}]", rustix::fs::fstat(fd).unwrap().st_ino);
        let expected: Vec<String> = listeners.iter().map(|(fd, _)| inode(fd)).collect();
        assert_eq!(said[1..], expected);
    }

    #[test]
    fn names_and_the_other_variables_reach_the_program() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let said =
            sh("echo $LISTEN_FDNAMES $GIVEN -$HOME- $0", &[(socket.as_fd(), Some("web")), (socket.as_fd(), None)]);
        assert_eq!(said, ["web:unknown yes -- sh"]);
    }

    #[test]
    fn the_error_of_exec_comes_back() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        for (program, kind) in
            [("/nowhere/server", io::ErrorKind::NotFound), ("/dev/null", io::ErrorKind::PermissionDenied)]
        {
            let mut command = Command::new(program);
            let listeners = &[(socket.as_fd(), None)];
            let given = ListenFds { arg0: OsStr::new(program), listeners, orphaned: Signal::SIGTERM };
            given.pass_to(&mut command).unwrap();
            assert_eq!(command.spawn().unwrap_err().kind(), kind, "{program}");
        }
    }
}
