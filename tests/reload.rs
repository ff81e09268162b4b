//! Generations: a reload is committed, or it is rolled back, and clients notice neither.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::{Line, Master, Setup, http, process, soon};

#[test]
fn the_port_is_one_kernel_socket_over_reloads_and_crashes() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let address = master.address();
        let inodes = process::listening_inodes(address);
        assert_eq!(inodes.len(), 1, "{policy}");
        for generation in 2..=4 {
            master.reload_well();
            assert_eq!(process::listening_inodes(address), inodes, "{policy}, after a reload");
            let victim = master.settle(2).active()[0].pid.expect("it lives");
            process::signal(victim, Signal::SIGKILL);
            master.wait_until("another fills the slot", |status| {
                let workers = status.active();
                workers.len() == 2 && workers.iter().all(|worker| worker.pid != Some(victim))
            });
            assert_eq!(process::listening_inodes(address), inodes, "{policy}, after a crash");
            assert_eq!(Line::connect(address).who().generation, generation, "{policy}");
        }
        master.settle(2);
        master.check();
    }
}

#[test]
fn with_no_worker_alive_clients_wait_for_the_next_one() {
    for policy in ["rr", "none"] {
        let master = Setup::lines().policy(policy).start();
        let address = master.address();
        let inodes = process::listening_inodes(address);
        // Those that come after them end at once.
        master.plan("* exit 9");
        for worker in master.status().active() {
            process::signal(worker.pid.expect("it lives"), Signal::SIGKILL);
        }
        master.wait_until("nobody serves", |status| status.active().is_empty());
        let mut waiting: Vec<Line> = (0..10).map(|_| Line::connect(address)).collect();
        for line in &mut waiting {
            line.tell("who");
        }
        assert_eq!(process::listening_inodes(address), inodes, "{policy}");
        master.plan("");
        for line in &mut waiting {
            line.hear().unwrap_or_else(|error| panic!("{policy}: a client that waited got {error}"));
        }
        assert_eq!(process::listening_inodes(address), inodes, "{policy}");
        drop(waiting);
        master.settle(2);
        master.check();
    }
}

/// A generation that cannot be: the outcome, its reason, and that the old one serves on as if nothing had happened.
fn rolls_back(plan: &str, reason: &[&str]) {
    let master = Setup::lines().ready_timeout("500ms").start();
    let before = master.status().active();
    let mut held = master.line();
    let me = held.who();
    master.plan(plan);
    let (committed, record) = master.reload();
    assert!(!committed, "{plan}: {record:#}");
    let told = record["reason"].as_str().unwrap_or_default();
    assert!(reason.iter().all(|word| told.contains(word)), "{plan}: {told:?} lacks one of {reason:?}");
    assert_eq!(held.who(), me, "{plan}: the connection of the old generation");
    let after = master.settle(2);
    let pids = |workers: Vec<crate::harness::status::WorkerLine>| {
        workers.into_iter().map(|worker| (worker.pid, worker.worker)).collect::<Vec<_>>()
    };
    assert_eq!(pids(after.active()), pids(before), "{plan}: the old workers");
    assert_eq!(after.0["last_reload"]["outcome"], "rolled_back", "{plan}");
    assert_eq!(master.family().len(), 3, "{plan}: nothing of the new generation is left");
    // And the next one may succeed.
    master.plan("");
    master.reload_well();
    drop(held);
    master.settle(2);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_generation_that_exits_at_its_start_is_rolled_back() {
    rolls_back("g2 exit 42", &["42"]);
}

#[test]
fn a_generation_of_which_one_worker_exits_is_rolled_back() {
    rolls_back("s1 exit 43", &["43"]);
}

#[test]
fn a_generation_that_is_never_ready_is_rolled_back() {
    rolls_back("g2 never-ready", &["ready"]);
}

#[test]
fn a_generation_of_another_protocol_is_rolled_back_and_both_versions_are_named() {
    rolls_back("g2 versions 7 9", &["7", "9", "1"]);
}

/// parallel/test-cluster-worker-death.js: a crash before "online" is reported.
#[test]
fn the_failure_of_the_first_generation_ends_the_master_with_the_reason() {
    for (plan, reason) in [("* exit 42", "42"), ("* never-ready", "ready"), ("* versions 7 9", "7")] {
        let ended = Setup::lines().ready_timeout("500ms").plan(plan).run_to_end();
        assert_eq!(ended.code(), Some(1), "{plan}: {}", ended.errors);
        assert!(ended.errors.contains(reason), "{plan}: {}", ended.errors);
    }
}

#[test]
fn reloads_asked_for_at_once_become_one_and_at_most_one_more() {
    let master = Setup::lines().start();
    for _ in 0..20 {
        master.hup();
    }
    let status = master.wait_until("a reload has ended", |status| !status.0["last_reload"].is_null());
    assert!(status.0["last_reload"]["asked_by"]["by"] == "signal", "{:#}", status.0["last_reload"]);
    let newest = master.settle(2).generations().iter().map(|generation| generation.0).max();
    assert!(matches!(newest, Some(2 | 3)), "generation {newest:?} after twenty signals");
    master.check();
}

#[test]
fn a_reload_asked_for_during_a_reload_follows_it() {
    let master = Setup::lines().plan("g2 slow-start 300").start();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| master.reload_well());
        master.wait_until("the first reload has begun", |status| status.state() == "reloading");
        let others: Vec<_> = (0..3).map(|_| scope.spawn(|| master.reload_well())).collect();
        let generation = |record: &serde_json::Value| record["generation"].as_u64();
        assert_eq!(generation(&first.join().expect("no panic")), Some(2));
        for other in others {
            assert_eq!(generation(&other.join().expect("no panic")), Some(3));
        }
    });
    master.settle(2);
    master.check();
}

/// Two releases in folders of their own, and a symlink that leads to one of them.
fn releases(folder: &Path) {
    for release in ["v1", "v2"] {
        fs::create_dir(folder.join(release)).expect("the folder is ours");
        fs::copy(WORKER, folder.join(release).join("server")).expect("the folder is ours");
    }
    symlink("v1", folder.join("current")).expect("the folder is ours");
}

fn switch(folder: &Path) {
    symlink("v2", folder.join("next")).expect("the folder is ours");
    fs::rename(folder.join("next"), folder.join("current")).expect("the folder is ours");
}

fn assert_switches(master: &Master) {
    assert!(master.line().ask("exe").ends_with("/v1/server"));
    switch(master.folder());
    master.reload_well();
    assert!(master.line().ask("exe").ends_with("/v2/server"));
}

#[test]
fn the_next_generation_runs_what_a_switched_symlink_leads_to() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0"], &[]);
    let folder = setup.folder();
    releases(&folder);
    let master = setup.argument(folder.join("current/server")).argument("127.0.0.1:0").start();
    assert_switches(&master);
    master.settle(2);
    master.check();
}

#[test]
fn an_embedded_master_follows_its_own_path_to_the_next_release() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    releases(folder.path());
    let master = Setup::program(folder.path().join("current/server"), &["127.0.0.1:0"]).start();
    assert!(master.line().ask("exe").ends_with("/v1/server"));
    switch(folder.path());
    master.reload_well();
    assert!(master.line().ask("exe").ends_with("/v2/server"));
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-cwd.js: the next generation starts in the new folder, running workers keep theirs.
#[test]
fn the_next_generation_starts_where_the_working_directory_leads_now() {
    let setup = Setup::lines();
    let folder = setup.folder();
    releases(&folder);
    let master = setup.working_directory(folder.join("current")).start();
    let mut old = master.line();
    assert!(old.ask("cwd").ends_with("/v1"));
    switch(&folder);
    master.reload_well();
    assert!(old.ask("cwd").ends_with("/v1"));
    assert!(master.line().ask("cwd").ends_with("/v2"));
    drop(old);
    master.settle(2);
    master.check();
}

/// parallel/test-cluster-setup-primary.js: the arguments reach every worker.
#[test]
fn every_worker_of_every_generation_has_the_arguments_of_the_start() {
    let master = Setup::lines().start();
    for _ in 0..2 {
        for slot in 0..2 {
            assert!(master.line_to(slot).ask("args").ends_with(" 127.0.0.1:0"));
        }
        master.reload_well();
    }
    master.settle(2);
    master.check();
}

#[test]
fn the_old_generation_serves_while_the_new_one_starts_and_the_new_one_once_it_is_ready() {
    let master = Setup::lines().plan("g2 slow-start 500").start();
    let address = master.address();
    let generations = std::thread::scope(|scope| {
        let reload = scope.spawn(|| master.reload_well());
        let mut seen = Vec::new();
        soon("the reload ends", || {
            seen.push(Line::connect(address).who().generation);
            reload.is_finished().then_some(())
        });
        seen
    });
    assert!(generations.iter().filter(|generation| **generation == 1).count() > 10, "{generations:?}");
    assert!(generations.is_sorted(), "no connection goes back: {generations:?}");
    assert_eq!(Line::connect(address).who().generation, 2);
    master.settle(2);
    master.check();
}

#[test]
fn a_worker_that_says_itself_when_it_is_ready_is_waited_for() {
    let master = Setup::lines_on(&["--manual", "127.0.0.1:0", "127.0.0.1:0"]).start();
    master.reload_well();
    for address in master.addresses() {
        assert_eq!(Line::connect(address).who().generation, 2);
    }
    master.settle(2);
    master.check();
}

#[test]
fn slots_and_ports_stay_and_generations_and_worker_ids_only_grow() {
    let master = Setup::lines_on(&["127.0.0.1:0", "127.0.0.1:0"]).workers(3).start();
    let addresses = master.addresses();
    assert_eq!(addresses.len(), 2);
    let mut ids = BTreeSet::new();
    for generation in 1..=4 {
        let status = master.settle(3);
        let slots: Vec<u64> = status.active().iter().map(|worker| worker.slot).collect();
        assert_eq!(slots, [0, 1, 2]);
        assert!(status.active().iter().all(|worker| worker.generation == generation && ids.insert(worker.worker)));
        assert_eq!(master.addresses(), addresses);
        master.reload_well();
    }
    master.settle(3);
    master.check();
}

#[test]
fn fifty_reloads_and_fifty_crashes_leak_nothing() {
    let master = Setup::lines().start();
    for _ in 0..50 {
        master.reload_well();
        // In a new generation the first crash of a slot is made good at once.
        let victim = master.settle(2).active()[0].pid.expect("it lives");
        process::signal(victim, Signal::SIGKILL);
        master.wait_until("another fills the slot", |status| {
            let workers = status.active();
            workers.len() == 2 && workers.iter().all(|worker| worker.pid != Some(victim))
        });
    }
    master.check();
}

#[test]
fn the_record_of_a_reload_tells_who_asked_and_what_it_came_to() {
    let master = Setup::lines().start();
    let record = master.reload_well();
    assert_eq!(record["generation"], 2);
    assert_eq!(record["outcome"], "committed");
    assert_eq!(record["asked_by"]["by"], "control");
    assert_eq!(record["asked_by"]["pid"], std::process::id());
    assert!(record["at"].as_str().is_some_and(|at| at.starts_with("20")), "{record:#}");
    master.settle(2);
    master.hup();
    let status = master.wait_until("the second reload has ended", |status| status.0["last_reload"]["generation"] == 3);
    assert_eq!(status.0["last_reload"]["asked_by"]["by"], "signal");
    assert_eq!(status.0["last_reload"]["asked_by"]["pid"], std::process::id());
    master.settle(2);
    master.check();
}

#[test]
fn a_program_that_has_gone_fails_the_reload_and_nothing_else() {
    let setup = Setup::cli(&["--listen", "127.0.0.1:0"], &[]);
    let program = setup.folder().join("server");
    fs::copy(WORKER, &program).expect("the folder is ours");
    let master = setup.argument(&program).argument("127.0.0.1:0").start();
    fs::remove_file(&program).expect("the folder is ours");
    let (committed, record) = master.reload();
    assert!(!committed);
    assert!(record["reason"].as_str().is_some_and(|reason| reason.contains("No such file")), "{record:#}");
    assert_eq!(master.line().who().generation, 1);
    fs::copy(WORKER, &program).expect("the folder is ours");
    master.reload_well();
    master.settle(2);
    master.check_but(&["reload rolled back"]);
}

/// The command itself is a worker program too: nothing in it waits for a second master.
#[test]
fn a_program_that_is_no_worker_is_never_ready() {
    let ended = Setup::cli(&["--listen", "127.0.0.1:0", "--ready-timeout", "500ms"], &[CLI, "--version"]).run_to_end();
    assert_eq!(ended.code(), Some(1), "{}", ended.errors);
}

/// Idle or busy at the reload, a kept connection goes on with the next generation.
#[test]
fn kept_connections_go_on_in_the_next_generation() {
    let master = Setup::web().start();
    let mut kept = http::Connection::open(master.address()).expect("the port is open");
    assert_eq!(kept.get("/").expect("an answer").status, 200);
    let mut busy = http::Connection::open(master.address()).expect("the port is open");
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| busy.get("/slow?ms=500"));
        master.wait_until("the request is under way", |status| {
            status.workers().iter().map(|worker| worker.active).sum::<u64>() == 2
        });
        master.reload_well();
        let answer = answer.join().expect("no panic").expect("a whole answer");
        assert_eq!((answer.status, answer.header("x-generation"), answer.says_close()), (200, Some("1"), false));
    });
    master.settle(2);
    for connection in [&mut kept, &mut busy] {
        let answer = connection.get("/").expect("an answer");
        assert_eq!((answer.status, answer.header("x-generation"), answer.says_close()), (200, Some("2"), false));
    }
    drop((kept, busy));
    master.check();
}
