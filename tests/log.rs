//! The master's log: who asked for what, and that it is no chain on the master, for whoever reads it may stall or go.

use nix::sys::signal::Signal;

use crate::harness::{Setup, process};

/// Makes standard error a pipe which this process alone holds open, so that nobody ever reads it.
const STALLED: &str = "d=$(mktemp -d); mkfifo $d/f; exec 2<>$d/f; rm -r $d";

/// Makes standard error a pipe whose reader has gone.
const CLOSED: &str = "d=$(mktemp -d); mkfifo $d/f; exec 3<>$d/f 2>$d/f 3>&-; rm -r $d";

#[test]
fn a_log_that_nobody_reads_does_not_hold_the_master() {
    let master = Setup::lines().shell(STALLED).start();
    // Each reload logs about a kilobyte; a pipe holds 64.
    for _ in 0..100 {
        master.reload_well();
    }
    let me = master.line().who();
    master.settle(2);
    process::signal(me.pid, Signal::SIGKILL);
    process::wait_for_end(me.pid);
    master.settle(2);
    master.stop();
}

#[test]
fn a_log_whose_reader_has_gone_does_not_end_the_master() {
    let master = Setup::lines().shell(CLOSED).start();
    for _ in 0..3 {
        master.reload_well();
    }
    assert_eq!(master.line().ask("echo still here"), "still here");
    master.stop();
}

#[test]
fn the_log_says_in_words_who_asked_for_a_reload() {
    let master = Setup::lines().start();
    master.signal(Signal::SIGHUP);
    let asked = format!(r#"asked_by="a signal of process {}, uid "#, std::process::id());
    master.log.wait_for(&["reload asked", &asked]);
    master.log.wait_for(&["generation drained"]);
    master.settle(2);
    master.check();
}
