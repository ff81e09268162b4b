//! How many connections a worker may have: those beyond go to others, or wait in the kernel, or are closed.

use std::collections::BTreeMap;

use crate::harness::{Line, Master, Setup, process, soon};
use crate::policies::{OFFERED, stay};

/// The lines fixture, each worker with at most three connections.
fn limited(policy: &str, workers: u32) -> Master {
    Setup::lines().policy(policy).workers(workers).set("EVERPORT_MAX_CONNECTIONS", "3").start()
}

/// A client that waits in the kernel, for nobody may have it.
fn waiting(master: &Master) -> Line {
    let mut line = Line::connect(master.address());
    line.tell("who");
    soon("it waits in the kernel", || (process::backlog(master.address()) == 1).then_some(()));
    line
}

/// How many connections each slot has, as it says itself.
fn held(master: &Master) -> BTreeMap<u64, u64> {
    master.status().active().iter().map(|worker| (worker.slot, worker.active)).collect()
}

/// So many for each of these slots.
fn each<N: Copy>(slots: u64, count: N) -> BTreeMap<u64, N> {
    (0..slots).map(|slot| (slot, count)).collect()
}

#[test]
fn a_worker_has_no_more_connections_than_it_may() {
    // Two workers that accept themselves are all woken; eight stand in line.
    for (policy, workers) in OFFERED.map(|policy| (policy, 2)).into_iter().chain([("none", 2), ("none", 8)]) {
        let master = limited(policy, workers);
        let slots = u64::from(workers);
        let (mut lines, shares) = stay(master.address(), 3 * workers as usize);
        assert_eq!(shares, each(slots, 3), "{policy}");
        for _ in 0..4 {
            let mut waiting = waiting(&master);
            assert_eq!(held(&master), each(slots, 3), "{policy}");
            let place = lines.swap_remove(0).who().slot;
            // Dropped just now: its place is free.
            assert_eq!(waiting.try_hear_who().expect("it is served").slot, place, "{policy}");
            lines.push(waiting);
        }
        drop(lines);
        master.settle(workers as usize);
        master.check();
    }
}

/// More clients than anybody may have, all at once.
#[test]
fn a_crowd_is_served_by_and_by() {
    for (policy, workers) in [("rr", 2), ("none", 2), ("none", 8)] {
        let master = limited(policy, workers);
        let mut crowd: Vec<Line> = (0..100).map(|_| Line::connect(master.address())).collect();
        crowd.iter_mut().for_each(|line| line.tell("who"));
        // Whoever has been answered goes.
        for mut line in crowd {
            line.try_hear_who().expect("everybody is served");
            assert!(held(&master).values().all(|held| *held <= 3), "{policy}");
        }
        master.settle(workers as usize);
        master.check();
    }
}

#[test]
fn what_moves_to_a_worker_counts_and_a_reload_keeps_the_limit() {
    for (policy, workers) in [("rr", 2), ("none", 2), ("none", 8)] {
        let setup = Setup::lines_on(&["--mobile", "127.0.0.1:0"]).policy(policy).workers(workers);
        let master = setup.set("EVERPORT_MAX_CONNECTIONS", "3").start();
        let (mut lines, _) = stay(master.address(), 3 * workers as usize - 1);
        master.reload_well();
        let status = master.settle(workers as usize);
        let received: u64 = status.workers().iter().map(|worker| worker.received).sum();
        assert_eq!(received, lines.len() as u64, "{policy}");
        lines.push(Line::connect(master.address()));
        assert!(lines.iter_mut().all(|line| line.who().generation == 2), "{policy}");
        assert_eq!(held(&master), each(workers.into(), 3), "{policy}");
        let mut waiting = waiting(&master);
        lines.pop();
        assert_eq!(waiting.try_hear_who().expect("it is served").generation, 2, "{policy}");
        drop((lines, waiting));
        master.settle(workers as usize);
        master.check();
    }
}

#[test]
fn what_no_worker_may_have_is_shed_counted_and_told_once() {
    let setup = Setup::lines_on(&["127.0.0.1:0?name=one", "127.0.0.1:0?name=two"]);
    let master = setup.set("EVERPORT_MAX_CONNECTIONS", "2").set("EVERPORT_SHED", "true").start();
    let (lines, _) = stay(master.address(), 4);
    for address in master.addresses() {
        for _ in 0..5 {
            assert!(Line::connect(address).ends(), "a connection that no worker may have lives");
        }
    }
    for (index, name) in ["one", "two"].into_iter().enumerate() {
        assert_eq!(master.status().0["listeners"][index]["shed"], 5);
        let said = ["connections closed: every worker has as many as it may have", &format!("listener={name:?}")];
        master.log.wait_for(&said);
        assert_eq!(master.log.count(&said), 1, "once for each listener");
    }
    drop(lines);
    soon("there is room again", || Line::connect(master.address()).try_who().ok());
    master.settle(2);
    master.check_but(&["connections closed"]);
}

#[test]
fn a_limit_that_cannot_be_kept_is_refused() {
    let own = "127.0.0.1:0?policy=none";
    for (flags, reason) in [
        (&["--policy", "split", "--max-connections", "5"][..], "no listener may have policy split"),
        (&["--policy", "none", "--max-connections", "5", "--shed"], "no listener may have policy none"),
        (&["--listen", own, "--max-connections", "5", "--shed"], "no listener may have policy none"),
        (&["--shed"], "of use only with max-connections"),
        (
            &["--protocol", "listen-fds", "--listen", "127.0.0.1:0", "--max-connections", "5"],
            "the program knows nothing of it",
        ),
    ] {
        let ended = Setup::cli(flags, &["true"]).run_to_end();
        assert!(ended.code() == Some(2) && ended.errors.contains(reason), "{flags:?}: {}", ended.errors);
    }
}

/// The listener outlives the settings that it was bound under.
#[test]
fn a_reload_to_a_limit_that_a_listener_cannot_keep_is_rolled_back() {
    for (policy, limit) in [("split", "max_connections = 3"), ("none", "max_connections = 3\nshed = true")] {
        let setup = Setup::lines();
        let file = setup.folder().join("everport.toml");
        std::fs::write(&file, format!("policy = \"{policy}\"\n")).expect("a file");
        let master = setup.unset("EVERPORT_SCHED_POLICY").set("EVERPORT_CONFIG", &file).start();
        std::fs::write(&file, format!("policy = \"rr\"\n{limit}\n")).expect("a file");
        let (committed, record) = master.reload();
        assert!(!committed, "{record:#}");
        let kept = format!("it was bound with policy {policy}, and keeps that");
        master.log.wait_for(&["listener refused", &kept, &format!("no listener may have policy {policy}")]);
        assert_eq!(master.line().who().generation, 1);
        master.settle(2);
        master.check_but(&["rolled back"]);
    }
}

/// A worker that asks for what the settings do not allow learns why.
#[test]
fn a_bind_that_the_limit_forbids_is_refused() {
    let setup = Setup::lines().set("EVERPORT_MAX_CONNECTIONS", "3").set("EVERPORT_SHED", "true");
    let master = setup.start();
    for (slot, policy) in [(0, "split"), (1, "none")] {
        assert!(master.line_to(slot).bind(&format!("127.0.0.1:0?policy={policy}")).is_err(), "{policy}");
        master.log.wait_for(&["listener refused", &format!("no listener may have policy {policy}")]);
    }
    master.settle(2);
    master.check_but(&["listener refused"]);
}
