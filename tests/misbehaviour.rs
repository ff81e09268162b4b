//! Workers that break the rules: the master goes on, and so do the others.

use nix::sys::signal::Signal;
use std::io;

use crate::harness::{Line, Master, Setup, process, soon};

/// A healthy worker in slot 0, and one in slot 1 that misbehaves once it is active.
fn beside(plan: &str) -> Master {
    let master = Setup::lines().start();
    master.plan(&format!("s1 {plan}"));
    let victim = master.line_to(1).who().pid;
    process::signal(victim, Signal::SIGKILL);
    process::wait_for_end(victim);
    master
}

/// The other worker answers everybody but those who were offered to this one and may have been taken by it: they are ended,
/// and do not hang. Slot 1 is healthy again in the end.
fn is_survived(plan: &str) {
    let master = beside(plan);
    let mut lines: Vec<Line> = (0..30).map(|_| Line::connect(master.address())).collect();
    // A connection that was ended already may not take the question.
    lines.iter_mut().for_each(|line| drop(line.try_tell("who")));
    let heard: Vec<io::Result<String>> = lines.iter_mut().map(Line::hear).collect();
    let hangs = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    assert!(!heard.iter().any(|heard| heard.as_ref().is_err_and(hangs)), "{plan}: {heard:?}");
    let answered = heard.iter().filter(|heard| heard.is_ok()).count();
    assert!(answered >= 15, "{plan}: {heard:?}");
    drop(lines);
    recovers(&master, plan);
    master.check();
}

fn recovers(master: &Master, plan: &str) {
    master.plan("");
    let address = master.address();
    // One that the master lets live is killed by the test.
    for worker in master.status().workers() {
        if let (1, Some(pid)) = (worker.slot, worker.pid) {
            process::signal(pid, Signal::SIGKILL);
        }
    }
    soon("slot 1 is healthy again", || (Line::try_connect(address).ok()?.try_who().ok()?.slot == 1).then_some(()));
    let status = master.settle(2);
    assert!(status.active().iter().all(|worker| worker.generation == 1), "{plan}");
    master.reload_well();
    master.settle(2);
}

/// As `is_survived`, and the master notices, says so, and has no more to do with that worker.
fn is_noticed(plan: &str) {
    let master = beside(plan);
    let address = master.address();
    master.log.wait_for(&["worker killed"]);
    for _ in 0..10 {
        Line::connect(address).who();
    }
    recovers(&master, plan);
    master.check();
}

/// parallel/test-cluster-invalid-message.js.
#[test]
fn garbage_on_the_channel() {
    is_noticed("garbage");
    is_noticed("headless");
}

#[test]
fn a_flood_of_garbage_on_the_channel() {
    is_noticed("garbage-flood");
}

#[test]
fn a_message_that_is_too_long() {
    is_noticed("oversize");
}

#[test]
fn descriptors_that_nobody_announced() {
    is_noticed("fds-unannounced");
}

#[test]
fn descriptors_that_were_announced_and_are_missing() {
    is_survived("fds-missing");
}

#[test]
fn messages_at_the_wrong_time() {
    for plan in ["ready-twice", "hello-twice", "drained-unasked", "close-unknown", "listen-nonsense"] {
        is_survived(plan);
    }
}

#[test]
fn more_questions_than_anybody_has() {
    is_survived("listen-flood");
    is_survived("leave-flood");
}

#[test]
fn nonsense_on_the_board() {
    is_survived("scribble");
    is_survived("zeros");
    is_survived("taken-everywhere");
}

/// What a worker says of itself is added up, and may be anything.
#[test]
fn figures_that_cannot_be() {
    let master = Setup::lines().drain_timeout("300ms").plan("g2 boast").start();
    master.reload_well();
    master.plan("");
    master.reload_well();
    let status = master.settle(2);
    assert_eq!(status.0["last_reload"]["generation"], 3);
    assert_eq!(master.line().who().generation, 3);
    master.check();
}

/// Each offer on a broken board tells the same; the log says it once.
#[test]
fn a_breach_of_the_protocol_is_told_once() {
    let master = beside("scribble");
    let lines: Vec<Line> = (0..40).map(|_| Line::connect(master.address())).collect();
    let first = master.log.wait_for(&["worker broke the protocol"]);
    let worker = first.split(' ').find(|word| word.starts_with("worker=")).expect("its id").to_owned();
    master.log.wait_for(&["worker exited", &worker]);
    assert_eq!(master.log.count(&["worker broke the protocol", &worker]), 1);
    drop(lines);
    recovers(&master, "scribble");
    master.check();
}

#[test]
fn a_hole_in_the_board() {
    is_survived("hole");
}

#[test]
fn a_board_that_shall_shrink() {
    is_survived("shrink");
}

#[test]
fn a_channel_that_is_closed_by_a_worker_that_lives() {
    is_noticed("close");
}

/// A forked child keeps the channel and the board of its dead parent open: the death is seen all the same.
#[test]
fn an_heir_that_keeps_channel_and_board_open() {
    let master = beside("heir");
    master.log.wait_for(&["worker exited", "6"]);
    let address = master.address();
    for _ in 0..20 {
        Line::connect(address).who();
    }
    recovers(&master, "heir");
    // The heirs are in process groups of their own, so the master knows nothing of them: the sweep ends them.
}

#[test]
fn a_worker_that_is_stopped() {
    let master = Setup::lines().start();
    let address = master.address();
    let victim = master.line_to(1).who();
    process::signal(victim.pid, Signal::SIGSTOP);
    for _ in 0..40 {
        assert_eq!(Line::connect(address).who().slot, 0);
    }
    process::signal(victim.pid, Signal::SIGCONT);
    soon("it takes part again", || (Line::connect(address).who().slot == 1).then_some(()));
    assert_eq!(master.status().active().iter().map(|worker| worker.restarts).sum::<u64>(), 0);
    master.check();
}

#[test]
fn a_stopped_worker_does_not_outlive_a_reload() {
    let master = Setup::lines().drain_timeout("500ms").start();
    let victim = master.line_to(1).who();
    process::signal(victim.pid, Signal::SIGSTOP);
    master.reload_well();
    process::wait_for_end(victim.pid);
    master.settle(2);
    master.check();
}

/// A worker that never takes what it is offered is passed over.
#[test]
fn a_worker_that_takes_nothing() {
    let master = beside("idle");
    let address = master.address();
    for _ in 0..40 {
        assert_eq!(Line::connect(address).who().slot, 0);
    }
    recovers(&master, "idle");
    master.check();
}
