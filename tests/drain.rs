//! What becomes of work under way: it finishes, before a deadline.

use std::time::Duration;

use crate::harness::status::Status;
use crate::harness::{Line, Setup, command, http, process};

#[test]
fn a_connection_stays_with_its_worker_over_a_reload_until_its_client_ends_it() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let mut line = master.line();
        let me = line.who();
        master.reload_well();
        assert_eq!(line.who(), me, "{policy}");
        let status = master.status();
        assert_eq!(status.generations(), [(1, "draining".to_owned()), (2, "active".to_owned())], "{policy}");
        assert_eq!(master.line().who().generation, 2, "{policy}");
        // The other worker of the old generation has nothing and leaves.
        master.wait_until("only one of the old generation is left", |status| status.workers().len() == 3);
        line.finish();
        assert!(line.ends());
        master.settle(2);
        process::wait_for_end(me.pid);
        master.check();
    }
}

#[test]
fn several_old_generations_drain_at_once() {
    let master = Setup::lines().start();
    let mut lines = Vec::new();
    for generation in 1..=4 {
        let mut line = master.line();
        assert_eq!(line.who().generation, generation);
        lines.push(line);
        master.reload_well();
    }
    for (line, generation) in lines.iter_mut().zip(1..) {
        assert_eq!(line.who().generation, generation);
    }
    drop(lines);
    master.settle(2);
    master.check();
}

#[test]
fn a_request_under_way_finishes_and_a_stop_waits_for_it() {
    let master = Setup::web().start();
    let address = master.address();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| http::get(address, "/slow?ms=800"));
        master
            .wait_until("the request is under way", |status| status.workers().iter().any(|worker| worker.active == 1));
        master.term();
        let answer = answer.join().expect("no panic").expect("a whole answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "slow, but done\n"));
    });
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn a_streamed_response_is_whole_after_a_reload() {
    let master = Setup::web().start();
    let address = master.address();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| http::get(address, "/stream?chunks=8&ms=100"));
        master
            .wait_until("the response is under way", |status| status.workers().iter().any(|worker| worker.active == 1));
        master.reload_well();
        let text = answer.join().expect("no panic").expect("a whole answer").text();
        assert_eq!(text.lines().count(), 8, "{text}");
    });
    master.settle(2);
    master.check();
}

/// A framework that is told to shut down resets connections whose request it has not read: so it is told later.
#[test]
fn a_connection_whose_request_is_still_to_come_is_served_in_spite_of_the_drain() {
    for policy in ["rr", "none"] {
        let master = Setup::plain_axum().policy(policy).start();
        let mut fresh: Vec<_> =
            (0..8).map(|_| http::Connection::open(master.address()).expect("the port is open")).collect();
        master.wait_until("every connection is taken", |status| {
            status.workers().iter().map(|worker| worker.active).sum::<u64>() == 8
        });
        master.reload_well();
        for connection in &mut fresh {
            let answer = connection.get("/").unwrap_or_else(|failure| panic!("{policy}: {failure:?}"));
            assert_eq!((answer.status, answer.header("x-generation")), (200, Some("1")));
        }
        drop(fresh);
        master.settle(2);
        master.check();
    }
}

#[test]
fn clients_that_never_say_anything_do_not_hold_up_a_drain() {
    let master = Setup::plain_axum().start();
    let silent = http::Connection::open(master.address()).expect("the port is open");
    master.wait_until("the connection is taken", |status| status.workers().iter().any(|worker| worker.active == 1));
    master.reload_well();
    let ((), took) = http::timed(|| drop(master.settle(2)));
    assert!(took < Duration::from_secs(5), "the drain took {took:?}");
    drop(silent);
    master.check();
}

/// recluster#1, node#2642: a connection that never ends does not keep an old worker for ever.
#[test]
fn what_is_left_at_the_deadline_is_cut() {
    let master = Setup::lines().drain_timeout("600ms").start();
    let mut line = master.line();
    let me = line.who();
    master.reload_well();
    assert!(line.ends(), "the connection was not cut");
    process::wait_for_end(me.pid);
    let status = master.settle(2);
    let pid = format!("pid={}", me.pid);
    master.log.wait_for(&["worker killed", &pid, "its time to drain was over"]);
    let record = master.log.wait_for(&["worker exited", &pid]);
    for part in ["its time to drain was over", "cut=1", "finished=0", "lingered=0", "voluntary=false"] {
        assert!(record.contains(part), "no {part} in {record}");
    }
    let reload = &status.0["last_reload"];
    assert_eq!((&reload["cut"], &reload["finished"]), (&1.into(), &0.into()), "{reload:#}");
    master.check();
}

/// parallel/test-cluster-kill-infinite-loop.js: a blocked worker is killed at the deadline.
#[test]
fn a_blocked_worker_is_killed_at_the_deadline() {
    let master = Setup::lines().drain_timeout("600ms").start();
    let mut line = master.line();
    let me = line.who();
    line.tell("block 60000");
    master.reload_well();
    process::wait_for_end(me.pid);
    assert!(line.ends());
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-worker-no-exit.js: a drain leaves background work its time.
#[test]
fn a_guard_keeps_a_draining_worker_alive() {
    let master = Setup::lines().start();
    let mut line = master.line();
    let me = line.who();
    assert_eq!(line.ask("guard 700"), "held");
    drop(line);
    let ((), took) = http::timed(|| {
        master.reload_well();
        process::wait_for_end(me.pid);
    });
    assert!(took > Duration::from_millis(400), "it ended after {took:?}");
    master.settle(2);
    master.check();
}

#[test]
fn a_program_that_never_asks_about_draining_ends_all_the_same() {
    let master = Setup::lines_on(&["--careless", "127.0.0.1:0"]).start();
    let old = master.line().who();
    let ((), took) = http::timed(|| {
        master.reload_well();
        process::wait_for_end(old.pid);
    });
    assert!(took < Duration::from_secs(6), "it ended after {took:?}, not after a short grace period");
    assert_eq!(master.line().who().generation, 2);
    master.settle(2);
    master.check();
}

#[test]
fn a_program_that_never_asks_about_draining_finishes_its_connections_first() {
    let master = Setup::lines_on(&["--careless", "127.0.0.1:0"]).start();
    let mut line = master.line();
    let old = line.who();
    master.reload_well();
    for _ in 0..4 {
        assert_eq!(line.ask("wait 300"), format!("{} {} {} {}", old.worker, old.slot, old.generation, old.pid));
    }
    drop(line);
    process::wait_for_end(old.pid);
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-disconnect-race.js: a worker leaves while another only starts to ask for the same listener.
#[test]
fn a_drain_and_a_start_may_overlap() {
    let master = Setup::lines_on(&["127.0.0.1:0", "127.0.0.1:0"]).plan("g2 slow-start 100").start();
    for _ in 0..5 {
        master.reload_well();
    }
    master.settle(2);
    for address in master.addresses() {
        assert_eq!(Line::connect(address).who().generation, 6);
    }
    master.check();
}

/// parallel/test-cluster-worker-wait-server-close.js, parallel/test-cluster-shared-leak.js: the worker ends when its last
/// connection does, in both policies.
#[test]
fn a_stop_waits_for_open_connections_and_takes_no_new_ones() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let address = master.address();
        let mut line = master.line();
        let me = line.who();
        master.term();
        master.wait_until("the master stops", |status| status.state() == "stopping");
        assert_eq!(line.who(), me, "{policy}");
        drop(line);
        assert_eq!(master.wait().code(), Some(0), "{policy}");
        assert!(Line::try_connect(address).is_err(), "{policy}: the port is free");
    }
}

/// parallel/test-cluster-disconnect-unshared-tcp.js, parallel/test-cluster-disconnect-unshared-udp.js: a worker that never
/// listened is replaced and stopped like any other.
#[test]
fn a_worker_without_a_listener_reloads_and_stops() {
    let master = Setup::lines_on(&["--manual"]).start();
    let record = master.reload_well();
    assert_eq!(record["generation"], 2);
    let status = master.settle(2);
    assert!(status.addresses().is_empty(), "{status:?}");
    master.check();
}

#[test]
fn a_draining_worker_shows_what_it_waits_for_how_old_that_is_and_both_of_its_deadlines() {
    let master = Setup::lines().workers(1).drain_timeout("60s").set("EVERPORT_DRAIN_GRACE", "20s").start();
    let [mut unknown, mut idle, mut busy] = [(); 3].map(|()| master.line());
    assert_eq!(unknown.ask("guard 600000"), "held");
    assert_eq!(idle.ask("serve 0").split(' ').nth(2), Some("1"));
    busy.tell("serve 600000");
    master.wait_until("the request is under way", |status| status.0["generations"][0]["workers"][0]["requests"] == 1);
    master.reload_well();
    let status = master.wait_until("time has passed", |status| {
        status.0["generations"][0]["workers"][0]["oldest_seconds"].as_u64() >= Some(1)
    });
    let worker = &status.0["generations"][0]["workers"][0];
    let figure = |name: &str| worker[name].as_u64().unwrap_or_else(|| panic!("no {name}: {worker:#}"));
    assert_eq!(worker["state"], "draining");
    assert_eq!(["active", "requests", "idle", "unread", "guards"].map(figure), [3, 1, 1, 0, 1], "{worker:#}");
    assert!((1..=20).contains(&figure("soft_deadline_in_seconds")), "{worker:#}");
    assert!((41..=60).contains(&figure("deadline_in_seconds")), "{worker:#}");
    let shown = command(&master, &["workers"]).output;
    assert!(shown.contains("3 connections (1 request, 1 idle, 1 unknown, the oldest since "), "{shown}");
    assert!(shown.contains(" and 1 guard, idle ones closed in ") && shown.contains("s, cut in "), "{shown}");
    let shown = command(&master, &["status"]).output;
    assert!(shown.contains("waits for 3 connections (1 request, 1 idle, 1 unknown"), "{shown}");
    master.stop_now();
}

#[test]
fn what_the_connections_of_a_real_server_do_is_shown() {
    let master = Setup::web().workers(1).start();
    let address = master.address();
    let mut idle = http::Connection::open(address).expect("the port is open");
    assert!(idle.get("/").is_ok());
    // One that has asked for nothing yet is idle too.
    let _silent = http::Connection::open(address).expect("the port is open");
    let busy = std::thread::spawn(move || http::get(address, "/slow?ms=600000"));
    master.wait_until("each connection is shown for what it is", |status| {
        let worker = &status.0["generations"][0]["workers"][0];
        let figure = |name: &str| worker[name].as_u64();
        let figures = ["active", "requests", "idle"].map(figure);
        figures == [Some(3), Some(1), Some(2)] && figure("oldest_seconds") >= Some(1)
    });
    master.stop_now();
    assert!(busy.join().expect("it ends").is_err(), "it was cut");
}

#[test]
fn an_idle_connection_is_closed_at_the_soft_deadline_and_a_request_in_progress_finishes() {
    let master = Setup::lines().workers(1).drain_timeout("60s").set("EVERPORT_DRAIN_GRACE", "300ms").start();
    let [mut idle, mut busy, mut unknown] = [(); 3].map(|()| master.line());
    let me = unknown.who();
    idle.ask("serve 0");
    busy.tell("serve 1500");
    master.wait_until("the request is under way", |status| status.0["generations"][0]["workers"][0]["requests"] == 1);
    master.reload_well();
    assert!(idle.ends(), "the connection outlived the soft deadline");
    let worker = |status: &Status| status.0["generations"][0]["workers"][0].clone();
    let status = master.wait_until("it is counted", |status| worker(status)["lingered"] == 1);
    assert_eq!((&worker(&status)["active"], &worker(&status)["requests"]), (&2.into(), &1.into()), "{status:?}");
    assert!(busy.hear().is_ok_and(|answer| answer.ends_with(&me.pid.to_string())));
    // Once it is idle it has had its time.
    assert!(busy.ends());
    assert_eq!(unknown.who(), me, "of this one nothing is known");
    drop(unknown);
    process::wait_for_end(me.pid);
    let record = master.log.wait_for(&["worker exited", &format!("pid={}", me.pid)]);
    for part in ["voluntary=true", "finished=1", "lingered=2", "cut=0"] {
        assert!(record.contains(part), "no {part} in {record}");
    }
    let status = master.settle(1);
    assert_eq!(status.0["last_reload"]["lingered"], 2, "{status:?}");
    master.check();
}
