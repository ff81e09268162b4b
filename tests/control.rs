//! The control socket: HTTP/1.1 with JSON, for the master's own user, and no way to slow the master down.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::harness::status::{ask, say};
use crate::harness::{Line, Setup, process};

#[test]
fn the_socket_is_for_its_owner_alone() {
    let master = Setup::lines().start();
    let mode = std::fs::metadata(master.control()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let control = master.control();
    let ended = master.stop();
    assert!(!control.exists(), "{}", ended.errors);
}

#[test]
fn the_status_shows_every_worker_and_every_listener() {
    let master = Setup::lines().workers(2).start();
    let mut lines: Vec<Line> = (0..4).map(|_| master.line()).collect();
    lines.iter_mut().for_each(|line| {
        line.who();
    });
    let status = master.status();
    assert_eq!(status.0["pid"], master.pid());
    assert_eq!(status.0["policy"], "rr");
    assert_eq!(status.generations(), [(1, "active".to_owned())]);
    for worker in status.active() {
        assert!(worker.pid.is_some_and(process::lives));
        assert_eq!((worker.active, worker.offered, worker.taken), (2, 2, 2), "{worker:?}");
        assert_eq!((worker.refused, worker.revoked, worker.restarts), (0, 0, 0), "{worker:?}");
    }
    let listener = &status.0["listeners"][0];
    assert_eq!(listener["policy"], "rr");
    assert_eq!((listener["queue"].as_u64(), listener["accepted"].as_u64()), (Some(0), Some(4)), "{listener:#}");
    assert!(status.0["last_reload"].is_null());
    drop(lines);
    master.wait_until("the connections have gone", |status| status.workers().iter().all(|worker| worker.active == 0));
    master.check();
}

/// parallel/test-cluster-worker-isconnected.js, parallel/test-cluster-worker-isdead.js: the states of a worker's life.
#[test]
fn the_states_of_a_worker_are_seen_one_after_the_other() {
    let master = Setup::lines().plan("* slow-start 300").launch();
    let states = |status: &crate::harness::status::Status| {
        status.workers().iter().map(|worker| worker.state.clone()).collect::<Vec<_>>()
    };
    master.wait_until("the workers start", |status| states(status) == ["starting", "starting"]);
    master.wait_until("the workers are active", |status| states(status) == ["active", "active"]);
    let mut line = master.line();
    line.who();
    master.reload_well();
    master.wait_until("the old worker drains", |status| states(status) == ["draining", "active", "active"]);
    drop(line);
    master.settle(2);
    assert_eq!(master.stop().code(), Some(0));
}

#[test]
fn what_is_asked_wrongly_is_refused_with_a_reason() {
    let master = Setup::lines().start();
    let control = master.control();
    for (method, path, code) in [
        ("GET", "/", 404),
        ("GET", "/workers/../status", 404),
        ("POST", "/status", 405),
        ("GET", "/reload", 405),
        ("DELETE", "/stop", 405),
        ("POST", "/stop?now=perhaps", 400),
    ] {
        let (status, json) = ask(&control, method, path).expect("an answer");
        assert_eq!(status, code, "{method} {path}");
        assert!(json["error"].as_str().is_some_and(|error| !error.is_empty()), "{method} {path}: {json}");
    }
    assert_eq!(master.status().state(), "running");
    master.check();
}

#[test]
fn garbage_harms_nobody() {
    let master = Setup::lines().start();
    let control = master.control();
    let long = [b"GET /".as_slice(), &[b'a'; 100_000], b" HTTP/1.1\r\n\r\n"].concat();
    for bytes in [&b"\0\xff\xfe garbage \r\n\r\n"[..], b"GET\r\n\r\n", b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &long]
    {
        // A refusal, or the end of the connection: anything but silence.
        if let Ok(answer) = say(&control, bytes) {
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    }
    assert_eq!(master.status().state(), "running");
    master.check();
}

#[test]
fn clients_that_do_not_finish_stop_nobody_else() {
    let master = Setup::lines().start();
    let control = master.control();
    let mut slow: Vec<UnixStream> =
        (0..10).map(|_| UnixStream::connect(&control).expect("the socket is there")).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /status HT").expect("an open socket");
    }
    master.reload_well();
    assert_eq!(master.settle(2).generations(), [(2, "active".to_owned())]);
    drop(slow);
    master.check();
}

#[test]
fn the_socket_answers_while_every_worker_is_stopped() {
    let master = Setup::lines().start();
    let pids: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGSTOP));
    assert_eq!(master.status().state(), "running");
    pids.iter().for_each(|pid| process::signal(*pid, Signal::SIGCONT));
    master.check();
}

#[test]
fn a_stop_is_answered_before_it_has_ended_and_a_second_one_is_harmless() {
    let master = Setup::lines().start();
    let mut line = master.line();
    let me = line.who();
    for _ in 0..2 {
        let (status, json) = ask(&master.control(), "POST", "/stop").expect("an answer");
        assert_eq!((status, json["at_once"].as_bool()), (202, Some(false)), "{json}");
        assert_eq!(line.who(), me);
    }
    let (status, json) = ask(&master.control(), "POST", "/stop?now=true").expect("an answer");
    assert_eq!((status, json["at_once"].as_bool()), (202, Some(true)), "{json}");
    assert!(line.ends());
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn a_reload_that_a_stop_overtakes_is_answered() {
    let master = Setup::lines().plan("g2 slow-start 60000").start();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| ask(&master.control(), "POST", "/reload"));
        master.wait_until("the reload has begun", |status| status.state() == "reloading");
        master.term();
        let answer = reload.join().expect("no panic").expect("an answer");
        assert!(matches!(answer.0, 409 | 503), "{answer:?}");
    });
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn a_second_master_does_not_take_the_socket_of_the_first() {
    let master = Setup::lines().start();
    let ended = Setup::lines().set("EVERPORT_CONTROL", master.control()).run_to_end();
    assert_eq!(ended.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("control socket"), "{}", ended.errors);
    assert_eq!(master.status().state(), "running");
    master.check();
}

#[test]
fn the_socket_of_a_master_that_was_killed_is_taken_over() {
    let first = Setup::lines().start();
    first.signal(Signal::SIGKILL);
    process::wait_for_end(first.pid());
    assert!(first.control().exists());
    let second = Setup::program(crate::harness::setup::CLI, &["run"])
        .argument("--control")
        .argument(first.control())
        .argument("--listen")
        .argument("127.0.0.1:0")
        .argument("--")
        .argument(crate::harness::setup::WORKER)
        .argument("127.0.0.1:0")
        .launch();
    let running = crate::harness::soon("the second master serves", || {
        ask(&first.control(), "GET", "/status").ok().filter(|(_, json)| json["state"] == "running")
    });
    assert_eq!(running.1["pid"], second.pid());
    assert_eq!(second.stop().code(), Some(0));
}
