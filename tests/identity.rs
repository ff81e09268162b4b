//! What a worker knows and inherits, and what it does not.

use std::collections::BTreeSet;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::{Line, Setup, http, process};

/// parallel/test-cluster-basic.js: ids start at 1, and what the worker knows of itself is what the master says.
#[test]
fn a_worker_knows_who_it_is() {
    let master = Setup::lines().workers(3).start();
    let status = master.status();
    for worker in status.active() {
        let mut line = master.line_to(worker.slot);
        let me = line.who();
        assert_eq!((me.worker, me.generation, Some(me.pid)), (worker.worker, 1, worker.pid));
        assert_eq!(line.ask("env EVERPORT_WORKER"), worker.worker.to_string());
        assert_eq!(line.ask("env EVERPORT_SLOT"), worker.slot.to_string());
        assert_eq!(line.ask("env EVERPORT_GENERATION"), "1");
    }
    let ids: BTreeSet<u64> = status.active().iter().map(|worker| worker.worker).collect();
    assert_eq!(ids, BTreeSet::from([1, 2, 3]));
    master.check();
}

/// parallel/test-cluster-basic.js: spawned, then ready, then gone, each told once and in this order.
#[test]
fn the_life_of_a_worker_is_told_in_order() {
    let master = Setup::lines().workers(1).start();
    let pid = master.status().active()[0].pid.expect("it lives").to_string();
    let ended = master.stop();
    let position = |words: &[&str]| {
        let found: Vec<usize> = ended
            .errors
            .lines()
            .enumerate()
            .filter(|(_, line)| words.iter().all(|word| line.contains(word)))
            .map(|(number, _)| number)
            .collect();
        assert_eq!(found.len(), 1, "{words:?} in:\n{}", ended.errors);
        found[0]
    };
    let order = [
        position(&["master started"]),
        position(&["worker spawned", &pid]),
        position(&["worker ready"]),
        position(&["worker exited", &pid]),
        position(&["master stopped"]),
    ];
    assert!(order.is_sorted(), "{order:?} in:\n{}", ended.errors);
}

/// parallel/test-cluster-basic.js: a process that a worker starts does not believe that it is one, and inherits nothing.
#[test]
fn nothing_reaches_the_children_of_a_worker() {
    // What the tests themselves hand down, and nothing more.
    let stranger = Setup::program(WORKER, &["grandchild"]).run_to_end().output;
    let ours = numbers(stranger.split_once(" fds=").expect("an answer").1);
    for policy in ["rr", "none"] {
        let master = Setup::lines_on(&["127.0.0.1:0", "udp:127.0.0.1:0"]).policy(policy).start();
        for generation in 1..=2 {
            let tcp = master.addresses().into_iter().find(|address| !process::listening_inodes(*address).is_empty());
            let mut line = Line::connect(tcp.expect("a TCP listener"));
            assert_eq!(line.who().generation, generation);
            let seen = line.ask("grandchild");
            let (managed, fds) = seen.split_once(" fds=").expect("an answer");
            assert_eq!(managed, "managed=false", "{policy}");
            assert_eq!(numbers(fds), ours, "{policy}: {fds}");
            drop(line);
            master.reload_well();
        }
        master.settle(2);
        master.check();
    }
}

/// The numbers of descriptors as the fixture lists them.
fn numbers(fds: &str) -> Vec<String> {
    fds.trim().split(',').filter_map(|fd| Some(fd.split_once('=')?.0.to_owned())).collect()
}

/// parallel/test-net-listen-handle-in-cluster-1.js: a listener that came over the channel can be accepted from.
#[test]
fn a_worker_holds_the_listener_only_when_the_kernel_picks() {
    for (policy, holds) in [("rr", false), ("none", true)] {
        let master = Setup::lines().policy(policy).start();
        let inode = process::listening_inodes(master.address())[0];
        let mut line = master.line();
        let fds = line.ask("fds");
        assert_eq!(fds.contains(&format!("socket:[{inode}]")), holds, "{policy}: {fds}");
        assert_eq!(line.ask("stdin"), "/dev/null");
        drop(line);
        master.check();
    }
}

/// parallel/test-cluster-fork-env.js, for the master's own settings: a master inside a worker must not fight for them.
#[test]
fn the_settings_of_the_master_do_not_reach_the_workers() {
    let setup = Setup::lines();
    let pid_file = setup.folder().join("pid");
    let master = setup.set("EVERPORT_PID_FILE", pid_file).set("PROOF_OTHER", "kept").start();
    let mut line = master.line();
    for name in ["EVERPORT_CONTROL", "EVERPORT_PID_FILE", "EVERPORT_WORKERS", "EVERPORT_LISTEN"] {
        assert_eq!(line.ask(&format!("env {name}")), "unset");
    }
    assert_eq!(line.ask("env PROOF_OTHER"), "kept");
    drop(line);
    master.check();
}

#[test]
fn every_response_of_the_web_example_is_signed() {
    let master = Setup::web().start();
    let address = master.address();
    let mut connection = http::Connection::open(address).expect("the port is open");
    for (method, path, status) in [("GET", "/", 200), ("POST", "/upload", 200), ("GET", "/no-such-page", 404)] {
        let answer = connection.request(method, path, b"12345").expect("an answer");
        assert_eq!(answer.status, status, "{path}");
        let number = |name| answer.header(name).and_then(|value| value.parse::<u64>().ok());
        assert!(number("x-worker").is_some_and(|worker| worker >= 1), "{path}");
        assert!(number("x-slot").is_some_and(|slot| slot <= 1), "{path}");
        assert_eq!(number("x-generation"), Some(1), "{path}");
        assert!(number("x-pid").is_some_and(|pid| pid != u64::from(master.pid())), "{path}");
    }
    drop(connection);
    master.settle(2);
    master.check();
}

/// A program in front of which a master stands is not confused when that master runs within a worker of another.
#[test]
fn a_master_that_a_worker_starts_is_a_master() {
    let master = Setup::lines().start();
    let pid = master.line().who().pid;
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("our own child");
    let text = String::from_utf8_lossy(&environment).into_owned();
    let mut inner = Setup::program(CLI, &["run", "--listen", "127.0.0.1:0", "--", WORKER]).argument("127.0.0.1:0");
    for name in ["EVERPORT_CHANNEL", "EVERPORT_BOARD", "EVERPORT_WORKER", "EVERPORT_SLOT", "EVERPORT_GENERATION"] {
        let value = text.split('\0').find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='));
        inner = inner.set(name, value.expect("the contract of exec"));
    }
    let inner = inner.start();
    assert_eq!(inner.line().who().worker, 1);
    inner.check();
    master.check();
}
