//! Who owns a connection: exactly one, through any crash.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::clients::{Kind, Load, Notice};
use crate::harness::{Line, Setup, http, process, soon};

#[test]
fn connections_go_to_the_workers_in_turn() {
    let master = Setup::lines().workers(3).start();
    let address = master.address();
    let mut served = BTreeMap::<u64, usize>::new();
    let mut last = None;
    for _ in 0..30 {
        let slot = Line::connect(address).who().slot;
        assert_ne!(last.replace(slot), Some(slot), "the same worker twice in a row");
        *served.entry(slot).or_default() += 1;
    }
    assert_eq!(served.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    master.check();
}

#[test]
fn every_worker_gets_connections_when_the_kernel_picks() {
    let master = Setup::lines().policy("none").start();
    let address = master.address();
    // A worker that is busy leaves the next connection to the other.
    let mut blocked = Line::connect(address);
    let busy = blocked.who().slot;
    blocked.tell("block 500");
    assert_ne!(Line::connect(address).who().slot, busy);
    drop(blocked);
    master.check();
}

#[test]
fn a_blocked_worker_delays_nobody_and_its_death_hangs_nobody() {
    let master = Setup::lines().start();
    let address = master.address();
    let mut blocked = master.line_to(1);
    let victim = blocked.who();
    blocked.tell("block 60000");
    let mut lines = Vec::new();
    for _ in 0..40 {
        let mut line = Line::connect(address);
        let (who, took) = http::timed(|| line.who());
        assert_ne!(who.slot, victim.slot);
        assert!(took < Duration::from_millis(500), "answered after {took:?}");
        lines.push(line);
    }
    process::signal(victim.pid, Signal::SIGKILL);
    assert!(blocked.ends(), "the client of the dead worker hangs");
    for line in &mut lines {
        assert_eq!(line.who().slot, 0);
    }
    drop(lines);
    master.settle(2);
    master.check();
}

#[test]
fn what_a_killed_worker_had_not_taken_another_answers() {
    for _ in 0..5 {
        let master = Setup::lines().start();
        let address = master.address();
        // Both workers are blocked: what comes now is offered, or waits, but nobody takes it.
        let mut blocked: Vec<Line> = (0..2).map(|slot| master.line_to(slot)).collect();
        let victim = blocked[0].who();
        blocked[0].tell("block 60000");
        blocked[1].tell("block 300");
        let mut waiting: Vec<Line> = (0..50).map(|_| Line::connect(address)).collect();
        waiting.iter_mut().for_each(|line| line.tell("who"));
        master.wait_until("connections are offered", |status| {
            status.workers().iter().any(|worker| worker.slot == 0 && worker.offered > worker.taken)
        });
        process::signal(victim.pid, Signal::SIGKILL);
        for line in &mut waiting {
            line.hear().expect("every connection is answered");
        }
        drop((waiting, blocked));
        master.settle(2);
        master.check();
    }
}

#[test]
fn a_client_sees_the_end_of_its_worker_although_a_stopped_one_holds_a_revoked_copy() {
    let master = Setup::lines().start();
    let address = master.address();
    let stopped = master.line_to(0).who();
    let serving = master.line_to(1).who();
    master.wait_until("nothing is under way", |status| status.workers().iter().all(|worker| worker.active == 0));
    process::signal(stopped.pid, Signal::SIGSTOP);
    let before = revoked(&master.status(), 0);
    // Enough connections for the stopped worker to be offered some, which are then stolen.
    let mut lines: Vec<Line> = (0..20).map(|_| Line::connect(address)).collect();
    for line in &mut lines {
        assert_eq!(line.who().pid, serving.pid);
    }
    assert!(revoked(&master.status(), 0) > before, "the stopped worker was offered nothing");
    process::signal(serving.pid, Signal::SIGKILL);
    for line in &mut lines {
        assert!(line.ends(), "a client still waits for the dead worker");
    }
    process::signal(stopped.pid, Signal::SIGCONT);
    master.settle(2);
    master.check();
}

fn revoked(status: &crate::harness::status::Status, slot: u64) -> u64 {
    let workers = status.workers();
    workers.iter().filter(|worker| worker.slot == slot).map(|worker| worker.revoked).sum()
}

#[test]
fn workers_that_exit_at_random_leave_no_client_hanging() {
    let master = Setup::web().start();
    let address = master.address();
    let load = Load::start(address, &[(Kind::Fresh, 16)]);
    for round in 0..12 {
        let path = ["/exit?code=3", "/abort"][round % 2];
        let asked = http::get(address, path);
        assert!(matches!(asked, Err(http::Failure::ClosedAtFirst)), "{asked:?}");
        master.log.pass(Duration::from_millis(100));
    }
    let tallies = load.finish();
    // Those whose connection had been taken may notice; nobody is refused, and nobody waits for ever.
    tallies.assert(|notice| matches!(notice, Notice::Lost | Notice::Reset | Notice::Truncated));
    let tally = tallies.of(Kind::Fresh);
    assert!(tally.answered > 100 && tally.notices.values().sum::<usize>() <= 12 * 16, "{tallies}");
    master.settle(2);
    master.check();
}

/// parallel/test-child-process-fork-closed-channel-segfault.js: a worker dies with more queued for it.
#[test]
fn a_worker_killed_with_a_full_channel_costs_the_master_nothing() {
    let master = Setup::lines().workers(1).start();
    let address = master.address();
    let mut blocked = master.line();
    let victim = blocked.who().pid;
    process::signal(victim, Signal::SIGSTOP);
    let mut waiting: Vec<Line> = (0..300).map(|_| Line::connect(address)).collect();
    waiting.iter_mut().for_each(|line| line.tell("who"));
    process::signal(victim, Signal::SIGKILL);
    for line in &mut waiting {
        line.hear().expect("every connection is answered");
    }
    assert!(blocked.ends());
    drop(waiting);
    master.settle(1);
    master.check();
}

/// parallel/test-cluster-net-server-drop-connection.js: what one worker cannot take another gets; none is dropped.
#[test]
fn a_worker_without_descriptors_refuses_and_another_answers() {
    let master = Setup::lines().start();
    let address = master.address();
    let mut limited = master.line_to(0);
    let files: u64 = limited.ask("files").parse().expect("a number");
    assert_eq!(limited.ask(&format!("nofile {}", files + 1)), "limited");
    let mut lines: Vec<Line> = (0..20).map(|_| Line::connect(address)).collect();
    for line in &mut lines {
        line.who();
    }
    master.wait_until("refusals are counted", |status| {
        status.workers().iter().any(|worker| worker.slot == 0 && worker.refused > 0)
    });
    drop((lines, limited));
    master.check();
}

/// parallel/test-cluster-worker-handle-close.js: a connection for a listener that the worker has closed goes to another,
/// and the worker's copy is not leaked.
#[test]
fn a_connection_for_a_closed_listener_goes_to_another_worker() {
    let master = Setup::lines_on(&["127.0.0.1:0", "127.0.0.1:0"]).start();
    let addresses = master.addresses();
    let mut leaver = master.line_to(0);
    let files = leaver.ask("files");
    assert_eq!(leaver.ask(&format!("close {}", addresses[1])), "true");
    for _ in 0..20 {
        assert_eq!(Line::connect(addresses[1]).who().slot, 1);
    }
    // And back again.
    let fewer: usize = leaver.ask("files").parse().expect("a number");
    assert!(fewer <= files.parse().expect("a number"), "{fewer} after {files}");
    assert_eq!(leaver.bind(&addresses[1].to_string()), Ok(addresses[1].to_string()));
    soon("the worker serves the listener again", || (Line::connect(addresses[1]).who().slot == 0).then_some(()));
    drop(leaver);
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-send-deadlock.js: descriptors under load, both ways of the channel busy.
#[test]
fn thousands_of_connections_are_each_answered_once() {
    for policy in ["rr", "none"] {
        let master = Setup::web().policy(policy).start();
        let load = Load::start(master.address(), &[(Kind::Fresh, 8)]);
        master.log.pass(Duration::from_millis(700));
        let tallies = load.finish();
        tallies.assert_unnoticed();
        let answered = tallies.of(Kind::Fresh).answered;
        assert!(answered > 50, "{tallies}");
        let taken: u64 = master.settle(2).workers().iter().map(|worker| worker.taken).sum();
        if policy == "rr" {
            assert_eq!(taken, answered as u64);
        }
        master.check();
    }
}

#[test]
fn accepts_that_are_given_up_lose_no_connection() {
    for policy in ["rr", "none"] {
        let master = Setup::lines_on(&["--restless", "127.0.0.1:0"]).policy(policy).start();
        let address = master.address();
        for _ in 0..300 {
            Line::connect(address).who();
        }
        let mut together: Vec<Line> = (0..100).map(|_| Line::connect(address)).collect();
        together.iter_mut().for_each(|line| line.tell("who"));
        together.iter_mut().for_each(|line| {
            line.hear().expect("every connection is answered");
        });
        drop(together);
        master.settle(2);
        master.check();
    }
}

#[test]
fn a_client_that_has_gone_before_it_was_offered_harms_nobody() {
    let master = Setup::lines().start();
    let address = master.address();
    for _ in 0..200 {
        drop(Line::connect(address));
    }
    assert_eq!(master.line().ask("echo still here"), "still here");
    master.settle(2);
    master.check();
}
