//! After a new generation serves: probation, rollback, slot by slot, and how many may drain.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::clients::{Kind, Load};
use crate::harness::setup::{WEB, WORKER};
use crate::harness::status::{self, Status};
use crate::harness::{Line, Master, Setup, command};

/// Longer than any test.
const LONG: &str = "1h";

/// Asks for a reload and does not wait for its end.
#[track_caller]
fn begin(master: &Master) -> Value {
    match status::ask(&master.control(), "POST", "/reload?wait=false") {
        Ok((202, begun)) => begun,
        other => panic!("reload?wait=false: {other:?}"),
    }
}

#[track_caller]
fn wait_for_probation(master: &Master, generation: u64) -> Status {
    master.wait_until("the new generation is on probation", |status| {
        status.generations().contains(&(generation, "probation".to_owned()))
    })
}

/// The pids of the workers in this state.
fn pids(status: &Status, state: &str) -> Vec<u32> {
    status.workers().iter().filter(|worker| worker.state == state).filter_map(|worker| worker.pid).collect()
}

/// The lines of the audit file.
fn audit(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "torn: {text}");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_crash_on_probation_resumes_the_old_generation_and_its_connections_never_notice() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).set("EVERPORT_PROBATION", LONG).start();
        let old = pids(&master.status(), "active");
        let mut kept = master.line();
        let before = kept.who();
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| master.reload());
            let status = wait_for_probation(&master, 2);
            assert_eq!((pids(&status, "paused"), status.state()), (old.clone(), "reloading"), "{policy}");
            assert_eq!(master.line().who().generation, 2, "{policy}");
            assert_eq!(kept.who(), before, "{policy}: a paused worker serves what it has");
            assert!(!reload.is_finished(), "{policy}: the answer is the outcome");
            master.line().tell("exit 9");
            let (committed, record) = reload.join().expect("no panic");
            assert!(!committed, "{policy}: {record:#}");
            let reason = record["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("code 9") && reason.contains("after it was activated"), "{policy}: {reason}");
            assert_eq!(record["retired"], 2, "{policy}");
        });
        assert_eq!(pids(&master.settle(2), "active"), old, "{policy}: the very processes");
        assert_eq!(master.line().who().generation, 1, "{policy}");
        assert_eq!(kept.who(), before, "{policy}");
        drop(kept);
        master.settle(2);
        master.check_but(&["reload rolled back"]);
    }
}

#[test]
fn a_rollback_resumes_the_old_generation_and_one_without_a_reload_says_so() {
    let master = Setup::lines().set("EVERPORT_PROBATION", LONG).start();
    let old = pids(&master.status(), "active");
    let nothing = command(&master, &["rollback"]);
    assert_eq!(nothing.code(), Some(1));
    assert!(nothing.errors.contains("nothing to roll back"), "{}", nothing.errors);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| command(&master, &["reload"]));
        wait_for_probation(&master, 2);
        let mut new = master.line();
        assert_eq!(new.who().generation, 2);
        let table = command(&master, &["status"]).output;
        assert!(table.contains("generation 1: paused") && table.contains("generation 2: on probation"), "{table}");
        let done = command(&master, &["rollback"]);
        assert_eq!((done.code(), done.output.as_str()), (Some(0), "rolled back: generation 2"), "{}", done.errors);
        let outcome = reload.join().expect("no panic");
        assert_eq!(outcome.code(), Some(1));
        assert!(outcome.errors.contains("a rollback was asked for by the control client"), "{}", outcome.errors);
        assert_eq!(new.who().generation, 2, "what the new generation has, it finishes");
    });
    let status = master.settle(2);
    assert_eq!(pids(&status, "active"), old);
    assert_eq!((&status.0["last_reload"]["finished"], &status.0["last_reload"]["cut"]), (&1.into(), &0.into()));
    master.check();
}

#[test]
fn without_a_crash_probation_ends_in_the_commit_and_a_hup_meanwhile_waits_for_it() {
    let master = Setup::lines().set("EVERPORT_PROBATION", "500ms").start();
    let record = master.reload_well();
    assert!(record["probation_ms"].as_u64().is_some_and(|time| time >= 500), "{record:#}");
    begin(&master);
    wait_for_probation(&master, 3);
    master.hup();
    master.log.wait_for(&["reload committed", "generation=3"]);
    master.log.wait_for(&["reload committed", "generation=4"]);
    master.settle(2);
    master.check();
}

#[test]
fn a_rolling_reload_replaces_slot_by_slot() {
    let master = Setup::lines().workers(3).set("EVERPORT_STRATEGY", "rolling").plan("g2 slow-start 200").start();
    let mut most = 0;
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.reload_well());
        master.wait_until("the reload has ended", |status| {
            most = most.max(pids(status, "starting").len());
            let serving: BTreeSet<u64> = status.active().iter().map(|worker| worker.slot).collect();
            assert_eq!(serving.len(), 3, "every slot is served at any time: {:#}", status.0);
            reload.is_finished()
        });
    });
    assert_eq!(most, 1, "one starts at a time");
    assert!(master.settle(3).active().iter().all(|worker| worker.generation == 2));
    master.check();
}

#[test]
fn a_rolling_reload_that_fails_half_way_rolls_the_replaced_slots_back() {
    let master = Setup::lines().workers(3).set("EVERPORT_STRATEGY", "rolling").start();
    let old = pids(&master.status(), "active");
    let mut kept: Vec<Line> = (0..3).map(|slot| master.line_to(slot)).collect();
    master.plan("s2 exit 43");
    let (committed, record) = master.reload();
    assert!(!committed, "{record:#}");
    assert!(record["reason"].as_str().is_some_and(|reason| reason.contains("43")), "{record:#}");
    assert_eq!(record["retired"], 2, "the slots 0 and 1 had served already");
    master.log.wait_for(&["generation drained", "generation=2"]);
    assert_eq!(pids(&master.settle(3), "active"), old);
    assert!(kept.iter_mut().all(|line| line.who().generation == 1));
    master.plan("");
    drop(kept);
    master.reload_well();
    master.settle(3);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_full_budget_delays_the_next_reload_and_says_why_and_cuts_nobody() {
    let master = Setup::lines().set("EVERPORT_DRAIN_GENERATIONS", "1").drain_timeout(LONG).start();
    let mut kept = master.line();
    master.reload_well();
    let begun = begin(&master);
    assert_eq!((&begun["state"], &begun["generation"]), (&"pending".into(), &3.into()), "{begun:#}");
    let said = command(&master, &["reload", "--no-wait"]);
    assert_eq!(said.output, "pending: generation 3: a generation still drains");
    let status = master.status();
    assert_eq!(status.0["reload"]["why"], "a generation still drains", "{:#}", status.0);
    assert_eq!(status.generations(), [(1, "draining".to_owned()), (2, "active".to_owned())]);
    assert_eq!(kept.who().generation, 1);
    drop(kept);
    master.log.wait_for(&["generation drained", "generation=1", "finished=1", "cut=0"]);
    master.log.wait_for(&["reload committed", "generation=3"]);
    assert_eq!(master.log.count(&["reload delayed"]), 1);
    master.settle(2);
    master.check();
}

#[test]
fn memory_of_draining_generations_delays_a_reload() {
    let master = Setup::lines().set("EVERPORT_DRAIN_MEMORY", "1KiB").drain_timeout(LONG).start();
    let kept = master.line();
    master.reload_well();
    assert_eq!(begin(&master)["state"], "pending");
    let reason = master.log.wait_for(&["reload delayed"]);
    assert!(reason.contains("MiB"), "{reason}");
    drop(kept);
    master.log.wait_for(&["reload committed", "generation=3"]);
    master.settle(2);
    master.check();
}

#[test]
fn what_is_cut_at_the_deadline_is_counted_and_logged_for_its_generation() {
    let master = Setup::lines().drain_timeout("300ms").start();
    let mut cut = master.line();
    assert_eq!(cut.who().generation, 1);
    master.reload_well();
    assert!(cut.ends());
    master.log.wait_for(&["generation drained", "generation=1", "finished=0", "cut=1"]);
    let record = &master.settle(2).0["last_reload"];
    assert_eq!((&record["cut"], &record["retired"]), (&1.into(), &1.into()), "{record:#}");
    assert!(record["draining_ms"].as_u64().is_some_and(|time| time >= 300), "{record:#}");
    master.check();
}

/// `v1` and `v2` of the web example, and a symlink `current` to one of them.
fn releases(folder: &Path) {
    for release in ["v1", "v2"] {
        fs::create_dir(folder.join(release)).expect("the folder is ours");
        fs::copy(WEB, folder.join(release).join("server")).expect("the folder is ours");
    }
    symlink("v1", folder.join("current")).expect("the folder is ours");
}

#[test]
fn a_storm_of_a_hundred_signals_harms_no_client_and_ends_with_the_newest_program() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0", "--drain-generations", "1"], &[]);
    let folder = setup.folder();
    releases(&folder);
    let master = setup.argument(folder.join("current/server")).argument("--listen").argument("127.0.0.1:0").start();
    let load = Load::start(master.address(), &[(Kind::Fresh, 8), (Kind::Slow, 2), (Kind::Busy, 8)]);
    let mut most = 0;
    for signal in 0..100 {
        if signal == 50 {
            symlink("v2", folder.join("next")).expect("the folder is ours");
            fs::rename(folder.join("next"), folder.join("current")).expect("the folder is ours");
        }
        master.hup();
        // A hundred in ten seconds.
        master.log.pass(Duration::from_millis(100));
        most = most.max(master.family().len());
    }
    load.finish().assert_unnoticed();
    // The master; two workers each of a generation that drains, of the active one, and of two that start or die.
    assert!(most <= 1 + 2 * (1 + 1 + 2), "{most} processes");
    let status = master.wait_until("the storm is over", |status| {
        status.0["reload"].is_null() && status.active().len() == 2 && status.workers().len() == 2
    });
    for worker in status.active() {
        let exe = fs::read_link(format!("/proc/{}/exe", worker.pid.expect("it lives"))).expect("it lives");
        assert!(exe.ends_with("v2/server"), "{exe:?}");
    }
    assert!(status.0["reloads"].as_array().is_some_and(|records| (3..=16).contains(&records.len())));
    assert!(master.log.count(&["reload delayed"]) > 0, "slow requests fill the budget");
    master.check();
}

#[test]
fn the_audit_file_has_a_line_for_every_reload_and_every_generation_that_drained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("audit");
    let master = Setup::lines().set("EVERPORT_AUDIT_FILE", &path).start();
    master.reload_well();
    master.log.wait_for(&["generation drained", "generation=1"]);
    master.plan("g3 exit 42");
    master.hup();
    master.log.wait_for(&["reload rolled back"]);
    master.plan("");
    let lines = audit(&path);
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["reload", "drained", "reload"], "{lines:#?}");
    assert_eq!((&lines[0]["generation"], &lines[0]["outcome"]), (&2.into(), &"committed".into()));
    assert_eq!(lines[0]["asked_by"]["by"], "control");
    assert_eq!((&lines[1]["generation"], &lines[1]["cut"]), (&1.into(), &0.into()));
    assert_eq!((&lines[2]["generation"], &lines[2]["outcome"]), (&3.into(), &"rolled_back".into()));
    let asked_by = &lines[2]["asked_by"];
    assert_eq!((&asked_by["by"], &asked_by["pid"]), (&"signal".into(), &std::process::id().into()));
    assert!(asked_by["uid"].is_u64() && lines[2]["reason"].is_string(), "{:#}", lines[2]);
    master.settle(2);
    master.check_but(&["reload rolled back"]);
    assert_eq!(audit(&path).len(), 4, "the stop drained generation 2");
}

#[test]
fn the_audit_file_has_a_line_for_every_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("audit");
    let setup = Setup::lines_on(&["127.0.0.1:0?name=web"]).workers(1);
    let master = setup.set("EVERPORT_AUDIT_FILE", &path).start();
    for words in [
        &["policy", "web", "least"][..],
        &["weight", "0", "3"],
        &["scale", "2"],
        &["pause"],
        &["resume"],
        &["kill", "--worker", "1"],
    ] {
        assert_eq!(command(&master, words).code(), Some(0), "{words:?}");
    }
    master.settle(2);
    master.signal(Signal::SIGTTOU);
    master.settle(1);
    let lines = audit(&path);
    let said: Vec<_> = lines.iter().map(|line| (&line["order"], &line["asked_by"]["by"])).collect();
    let orders = ["policy", "weight", "scale", "pause", "pause", "kill", "scale"];
    let by = |index| if index == 6 { "signal" } else { "control" };
    assert!(said.iter().enumerate().all(|(index, said)| said.0 == orders[index] && said.1 == by(index)), "{said:?}");
    assert_eq!(said.len(), orders.len());
    assert_eq!(
        (&lines[0]["listener"], &lines[0]["before"], &lines[0]["policy"]),
        (&"web".into(), &"rr".into(), &"least".into())
    );
    assert_eq!((&lines[1]["slot"], &lines[1]["before"], &lines[1]["weight"]), (&0.into(), &1.into(), &3.into()));
    assert!(lines.iter().all(|line| line["kind"] == "order" && line["at"].is_string()), "{lines:#?}");
    master.check();
}

#[test]
fn an_audit_file_that_cannot_be_written_is_said_once_and_harms_no_reload() {
    for (path, reason) in [("/dev/full", "No space left"), ("/nowhere/audit", "No such file")] {
        let master = Setup::lines().set("EVERPORT_AUDIT_FILE", path).start();
        for _ in 0..3 {
            master.reload_well();
            master.settle(2);
        }
        assert_eq!(master.log.count(&["audit line not written", reason]), 1, "{path}");
        master.check_but(&["audit line not written"]);
    }
}

#[test]
fn a_reload_that_nobody_waits_for_begins_all_the_same() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0", "--workers", "2"], &[WORKER, "127.0.0.1:0"]);
    let master = setup.plan("g2 slow-start 300").start();
    let begun = command(&master, &["reload", "--no-wait"]);
    assert_eq!((begun.code(), begun.output.as_str()), (Some(0), "started: generation 2"), "{}", begun.errors);
    let behind = command(&master, &["reload", "--no-wait"]);
    assert_eq!(behind.output, "pending: generation 3: the reload to generation 2 has not ended");
    master.log.wait_for(&["reload committed", "generation=3"]);
    let records = master.settle(2).0["reloads"].clone();
    let generations: Vec<_> = records.as_array().expect("a list").iter().map(|record| &record["generation"]).collect();
    assert_eq!(generations, [2, 3]);
    master.check();
}

#[test]
fn a_stop_on_probation_ends_both_generations_and_tells_those_who_wait() {
    let master = Setup::lines().set("EVERPORT_PROBATION", LONG).start();
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.reload());
        wait_for_probation(&master, 2);
        master.term();
        let (committed, record) = reload.join().expect("no panic");
        assert_eq!((committed, &record["reason"]), (false, &"the master was told to stop".into()));
    });
    assert_eq!(master.wait().code(), Some(0));
}
