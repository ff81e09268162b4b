//! A worker, or the master, is gone from one moment to the next.

use std::net::TcpListener;

use nix::sys::signal::Signal;

use crate::harness::{Line, Master, Setup, process, soon};

/// What a worker exits with when its master is lost.
const MASTER_LOST: i32 = 110;

/// Kills a worker and waits until another serves in its slot.
fn replaced(master: &Master, slot: u64, end: impl FnOnce(&mut Line)) {
    let mut line = master.line_to(slot);
    let old = line.who();
    end(&mut line);
    assert!(line.ends(), "the client of the dead worker hangs");
    let status = master.wait_until("another fills the slot", |status| {
        status.active().iter().any(|worker| worker.slot == slot && worker.pid != Some(old.pid))
    });
    let workers = status.active();
    let new = workers.iter().find(|worker| worker.slot == slot).expect("just seen");
    assert!(new.worker > old.worker, "the id is a new one");
    assert_eq!(new.generation, old.generation);
    assert!(new.restarts >= 1, "the crash is counted");
    assert_eq!(master.line_to(slot).who().worker, new.worker);
}

/// parallel/test-cluster-worker-kill.js, parallel/test-cluster-worker-kill-signal.js: one exit record, with the signal.
#[test]
fn a_killed_worker_is_replaced_in_its_slot() {
    let master = Setup::lines().start();
    let victim = master.line_to(1).who();
    replaced(&master, 1, |_| process::signal(victim.pid, Signal::SIGKILL));
    let pid = victim.pid.to_string();
    let line = master.log.wait_for(&["worker exited", &pid]);
    assert!(line.contains("SIGKILL") || line.contains("signal 9") || line.contains("signal=9"), "{line}");
    assert_eq!(master.log.count(&["worker exited", &pid]), 1);
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-worker-exit.js: exactly one exit record, with the code.
#[test]
fn a_worker_that_exits_is_replaced_and_its_code_is_told_once() {
    let master = Setup::lines().start();
    let pid = master.line_to(0).who().pid.to_string();
    replaced(&master, 0, |line| line.tell("exit 42"));
    assert!(master.log.wait_for(&["worker exited", &pid]).contains("42"));
    assert_eq!(master.log.count(&["worker exited", &pid]), 1);
    master.settle(2);
    master.check();
}

#[test]
fn a_worker_that_aborts_is_replaced() {
    let master = Setup::lines().policy("none").start();
    replaced(&master, 1, |line| line.tell("abort"));
    master.settle(2);
    master.check();
}

#[test]
fn a_crash_in_a_draining_generation_is_not_replaced() {
    let master = Setup::lines().start();
    let mut held = master.line();
    let old = held.who();
    master.reload_well();
    process::signal(old.pid, Signal::SIGKILL);
    assert!(held.ends());
    let status = master.settle(2);
    assert!(status.active().iter().all(|worker| worker.generation == 2 && worker.restarts == 0));
    master.check();
}

#[test]
fn a_worker_that_crashes_at_every_start_does_not_keep_the_master_busy() {
    let master = Setup::lines().start();
    let mut other = master.line_to(0);
    master.plan("s1 exit 17");
    let victim = master.line_to(1).who().pid;
    process::signal(victim, Signal::SIGKILL);
    master.log.wait_for(&["worker exited", "17"]);
    master.log.pass(std::time::Duration::from_secs(1));
    let starts = master.log.count(&["worker exited", "17"]);
    assert!(starts <= 30, "{starts} starts in a second");
    assert_eq!(other.ask("echo still here"), "still here");
    master.plan("");
    drop(other);
    master.settle(2);
    master.check();
}

/// A crash while a reload is under way is replaced, and the reload goes on.
#[test]
fn a_crash_of_an_old_worker_does_not_stop_a_reload() {
    let master = Setup::lines().plan("g2 slow-start 400").start();
    let victim = master.line_to(0).who().pid;
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.reload_well());
        master.wait_until("the reload has begun", |status| status.state() == "reloading");
        process::signal(victim, Signal::SIGKILL);
        reload.join().expect("no panic");
    });
    let status = master.settle(2);
    assert!(status.active().iter().all(|worker| worker.generation == 2));
    master.check();
}

/// parallel/test-cluster-primary-kill.js, parallel/test-cluster-worker-forced-exit.js: no worker is left, the port is
/// free, and the exit code does not say success.
#[test]
fn workers_whose_master_was_killed_finish_and_say_so_by_their_code() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let address = master.address();
        let mut line = master.line();
        let me = line.who();
        let others: Vec<u32> = workers(&master).into_iter().filter(|pid| *pid != me.pid).collect();
        master.signal(Signal::SIGKILL);
        for pid in others {
            assert_eq!(process::reap(pid), Some(MASTER_LOST), "{policy}");
        }
        assert_eq!(line.who(), me, "{policy}: what was taken is finished");
        soon("the port is free for a new master", || TcpListener::bind(address).ok());
        drop(line);
        assert_eq!(process::reap(me.pid), Some(MASTER_LOST), "{policy}");
    }
}

/// react_on_rails#3863: blocked workers outlive their master.
#[test]
fn a_blocked_worker_does_not_outlive_its_master_by_more_than_the_deadline() {
    let master = Setup::lines().drain_timeout("500ms").start();
    let mut line = master.line();
    let me = line.who();
    line.tell("block 60000");
    let all = workers(&master);
    master.signal(Signal::SIGKILL);
    for pid in all {
        assert_eq!(process::reap(pid), Some(MASTER_LOST), "worker {pid}");
    }
    assert!(!process::lives(me.pid));
}

#[test]
fn a_worker_that_was_stopped_when_its_master_died_ends_once_it_goes_on() {
    let master = Setup::lines().drain_timeout("500ms").start();
    let all = workers(&master);
    all.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    master.signal(Signal::SIGKILL);
    all.iter().for_each(|pid| process::signal(*pid, Signal::SIGCONT));
    for pid in all {
        assert_eq!(process::reap(pid), Some(MASTER_LOST), "worker {pid}");
    }
}

fn workers(master: &Master) -> Vec<u32> {
    master.status().workers().iter().filter_map(|worker| worker.pid).collect()
}

/// parallel/test-cluster-ipc-throw.js: a worker that panics ends itself only.
#[test]
fn a_panic_in_one_connection_ends_no_other() {
    let master = Setup::lines().start();
    let mut other = master.line_to(0);
    let mut line = master.line_to(0);
    line.tell("panic");
    assert!(line.ends());
    assert_eq!(other.ask("echo still here"), "still here");
    master.log.wait_for(&["told to"]);
}
