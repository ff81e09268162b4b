//! What signals do, to the master and to workers.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::harness::{Setup, http, process};

#[test]
fn one_interrupt_stops_gracefully_and_says_so_and_a_second_one_stops_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let master = Setup::lines().start();
        let mut line = master.line();
        let me = line.who();
        master.signal(signal);
        master.wait_until("the master stops", |status| status.state() == "stopping");
        master.log.wait_for(&["stop"]);
        assert_eq!(line.who(), me, "{signal}");
        master.signal(signal);
        assert!(line.ends(), "{signal}: the connection outlived a stop at once");
        let ended = master.wait();
        assert_eq!(ended.code(), Some(0), "{signal}: {}", ended.errors);
    }
}

#[test]
fn quit_stops_at_once() {
    let master = Setup::lines().start();
    let mut line = master.line();
    line.who();
    let (ended, took) = http::timed(|| {
        master.signal(Signal::SIGQUIT);
        let ends = line.ends();
        (ends, master.wait())
    });
    assert!(ended.0 && took.as_secs() < 5, "after {took:?}");
    assert_eq!(ended.1.code(), Some(0), "{}", ended.1.errors);
}

#[test]
fn signals_that_are_not_built_yet_are_told_and_do_nothing() {
    let master = Setup::lines().start();
    let before = master.status().active();
    let signals = [Signal::SIGUSR2];
    for signal in signals {
        master.signal(signal);
        master.log.wait_for(&["not supported", &signal.as_str()[3..]]);
    }
    assert_eq!(master.status().active().len(), before.len());
    assert_eq!(master.line().who().generation, 1);
    master.check();
}

/// parallel/test-cluster-disconnect-leak.js: a stop during the start works.
#[test]
fn a_stop_during_the_start_ends_everything() {
    let master = Setup::lines().plan("* slow-start 60000").launch();
    master.wait_until("the first generation starts", |status| status.state() == "starting");
    master.term();
    let ended = master.wait();
    assert!(ended.code().is_some(), "a signal ended it: {}", ended.errors);
}

#[test]
fn a_stop_during_a_reload_ends_both_generations() {
    let master = Setup::lines().plan("g2 slow-start 60000").start();
    master.hup();
    master.wait_until("the reload has begun", |status| status.state() == "reloading");
    master.term();
    let ended = master.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}

/// parallel/test-cluster-disconnect-exitedAfterDisconnect-race.js, parallel/test-cluster-kill-disconnect.js: whoever leaves
/// by its own will is no crash.
#[test]
fn a_worker_that_gets_a_term_leaves_gracefully_and_is_replaced() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let mut line = master.line_to(1);
        let me = line.who();
        assert_eq!(line.ask("signal SIGTERM"), "sent");
        master.wait_until("another fills the slot", |status| {
            status.active().iter().any(|worker| worker.slot == 1 && worker.worker > me.worker)
        });
        assert_eq!(line.who(), me, "{policy}: it leaves, but not its client");
        drop(line);
        process::wait_for_end(me.pid);
        let status = master.settle(2);
        assert!(status.active().iter().all(|worker| worker.restarts == 0), "{policy}: no crash");
        master.check();
    }
}

#[test]
fn a_term_from_outside_makes_a_worker_leave_too() {
    let master = Setup::web().start();
    let answer = http::get(master.address(), "/").expect("an answer");
    let pid = answer.header("x-pid").and_then(|pid| pid.parse().ok()).expect("a pid");
    process::signal(pid, Signal::SIGTERM);
    process::wait_for_end(pid);
    master.settle(2);
    master.check();
}

#[test]
fn what_systemd_sends_to_the_whole_service_is_a_graceful_stop() {
    let master = Setup::web().start();
    let address = master.address();
    let all = master.family();
    assert_eq!(all.len(), 3);
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| http::get(address, "/slow?ms=500"));
        master
            .wait_until("the request is under way", |status| status.workers().iter().any(|worker| worker.active == 1));
        all.iter().for_each(|pid| process::signal(*pid, Signal::SIGTERM));
        assert_eq!(answer.join().expect("no panic").expect("a whole answer").status, 200);
    });
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn workers_take_no_notice_of_interrupts_and_hangups() {
    let master = Setup::lines().start();
    let mut line = master.line();
    let me = line.who();
    for signal in ["SIGINT", "SIGHUP"] {
        assert_eq!(line.ask(&format!("signal {signal}")), "sent");
    }
    assert_eq!(line.who(), me);
    drop(line);
    master.check();
}

#[test]
fn workers_are_in_process_groups_of_their_own() {
    let master = Setup::lines().start();
    let mut line = master.line();
    let me = line.who();
    assert_eq!(line.ask("pgid"), me.pid.to_string());
    // So a signal for the master's group, as a terminal sends it, does not reach them.
    killpg(Pid::from_raw(master.pid().cast_signed()), Signal::SIGINT).expect("the master lives");
    master.wait_until("the master stops", |status| status.state() == "stopping");
    assert_eq!(line.who(), me);
    drop(line);
    assert_eq!(master.wait().code(), Some(0));
}

/// parallel/test-cluster-disconnect-before-exit.js, parallel/test-cluster-call-and-destroy.js: a second stop does no harm.
#[test]
fn a_hangup_during_a_stop_changes_nothing() {
    let master = Setup::lines().start();
    let mut line = master.line();
    line.who();
    master.term();
    master.wait_until("the master stops", |status| status.state() == "stopping");
    master.hup();
    assert_eq!(line.ask("echo still here"), "still here");
    drop(line);
    let ended = master.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}

/// parallel/test-cluster-disconnect-with-no-workers.js, parallel/test-cluster-disconnect-idle-worker.js: a stop with nobody
/// there to stop.
#[test]
fn a_stop_with_no_worker_alive_ends_at_once() {
    let master = Setup::lines().start();
    master.plan("* exit 9");
    for worker in master.status().active() {
        process::signal(worker.pid.expect("it lives"), Signal::SIGKILL);
    }
    master.wait_until("nobody serves", |status| status.active().is_empty());
    let (ended, took) = http::timed(|| master.stop());
    assert_eq!(ended.code(), Some(0));
    assert!(took.as_secs() < 5, "after {took:?}");
}

/// parallel/test-cluster-concurrent-disconnect.js: a storm of orders.
#[test]
fn a_storm_of_signals_ends_in_one_good_end() {
    let master = Setup::lines().start();
    for worker in master.status().active() {
        process::signal(worker.pid.expect("it lives"), Signal::SIGTERM);
    }
    for _ in 0..10 {
        master.hup();
        master.signal(Signal::SIGUSR1);
    }
    master.term();
    master.hup();
    let ended = master.wait();
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
}
