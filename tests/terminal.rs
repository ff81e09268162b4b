//! A master in the foreground of a terminal. The tests hold the other end of the terminal.

use std::fs::File;
use std::io::Write;

use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::setup::WORKER;
use crate::harness::{Line, Master, Setup, process};

/// A master whose controlling terminal is a new one, and the end that a user has. Whether whoever runs the tests ignores
/// HUP makes no difference.
fn in_a_terminal() -> (Master, File) {
    in_a_terminal_with("--default-signal=HUP")
}

/// As above, with HUP as this option of `env` says.
fn in_a_terminal_with(hangup: &str) -> (Master, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let user = openpt(flags).expect("a new terminal");
    grantpt(&user).expect("a new terminal");
    unlockpt(&user).expect("a new terminal");
    let name = ptsname(&user, Vec::new()).expect("a new terminal");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = open(name.as_c_str(), flags, Mode::empty()).expect("a new terminal");
    // `setsid --ctty` makes its standard input the controlling terminal; it forks, for it leads a process group.
    let arguments = [hangup, "setsid", "--ctty", "--wait", WORKER, "127.0.0.1:0"];
    let setup = Setup::program("env", &arguments).stdin(terminal);
    (setup.start(), user.into())
}

fn master_of(master: &Master) -> u32 {
    let pid = master.status().0["pid"].as_u64().expect("a pid");
    pid.try_into().expect("a pid")
}

#[test]
fn ctrl_c_once_is_a_graceful_stop_and_twice_is_at_once() {
    let (master, mut user) = in_a_terminal();
    let mut line = master.line();
    let me = line.who();
    user.write_all(b"\x03").expect("an open terminal");
    master.wait_until("the master stops", |status| status.state() == "stopping");
    assert_eq!(line.who(), me);
    user.write_all(b"\x03").expect("an open terminal");
    assert!(line.ends());
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn a_terminal_that_closes_is_a_graceful_stop_and_no_reload() {
    let (master, user) = in_a_terminal();
    let mut line = master.line();
    let me = line.who();
    drop(user);
    master.wait_until("the master stops", |status| status.state() == "stopping");
    assert_eq!(line.who(), me);
    drop(line);
    let ended = master.wait();
    assert!(!ended.errors.contains("generation=2"), "{}", ended.errors);
}

/// `nohup` says so by ignoring HUP.
#[test]
fn a_master_that_was_started_to_outlive_its_terminal_does() {
    let (master, user) = in_a_terminal_with("--ignore-signal=HUP");
    drop(user);
    let pid = master_of(&master);
    for generation in 2..4 {
        process::signal(pid, Signal::SIGHUP);
        master.wait_until("it reloads", |status| status.active().iter().all(|worker| worker.generation == generation));
    }
    process::signal(pid, Signal::SIGTERM);
    master.wait();
}

#[test]
fn a_window_that_changes_its_size_changes_nothing_else() {
    let (master, user) = in_a_terminal();
    let address = master.address();
    for rows in 20..30 {
        let size = Winsize { ws_row: rows, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&user, size).expect("an open terminal");
        assert_eq!(Line::connect(address).who().generation, 1);
    }
    process::signal(master_of(&master), Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}
