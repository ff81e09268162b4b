//! Many workers that share a listener: a connection wakes one of them, and whoever it is keeps nobody waiting.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::clients::Load;
use crate::harness::{Line, Master, Setup, command, http, process, soon};
use crate::unnoticed::{CLIENTS, SWING, assert_unnoticed};

/// So many wait in line.
const WORKERS: u32 = 8;

fn start() -> Master {
    Setup::lines().policy("none").workers(WORKERS).start()
}

#[test]
fn each_of_many_workers_gets_its_share() {
    let master = start();
    let mut served = BTreeMap::<u64, usize>::new();
    for _ in 0..10 * WORKERS {
        *served.entry(master.line().who().slot).or_default() += 1;
    }
    let shares: Vec<usize> = served.into_values().collect();
    assert_eq!(shares.len(), 8, "{shares:?}");
    assert!(shares.iter().all(|share| (8..=12).contains(share)), "{shares:?}");
    master.check();
}

/// Each of the blocked ones is called once at most, and what it was called for goes to another.
#[test]
fn blocked_workers_keep_nobody_waiting() {
    let master = start();
    let slots = [0, 3, 4];
    let mut blocked = slots.map(|slot| master.line_to(slot));
    let victims = blocked.each_mut().map(|line| line.who().pid);
    blocked.iter_mut().for_each(|line| line.tell("block 60000"));
    let mut lines = Vec::new();
    for _ in 0..40 {
        let mut line = master.line();
        let (who, took) = http::timed(|| line.who());
        assert!(!slots.contains(&who.slot), "{who:?}");
        assert!(took < Duration::from_millis(500), "answered after {took:?}");
        lines.push(line);
    }
    let status = master.status();
    let given =
        status.active().iter().filter(|worker| slots.contains(&worker.slot)).map(|worker| worker.given).sum::<u64>();
    assert_eq!(given, 3, "each of them was called once: {status:?}");
    victims.iter().for_each(|pid| process::signal(*pid, Signal::SIGKILL));
    assert!(blocked.iter_mut().all(Line::ends));
    drop((blocked, lines));
    master.settle(8);
    master.check();
}

/// Nobody of the clients retries.
#[test]
fn reloads_of_many_workers_are_not_noticed() {
    let master = Setup::web().policy("none").workers(WORKERS).start();
    let load = Load::start(master.address(), &CLIENTS);
    for _ in 0..3 {
        load.go_on(&SWING);
        master.reload_well();
    }
    load.go_on(&CLIENTS);
    assert_unnoticed(&load.finish());
    master.settle(8);
    master.check();
}

#[test]
fn a_pause_of_many_workers_leaves_clients_in_the_kernel_and_loses_none() {
    let master = start();
    let told = |word| command(&master, &[word]);
    told("pause");
    master.wait_until("there is a pause", |status| status.state() == "paused");
    let mut waiting: Vec<Line> = (0..20).map(|_| master.line()).collect();
    waiting.iter_mut().for_each(|line| line.tell("who"));
    assert!(master.status().workers().iter().all(|worker| worker.active == 0));
    told("resume");
    for line in &mut waiting {
        line.hear().expect("whoever waited is answered");
    }
    drop(waiting);
    master.settle(8);
    master.check();
}

/// Also those that are blocked leave the line, or a new master's clients would be lost to them.
#[test]
fn the_port_of_many_workers_is_free_when_their_master_is_lost() {
    let master = start();
    let address = master.address();
    let mut blocked = master.line();
    let me = blocked.who();
    blocked.tell("block 60000");
    let others: Vec<u32> = master.family().into_iter().filter(|pid| ![me.pid, master.pid()].contains(pid)).collect();
    master.signal(Signal::SIGKILL);
    for pid in others {
        assert_eq!(process::reap(pid), Some(110));
    }
    soon("the port is free for a new master", || TcpListener::bind(address).ok());
    process::signal(me.pid, Signal::SIGKILL);
    process::reap(me.pid);
}
