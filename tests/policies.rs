//! How connections are spread: each policy with real workers, and weights.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::clients::{Kind, Load, Notice};
use crate::harness::setup::CLI;
use crate::harness::{Ended, Line, Master, Setup, http, process, soon};

pub(crate) const OFFERED: [&str; 4] = ["rr", "least", "p2c", "hash"];

fn command(master: &Master, words: &[&str]) -> Ended {
    Setup::program(CLI, words).set("EVERPORT_CONTROL", master.control()).run_to_end()
}

/// As `command`, which must succeed; what it says.
#[track_caller]
fn told(master: &Master, words: &[&str]) -> String {
    let done = command(master, words);
    assert_eq!(done.code(), Some(0), "{words:?}: {}", done.errors);
    done.output
}

/// So many connections that stay, one after the other, and how many each slot has.
pub(crate) fn stay(address: SocketAddr, count: usize) -> (Vec<Line>, BTreeMap<u64, usize>) {
    let (mut lines, mut slots) = (Vec::new(), BTreeMap::new());
    for _ in 0..count {
        let mut line = Line::connect(address);
        *slots.entry(line.who().slot).or_default() += 1;
        lines.push(line);
    }
    (lines, slots)
}

#[test]
fn every_policy_serves_over_a_reload_and_a_crash() {
    for policy in OFFERED.into_iter().chain(["none", "split"]) {
        let master = Setup::web().workers(3).policy(policy).start();
        let load = Load::start(master.address(), &[(Kind::Fresh, 6)]);
        load.go_on(&[(Kind::Fresh, 50)]);
        master.reload_well();
        load.go_on(&[(Kind::Fresh, 50)]);
        load.finish().assert_unnoticed();
        let load = Load::start(master.address(), &[(Kind::Fresh, 6), (Kind::Busy, 2)]);
        for _ in 0..2 {
            let victim = master.settle(3).active()[0].pid.expect("a process");
            process::signal(victim, Signal::SIGKILL);
            load.go_on(&[(Kind::Fresh, 50), (Kind::Busy, 20)]);
        }
        // Whoever was being served by it sees that end; nobody else sees anything.
        let unharmed = [Notice::Refused, Notice::NotConnected, Notice::Stalled, Notice::Wrong, Notice::ToldToClose];
        load.finish().assert(|notice| !unharmed.contains(&notice));
        let status = master.settle(3);
        assert_eq!(status.0["listeners"][0]["policy"], policy);
        master.check();
    }
}

#[test]
fn least_levels_long_lived_connections() {
    let master = Setup::lines().workers(4).policy("least").start();
    let (mut lines, slots) = stay(master.address(), 200);
    assert!(slots.values().all(|count| (47..=53).contains(count)), "{slots:?}");
    // One worker loses most of its connections: it gets the next ones.
    lines.retain_mut(|line| line.who().slot != 2);
    master.wait_until("they have ended", |status| {
        status.active().iter().any(|worker| worker.slot == 2 && worker.active == 0)
    });
    let (more, slots) = stay(master.address(), 40);
    assert!(slots[&2] >= 36, "{slots:?}");
    drop((lines, more));
    master.check();
}

/// All at once, so that whoever takes faster could have more. A worker that the machine does not let run for `steal_after` is
/// waited for no longer: that shows by what was revoked, and such a burst proves nothing.
#[test]
fn least_levels_a_burst_of_long_lived_connections() {
    let master = Setup::lines_on(&["127.0.0.1:0?backlog=1024"]).workers(4).policy("least").start();
    let revoked = || master.status().workers().iter().map(|worker| worker.revoked).sum::<u64>();
    let level = (0..20).any(|_| {
        let before = revoked();
        told(&master, &["pause"]);
        let mut lines: Vec<Line> = (0..200).map(|_| Line::connect(master.address())).collect();
        lines.iter_mut().for_each(|line| line.tell("who"));
        told(&master, &["resume"]);
        let mut slots = BTreeMap::<u64, usize>::new();
        for line in &mut lines {
            *slots.entry(line.try_hear_who().expect("everybody is served").slot).or_default() += 1;
        }
        let undisturbed = revoked() == before;
        let level = slots.values().all(|count| *count <= 52);
        assert!(level || !undisturbed, "a twentieth more than the mean of 50: {slots:?}");
        drop(lines);
        master.wait_until("they have ended", |status| status.active().iter().all(|worker| worker.active == 0));
        undisturbed
    });
    assert!(level, "no burst was undisturbed");
    master.settle(4);
    master.check();
}

#[test]
fn a_worker_that_is_stopped_keeps_nobody_waiting_under_least_and_p2c() {
    for policy in ["least", "p2c"] {
        let master = Setup::web().workers(4).policy(policy).start();
        let stopped = master.status().active()[0].pid.expect("a process");
        process::signal(stopped, Signal::SIGSTOP);
        // Whoever was left with that one would wait for ever.
        for _ in 0..60 {
            let answer = http::get(master.address(), "/");
            assert!(answer.is_ok(), "{policy}: {answer:?}");
        }
        process::signal(stopped, Signal::SIGCONT);
        master.settle(4);
        master.check();
    }
}

#[test]
fn a_client_keeps_its_slot_under_hash_until_that_has_no_worker() {
    let master = Setup::lines().workers(4).policy("hash").start();
    let (lines, slots) = stay(master.address(), 12);
    assert_eq!(slots.len(), 1, "one client, one slot: {slots:?}");
    let slot = *slots.keys().next().expect("a slot");
    drop(lines);
    master.reload_well();
    master.settle(4);
    assert_eq!(Line::connect(master.address()).who().slot, slot, "after a reload");
    process::signal(Line::connect(master.address()).who().pid, Signal::SIGKILL);
    master.settle(4);
    soon("it has its slot back", || (Line::connect(master.address()).who().slot == slot).then_some(()));
    told(&master, &["weight", &slot.to_string(), "0"]);
    let (lines, heirs) = stay(master.address(), 12);
    assert!(heirs.len() == 1 && !heirs.contains_key(&slot), "{heirs:?}");
    drop(lines);
    master.check();
}

#[test]
fn a_policy_changes_by_order_and_by_reload() {
    let setup = Setup::lines_on(&["127.0.0.1:0?policy=least&name=web", "127.0.0.1:0?policy=none&name=own"]);
    let master = setup.workers(2).start();
    let policy = |name: &str| {
        let status = master.status();
        let listeners = status.0["listeners"].as_array().cloned().unwrap_or_default();
        listeners.iter().find(|listener| listener["name"] == name).map(|listener| listener["policy"].clone())
    };
    assert_eq!((policy("web"), policy("own")), (Some("least".into()), Some("none".into())));
    assert_eq!(told(&master, &["policy", "web", "hash"]), "web: policy hash, least before");
    assert_eq!(told(&master, &["policy", "web", "hash"]), "web: policy hash, as before");
    assert_eq!(told(&master, &["policy", "own", "none"]), "own: policy none, as before");
    assert_eq!(policy("web"), Some("hash".into()));
    master.reload_well();
    assert_eq!(policy("web"), Some("hash".into()), "the settings have not changed");
    for (words, reason) in [
        (["policy", "web", "none"], "needs a new socket"),
        (["policy", "own", "rr"], "needs a new socket"),
        (["policy", "nobody", "rr"], "there is no listener"),
    ] {
        let done = command(&master, &words);
        assert!(done.code() == Some(1) && done.errors.contains(reason), "{words:?}: {}", done.errors);
    }
    let done = command(&master, &["policy", "web", "fastest"]);
    assert!(done.code() == Some(2) && done.errors.contains("p2c"), "{}", done.errors);
    master.settle(2);
    master.check();
}

#[test]
fn a_reload_finds_another_policy_in_the_file() {
    let setup = Setup::lines();
    let file = setup.folder().join("everport.toml");
    std::fs::write(&file, "policy = \"rr\"\n").expect("a file");
    let master = setup.unset("EVERPORT_SCHED_POLICY").set("EVERPORT_CONFIG", &file).start();
    let policy = || master.status().0["listeners"][0]["policy"].clone();
    assert_eq!(policy(), "rr");
    std::fs::write(&file, "policy = \"p2c\"\n").expect("a file");
    master.reload_well();
    assert_eq!(policy(), "p2c");
    std::fs::write(&file, "policy = \"none\"\n").expect("a file");
    master.reload_well();
    assert_eq!(policy(), "p2c", "that needs a new socket");
    master.log.wait_for(&["WARN", "listener keeps its policy"]);
    assert_eq!(master.line().ask("echo still here"), "still here");
    master.settle(2);
    master.check_but(&["listener keeps its policy"]);
}

#[test]
fn weights_share_the_connections_out() {
    let master = Setup::lines().workers(2).start();
    assert_eq!(told(&master, &["weight", "0", "3"]), "slot 0: weight 3, 1 before");
    assert_eq!(told(&master, &["weight", "0", "3"]), "slot 0: weight 3, as before");
    let (lines, slots) = stay(master.address(), 40);
    assert_eq!(slots, BTreeMap::from([(0, 30), (1, 10)]));
    drop(lines);
    master.reload_well();
    master.settle(2);
    let (lines, slots) = stay(master.address(), 40);
    assert_eq!(slots, BTreeMap::from([(0, 30), (1, 10)]), "after a reload");
    drop(lines);
    assert!(told(&master, &["workers"]).contains("WEIGHT"));
    let done = command(&master, &["weight", "2", "1"]);
    assert!(done.code() == Some(1) && done.errors.contains("there is no slot 2"), "{}", done.errors);
    assert_eq!(command(&master, &["weight", "0", "101"]).code(), Some(2));
    master.check();
}
