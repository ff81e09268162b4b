//! Policy `split`: a socket with a queue for every slot, and nobody who waits in one is ever left alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use everport_handoff::socket::{self, InheritedSockets};
use nix::sys::signal::Signal;

use crate::harness::clients::{Kind, Load, Notice};
use crate::harness::{Line, Setup, command, process, soon};

const CLIENTS: [(Kind, usize); 2] = [(Kind::Fresh, 6), (Kind::Busy, 4)];
const TURNS: [(Kind, usize); 2] = [(Kind::Fresh, 60), (Kind::Busy, 20)];

/// So many connections one after the other, and how many of them each slot had.
fn shares(address: SocketAddr, count: usize) -> BTreeMap<u64, usize> {
    let mut slots = BTreeMap::new();
    for _ in 0..count {
        *slots.entry(Line::connect(address).who().slot).or_default() += 1;
    }
    slots
}

/// Stops a process, so that whoever comes to it waits in its queue.
fn stop(pid: u32) {
    process::signal(pid, Signal::SIGSTOP);
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process").filter_map(Result::ok);
    let stands = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, fields)| fields.starts_with('T'));
    soon("every thread of it stands still", || {
        let mut stats = tasks().filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        stats.all(stands).then_some(())
    });
}

#[test]
fn no_connection_is_reset_while_workers_go_from_4_to_2_to_4() {
    let master = Setup::web().workers(4).policy("split").start();
    master.remember();
    let load = Load::start(master.address(), &CLIENTS);
    load.go_on(&TURNS);
    for _ in 0..2 {
        for (order, workers) in [("2", 2), ("4", 4)] {
            assert_eq!(command(&master, &["scale", order]).code(), Some(0));
            load.go_on(&TURNS);
            master.settle(workers);
            load.go_on(&TURNS);
        }
    }
    load.finish().assert_unnoticed();
    assert_eq!(process::listening_inodes(master.address()).len(), 4, "no socket was closed, or opened twice");
    master.check();
}

#[test]
fn a_reload_under_load_is_unnoticed() {
    let master = Setup::web().workers(3).policy("split").start();
    master.remember();
    let before = process::listening_inodes(master.address());
    let load = Load::start(master.address(), &CLIENTS);
    for _ in 0..2 {
        load.go_on(&TURNS);
        master.reload_well();
        load.go_on(&TURNS);
        master.settle(3);
    }
    load.finish().assert_unnoticed();
    assert_eq!(process::listening_inodes(master.address()), before, "the same sockets");
    assert_eq!(master.status().0["listeners"][0]["policy"], "split");
    master.check();
}

#[test]
fn a_crash_costs_nobody_but_whom_that_worker_had() {
    let master = Setup::lines().workers(3).policy("split").start();
    for slot in [2, 0, 1] {
        let mut lines: Vec<Line> = (0..30).map(|_| Line::connect(master.address())).collect();
        let homes: Vec<_> = lines.iter_mut().map(Line::who).collect();
        let victim = homes.iter().find(|who| who.slot == slot).expect("every slot has some").pid;
        stop(victim);
        let mut waiting: Vec<Line> = (0..20).map(|_| Line::connect(master.address())).collect();
        soon("some wait for it", || (process::backlog(master.address()) > 0).then_some(()));
        process::signal(victim, Signal::SIGKILL);
        for (line, who) in lines.iter_mut().zip(&homes).filter(|(_, who)| who.pid != victim) {
            assert_eq!(line.who().pid, who.pid);
        }
        for line in &mut waiting {
            assert_ne!(line.who().pid, victim);
        }
        drop((lines, waiting));
        master.settle(3);
    }
    master.check();
}

#[test]
fn a_crash_under_load_refuses_nobody_and_lets_nobody_wait() {
    let master = Setup::web().workers(3).policy("split").start();
    let load = Load::start(master.address(), &CLIENTS);
    for _ in 0..3 {
        load.go_on(&TURNS);
        let victim = master.settle(3).active()[1].pid.expect("a process");
        process::signal(victim, Signal::SIGKILL);
        load.go_on(&TURNS);
    }
    // Whoever was being served by it sees that end; nobody else sees anything.
    let unharmed = [Notice::Refused, Notice::NotConnected, Notice::Stalled, Notice::Wrong, Notice::ToldToClose];
    load.finish().assert(|notice| !unharmed.contains(&notice));
    master.settle(3);
    master.check();
}

#[test]
fn the_queue_of_a_killed_worker_is_served_by_its_neighbour_at_once() {
    let master = Setup::lines().policy("split").start();
    let victim = master.line_to(1).who().pid;
    // Nobody comes after it for a while.
    master.plan("s1 slow-start 60000");
    stop(victim);
    let mut lines = Vec::new();
    soon("some wait for it", || {
        lines.push(Line::connect(master.address()));
        (process::backlog(master.address()) >= 5).then_some(())
    });
    process::signal(victim, Signal::SIGKILL);
    for line in &mut lines {
        assert_eq!(line.who().slot, 0);
    }
    assert_eq!(shares(master.address(), 20), BTreeMap::from([(0, 20)]));
    assert_eq!(process::backlog(master.address()), 0);
    drop(lines);
    // Its successor never serves: it is killed like one that has not started.
    master.plan("");
    let starting = master.status().workers().into_iter().find(|worker| worker.slot == 1).and_then(|worker| worker.pid);
    process::signal(starting.expect("a process"), Signal::SIGKILL);
    master.settle(2);
    soon("slot 1 serves again", || (Line::connect(master.address()).who().slot == 1).then_some(()));
    master.check();
}

#[test]
fn every_slot_gets_its_share_and_a_pause_keeps_everybody() {
    let master = Setup::lines().workers(4).policy("split").start();
    let slots = shares(master.address(), 200);
    assert!((0..4).all(|slot| (20..=80).contains(&slots[&slot])), "{slots:?}");
    assert_eq!(command(&master, &["pause"]).code(), Some(0));
    let mut waiting: Vec<Line> = (0..12).map(|_| Line::connect(master.address())).collect();
    soon("they wait in the kernel", || (process::backlog(master.address()) == 12).then_some(()));
    assert_eq!(command(&master, &["resume"]).code(), Some(0));
    for line in &mut waiting {
        line.who();
    }
    drop(waiting);
    master.settle(4);
    master.check();
}

#[test]
fn a_port_in_use_is_refused_although_the_other_shares_it() {
    let address = "127.0.0.1:0?reuseport=true".parse().expect("an address");
    let other = socket::bind(&address, &InheritedSockets::default()).expect("a free port");
    let listen = other.local().to_string();
    let ended = Setup::cli(&["--policy", "split", "--listen", &listen], &["true"]).run_to_end();
    assert!(ended.code() != Some(0) && ended.errors.contains("in use"), "{}", ended.errors);
    assert!(ended.errors.contains(&listen), "{}", ended.errors);
}

#[test]
fn what_cannot_be_split_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let unix = format!("unix:{}", folder.path().join("app.sock").display());
    for (flags, reason) in [
        (&["--policy", "split", "--listen", &unix][..], "it is a unix socket"),
        (&["--listen", "127.0.0.1:0?policy=split&reuseport=true"], "reuseport"),
        (&["--listen", "127.0.0.1:0?policy=split", "--max-connections", "5"], "may have policy split"),
        (&["--policy", "split", "--listen", "127.0.0.1:0", "--protocol", "listen-fds"], "policy"),
    ] {
        let ended = Setup::cli(flags, &["true"]).run_to_end();
        assert!(ended.code() != Some(0) && ended.errors.contains(reason), "{flags:?}: {}", ended.errors);
    }
}

#[test]
fn udp_is_shared_also_where_split_is_the_default() {
    let master = Setup::lines_on(&["127.0.0.1:0", "udp:127.0.0.1:0"]).policy("split").start();
    let status = master.status();
    let policies: Vec<_> = (0..2).map(|index| status.0["listeners"][index]["policy"].clone()).collect();
    assert_eq!(policies, ["split", "none"]);
    master.check();
}

#[test]
fn another_policy_needs_a_new_socket_both_ways() {
    let setup = Setup::lines();
    let file = setup.folder().join("everport.toml");
    std::fs::write(&file, "policy = \"split\"\n").expect("a file");
    let master = setup.unset("EVERPORT_SCHED_POLICY").set("EVERPORT_CONFIG", &file).start();
    let listener = || master.status().0["listeners"][0].clone();
    let name = listener()["name"].as_str().unwrap_or_default().to_owned();
    let refused = command(&master, &["policy", &name, "rr"]);
    assert!(refused.code() == Some(1) && refused.errors.contains("needs a new socket"), "{}", refused.errors);
    assert_eq!(command(&master, &["policy", &name, "split"]).code(), Some(0), "it has that");
    std::fs::write(&file, "policy = \"rr\"\n").expect("a file");
    master.reload_well();
    master.log.wait_for(&["WARN", "listener keeps its policy", "has=split", "wanted=rr"]);
    assert_eq!(listener()["policy"], "split");
    assert_eq!(master.line().ask("echo still here"), "still here");
    master.settle(2);
    master.check();
}
