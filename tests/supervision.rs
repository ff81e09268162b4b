//! How workers are looked after: restarts, hung ones, worn ones, how many there are, and a pause.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::setup::WORKER;
use crate::harness::status::{Status, ask};
use crate::harness::{Line, Master, Setup, command, http, process};

/// As `command`, which must succeed; what it says.
#[track_caller]
fn told(master: &Master, words: &[&str]) -> String {
    let done = command(master, words);
    assert_eq!(done.code(), Some(0), "{words:?}: {}", done.errors);
    done.output
}

fn slots(status: &Status) -> Vec<u64> {
    let mut slots: Vec<_> = status.active().iter().map(|worker| worker.slot).collect();
    slots.sort_unstable();
    slots
}

fn resting(status: &Status) -> Vec<u64> {
    let slots = status.0["generations"][0]["resting"].as_array().into_iter().flatten();
    slots.filter_map(|resting| resting["slot"].as_u64()).collect()
}

/// Waits until exactly these slots are served and no other worker is left.
#[track_caller]
fn wait_for_slots(master: &Master, wanted: &[u64]) {
    master.wait_until("these slots are served", |status| {
        slots(status) == wanted && status.workers().len() == wanted.len()
    });
}

#[test]
fn a_slot_that_crashes_too_often_rests_is_shown_and_told_once() {
    let master = Setup::lines().set("EVERPORT_RESTART_LIMIT", "3").start();
    let mut other = master.line_to(0);
    master.plan("s1 exit 17");
    process::signal(master.line_to(1).who().pid, Signal::SIGKILL);
    let line = master.log.wait_for(&["ERROR", "slot resting"]);
    assert!(line.contains("slot=1"), "{line}");
    let status = master.wait_until("the slot rests", |status| resting(status) == [1]);
    assert_eq!(slots(&status), [0]);
    assert!(status.0["generations"][0]["resting"][0]["retry_in_seconds"].as_u64().is_some_and(|retry| retry <= 30));
    assert!(told(&master, &["status"]).contains("slot 1 rests"));
    assert!(told(&master, &["workers"]).contains("resting"));
    assert_eq!(other.ask("echo still here"), "still here");
    // The old one, and three more at full pace.
    assert_eq!((master.log.count(&["worker exited", "slot=1"]), master.log.count(&["slot resting"])), (4, 1));
    // A reload starts with a clean sheet.
    master.plan("");
    drop(other);
    master.reload_well();
    assert_eq!(resting(&master.settle(2)), [0; 0]);
    master.check_but(&["slot resting"]);
}

#[test]
fn every_end_of_a_worker_leaves_one_record_that_says_how_and_what_was_lost() {
    let master = Setup::lines().start();
    let mut lines: Vec<Line> = (0..2).map(|_| master.line_to(1)).collect();
    let crashed = lines[0].who();
    lines[1].who();
    process::signal(crashed.pid, Signal::SIGKILL);
    let record = master.log.wait_for(&["worker exited", &format!("pid={}", crashed.pid)]);
    for word in ["slot=1", "generation=1", "SIGKILL", "voluntary=false", "uptime_ms=", "cut=2"] {
        assert!(record.contains(word), "no {word} in {record}");
    }
    let left = master.line_to(0).who();
    process::signal(left.pid, Signal::SIGTERM);
    let record = master.log.wait_for(&["worker exited", &format!("pid={}", left.pid)]);
    for word in ["slot=0", "exited with code 0", "voluntary=true", "cut=0"] {
        assert!(record.contains(word), "no {word} in {record}");
    }
    master.settle(2);
    assert_eq!(master.log.count(&["worker exited"]), 2);
    master.check();
}

/// Copies the fixture to a path that can be replaced.
fn install(folder: &Path, program: &str, name: &str) -> std::path::PathBuf {
    let (draft, path) = (folder.join("draft"), folder.join(name));
    std::fs::copy(program, &draft).expect("the folder is ours");
    std::fs::rename(draft, &path).expect("the folder is ours");
    path
}

#[test]
fn a_crashed_worker_comes_back_from_the_file_of_its_generation() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0"], &[]);
    let folder = setup.folder();
    let path = install(&folder, WORKER, "server");
    let master = setup.argument(&path).argument("127.0.0.1:0").start();
    // A half-installed release: it could not even start.
    install(&folder, "/bin/false", "server");
    let old = master.line_to(1).who();
    process::signal(old.pid, Signal::SIGKILL);
    master.log.wait_for(&["WARN", "replaced on disk", "what it was started from"]);
    master.settle(2);
    let mut line = master.line_to(1);
    let new = line.who();
    assert!(new.worker > old.worker && new.generation == 1);
    assert!(line.ask("exe").ends_with("/server (deleted)"), "{}", line.ask("exe"));
    assert!(line.ask("args").starts_with(path.to_str().expect("plain")), "it has its own name");
    drop(line);
    assert_eq!(master.log.count(&["worker exited"]), 1);
    let (committed, record) = master.reload();
    assert!(!committed, "the next generation starts from what is there now: {record:#}");
    install(&folder, WORKER, "server");
    master.reload_well();
    assert!(master.line().ask("exe").ends_with("/server"));
    master.settle(2);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_replaced_script_is_run_by_its_path_and_the_log_says_so() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0"], &[]);
    let folder = setup.folder();
    let script = |mark: &str| {
        let (draft, path) = (folder.join("draft"), folder.join("server"));
        let text = format!("#!/bin/sh\nexec {WORKER} 127.0.0.1:0 {mark}\n");
        std::fs::write(&draft, text).expect("the folder is ours");
        std::fs::set_permissions(&draft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        std::fs::rename(draft, &path).expect("the folder is ours");
        path
    };
    let master = setup.argument(script("--old")).start();
    assert!(master.line_to(1).ask("args").ends_with("--old"));
    script("--new");
    process::signal(master.line_to(1).who().pid, Signal::SIGKILL);
    master.log.wait_for(&["WARN", "a script cannot be pinned"]);
    master.settle(2);
    assert!(master.line_to(1).ask("args").ends_with("--new"));
    master.check();
}

#[test]
fn a_worker_that_hangs_is_aborted_and_replaced_and_its_neighbour_is_not() {
    let master = Setup::lines().set("EVERPORT_HANG_TIMEOUT", "400ms").start();
    let healthy = master.line_to(0).who();
    let mut line = master.line_to(1);
    let hung = line.who();
    line.tell("block 60000");
    let record = master.log.wait_for(&["ERROR", "worker hung"]);
    assert!(record.contains(&format!("pid={}", hung.pid)) && record.contains("slot=1"), "{record}");
    let record = master.log.wait_for(&["worker exited", &format!("pid={}", hung.pid)]);
    assert!(record.contains("SIGABRT") && record.contains("voluntary=false"), "{record}");
    assert!(line.ends());
    master.settle(2);
    assert_eq!(master.line_to(0).who(), healthy);
    assert!(master.line_to(1).who().worker > hung.worker);
    assert_eq!(master.log.count(&["worker hung"]), 1);
    master.check_but(&["worker hung"]);
}

/// A stopped process does not even get the abort.
#[test]
fn a_stopped_worker_is_killed_when_its_abort_takes_too_long() {
    let master = Setup::lines().set("EVERPORT_HANG_TIMEOUT", "400ms").start();
    let stopped = master.line_to(1).who();
    process::signal(stopped.pid, Signal::SIGSTOP);
    master.wait_until("it is found hung", |status| status.workers().iter().any(|worker| worker.state == "hung"));
    let record = master.log.wait_for(&["worker exited", &format!("pid={}", stopped.pid)]);
    assert!(record.contains("SIGKILL"), "{record}");
    master.settle(2);
    master.check_but(&["worker hung"]);
}

#[test]
fn a_busy_worker_that_still_turns_is_not_hung() {
    let master = Setup::lines().set("EVERPORT_HANG_TIMEOUT", "2s").start();
    let mut line = master.line_to(1);
    let me = line.who();
    for _ in 0..10 {
        line.ask("block 300");
    }
    assert_eq!(line.who(), me);
    assert_eq!(master.log.count(&["worker hung"]), 0);
    drop(line);
    master.check();
}

#[test]
fn workers_that_have_served_enough_connections_are_replaced_without_a_refusal() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).set("EVERPORT_RECYCLE_CONNECTIONS", "20").start();
        let address = master.address();
        let mut held = master.line();
        let me = held.who();
        let mut recycled = 0;
        while recycled == 0 {
            Line::connect(address).who();
            recycled = master.log.count(&["worker recycled", "connections=", &format!("worker={}", me.worker)]);
        }
        assert_eq!(held.who(), me, "{policy}: who is replaced finishes what it has");
        drop(held);
        while master.log.count(&["worker exited"]) < 2 {
            Line::connect(address).who();
        }
        let records: Vec<_> = master.log.lines().into_iter().filter(|line| line.contains("worker exited")).collect();
        assert!(records.iter().all(|line| line.contains("voluntary=true")), "{policy}: {records:#?}");
        assert_eq!(master.stop().code(), Some(0));
    }
}

#[test]
fn an_old_worker_is_replaced_and_never_two_at_once() {
    let master = Setup::lines().set("EVERPORT_RECYCLE_AGE", "2s").start();
    let first = master.status().active();
    let mut most = 0;
    master.wait_until("all of the first ones have gone", |status| {
        most = most.max(status.workers().len());
        assert!(slots(status) == [0, 1] || status.active().len() == 1, "a slot is not served: {status:?}");
        first.iter().all(|old| status.workers().iter().all(|worker| worker.worker != old.worker))
    });
    assert!(most <= 3, "{most} workers at a time");
    assert!(master.status().active().iter().all(|worker| worker.restarts == 0), "no crash");
    assert_eq!(master.stop().code(), Some(0));
}

#[test]
fn a_worker_with_too_much_memory_is_replaced() {
    let master = Setup::lines().set("EVERPORT_RECYCLE_MEMORY", "200MiB").start();
    let mut line = master.line_to(1);
    let me = line.who();
    assert_eq!(line.ask("eat 300"), "eaten");
    let record = master.log.wait_for(&["worker recycled"]);
    assert!(record.contains("memory_bytes=") && record.contains(&format!("worker={}", me.worker)), "{record}");
    assert_eq!(line.who(), me);
    drop(line);
    process::wait_for_end(me.pid);
    master.settle(2);
    master.check();
}

#[test]
fn ttin_and_ttou_add_a_worker_and_drain_the_highest_slot() {
    let master = Setup::lines().start();
    master.signal(Signal::SIGTTIN);
    wait_for_slots(&master, &[0, 1, 2]);
    let mut line = master.line_to(2);
    let me = line.who();
    master.signal(Signal::SIGTTOU);
    master.wait_until("the highest slot drains", |status| {
        status.workers().iter().any(|worker| worker.worker == me.worker && worker.state == "draining")
    });
    assert_eq!(line.who(), me, "what it has goes on");
    drop(line);
    wait_for_slots(&master, &[0, 1]);
    master.signal(Signal::SIGTTOU);
    wait_for_slots(&master, &[0]);
    master.signal(Signal::SIGTTOU);
    master.log.wait_for(&["workers scaled", "before=1", "workers=1"]);
    wait_for_slots(&master, &[0]);
    assert_eq!(master.stop().code(), Some(0));
}

#[test]
fn scale_sets_the_number_of_workers_which_a_reload_keeps() {
    let master = Setup::lines().start();
    assert_eq!(told(&master, &["scale", "4"]), "4 workers, 2 before");
    wait_for_slots(&master, &[0, 1, 2, 3]);
    assert_eq!(told(&master, &["scale", "4"]), "4 workers, as before");
    assert_eq!(told(&master, &["scale", "-1"]), "3 workers, 4 before");
    wait_for_slots(&master, &[0, 1, 2]);
    let record = master.reload_well();
    assert_eq!(record["workers"], 3);
    wait_for_slots(&master, &[0, 1, 2]);
    assert_eq!(told(&master, &["scale", "+1"]), "4 workers, 3 before");
    assert_eq!(told(&master, &["scale", "2"]), "2 workers, 4 before");
    wait_for_slots(&master, &[0, 1]);
    for wrong in ["0", "many", "+1025"] {
        assert_eq!(command(&master, &["scale", wrong]).code(), Some(2), "{wrong}");
    }
    let (code, refusal) = ask(&master.control(), "POST", "/scale?to=0").expect("an answer");
    assert!(code == 400 && refusal["error"].is_string(), "{refusal}");
    master.check();
}

#[test]
fn in_a_pause_clients_wait_and_nobody_is_refused() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let address = master.address();
        let mut held = master.line();
        let me = held.who();
        assert!(told(&master, &["pause"]).starts_with("paused:"));
        let status = master.wait_until("there is a pause", |status| status.state() == "paused");
        assert!(status.workers().iter().all(|worker| worker.state == "paused"), "{status:?}");
        assert_eq!(held.who(), me, "{policy}: what is under way goes on");
        let mut waiting: Vec<Line> = (0..5).map(|_| Line::connect(address)).collect();
        waiting.iter_mut().for_each(|line| line.tell("who"));
        // What starts now comes up paused.
        let record = master.reload_well();
        assert_eq!(record["outcome"], "committed");
        master.log.pass(Duration::from_millis(300));
        assert!(master.status().workers().iter().all(|worker| worker.generation == 1 || worker.taken == 0));
        assert_eq!(told(&master, &["pause"]), "paused already");
        assert_eq!(told(&master, &["resume"]), "resumed");
        for line in &mut waiting {
            line.hear().unwrap_or_else(|error| panic!("{policy}: a client that waited got {error}"));
        }
        assert_eq!(told(&master, &["resume"]), "not paused");
        drop((held, waiting));
        master.settle(2);
        master.check();
    }
}

#[test]
fn winch_pauses_and_a_stop_ends_a_pause() {
    let master = Setup::lines().start();
    master.signal(Signal::SIGWINCH);
    master.wait_until("there is a pause", |status| status.state() == "paused");
    let (ended, took) = http::timed(|| master.stop());
    assert!(took < Duration::from_secs(5), "after {took:?}: {}", ended.errors);
}

#[test]
fn kill_ends_one_worker_which_is_replaced() {
    let master = Setup::lines().start();
    let mut line = master.line_to(1);
    let me = line.who();
    let id = me.worker.to_string();
    let who = format!("worker {id} of slot 1, generation 1");
    assert_eq!(told(&master, &["kill", "--worker", &id]), format!("replaced: {who}; it ends within 5s"));
    // It has not ended yet, for the line is open.
    assert_eq!(told(&master, &["kill", "--worker", &id]), format!("killed: {who}"));
    assert!(line.ends());
    process::wait_for_end(me.pid);
    master.settle(2);
    let gone = command(&master, &["kill", "--worker", &id]);
    assert!(gone.code() == Some(1) && gone.errors.contains(&format!("there is no worker {id}")), "{}", gone.errors);
    assert_eq!(command(&master, &["kill", "--worker", "me"]).code(), Some(2));
    master.check();
}

#[test]
fn a_drain_can_be_seen_with_what_it_waits_for() {
    let master = Setup::lines().start();
    let mut line = master.line_to(1);
    let me = line.who();
    assert_eq!(line.ask("guard 60000"), "held");
    master.reload_well();
    let find = |status: &Status| {
        let workers = status.0["generations"][0]["workers"].as_array().cloned().unwrap_or_default();
        workers.into_iter().find(|worker| worker["worker"] == me.worker && worker["state"] == "draining")
    };
    let status = master.wait_until("it drains", |status| find(status).is_some());
    let worker = find(&status).expect("just seen");
    assert_eq!((&worker["active"], &worker["guards"]), (&1.into(), &1.into()), "{worker:#}");
    assert!(worker["deadline_in_seconds"].as_u64().is_some_and(|left| (1..=10).contains(&left)), "{worker:#}");
    assert!(worker["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20), "{worker:#}");
    let table = told(&master, &["workers"]);
    assert!(table.contains("1 connection (the oldest since ") && table.contains(") and 1 guard, "), "{table}");
    assert!(table.contains(", cut in "), "{table}");
    let json: serde_json::Value = serde_json::from_str(&told(&master, &["workers", "--json"])).expect("JSON");
    let row = json.as_array().into_iter().flatten().find(|row| row["worker"] == me.worker).expect("a row");
    assert!(row["generation"] == 1 && row["waits_for"].is_string(), "{row:#}");
    let ended = command(&master, &["stop", "--now"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    assert_eq!(master.wait().code(), Some(0));
}
