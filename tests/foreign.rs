//! Programs that know nothing of Everport: real ones, and a Python server that misbehaves on request.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::clients::{Kind, Load};
use crate::harness::status::ask;
use crate::harness::{Master, Setup, http, process, soon};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/foreign");

/// `everport run` in front of a program, on one port.
fn in_front_of(program: &[&str]) -> Setup {
    Setup::cli(&["--protocol", "listen-fds", "--listen", "127.0.0.1:0?name=web"], program)
}

/// In front of the Python server, which does as the words say.
fn python(words: &[&str]) -> Setup {
    let server = format!("{FIXTURES}/server.py");
    in_front_of(&[&["python3", server.as_str()][..], words].concat())
}

/// gunicorn in a virtual environment of its own, installed by the first test that wants it.
fn gunicorn() -> PathBuf {
    let requirements = format!("{FIXTURES}/requirements.txt");
    let wanted = fs::read(&requirements).expect("a file of the repository");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gunicorn");
    let installed = folder.join("installed");
    fs::create_dir_all(&folder).expect("the target folder is ours");
    // One at a time, whether tests are threads or processes.
    let lock = File::create(folder.join("lock")).expect("the folder is ours");
    lock.lock().expect("a local file system");
    if fs::read(&installed).ok().as_ref() != Some(&wanted) {
        let environment = folder.join("environment");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
        run(Command::new(environment.join("bin/python")).args(pip).arg(&requirements));
        fs::write(&installed, wanted).expect("the folder is ours");
    }
    folder.join("environment/bin/gunicorn")
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn in_front_of_gunicorn() -> Setup {
    let gunicorn = gunicorn();
    let gunicorn = gunicorn.to_str().expect("the target folder has a simple name");
    in_front_of(&[gunicorn, "--workers", "2", "--chdir", FIXTURES, "app:application"])
}

/// The first word of the answer: which process gave it.
fn who(address: SocketAddr) -> String {
    let text = http::get(address, "/").expect("an answer").text();
    text.split_whitespace().next().expect("a word").to_owned()
}

/// Reloads again and again while clients come and go; none is refused and no request is lost.
fn reloads_under_load(master: Master, clients: &[(Kind, usize)]) {
    let address = master.address();
    let inodes = process::listening_inodes(address);
    let first = who(address);
    let load = Load::start_on_any(address, clients);
    for _ in 0..4 {
        // The pause in which the clients work, so that each reload meets them in full swing.
        master.log.pass(Duration::from_millis(500));
        master.reload_well();
    }
    master.settle(2);
    load.finish().assert_nothing_lost();
    assert_ne!(who(address), first);
    assert_eq!(process::listening_inodes(address), inodes, "one kernel socket over all reloads");
    master.check();
}

/// Waits for so many lines with these words; there are no more of them.
#[track_caller]
fn says(master: &Master, times: usize, words: &[&str]) {
    soon("the lines", || (master.log.count(words) >= times).then_some(()));
    assert_eq!(master.log.count(words), times, "{words:?}");
}

#[test]
fn gunicorn_is_reloaded_under_load() {
    reloads_under_load(in_front_of_gunicorn().start(), &[(Kind::Fresh, 8)]);
}

#[test]
fn node_is_reloaded_under_load() {
    let server = format!("{FIXTURES}/server.js");
    reloads_under_load(in_front_of(&["node", &server]).start(), &[(Kind::Fresh, 8)]);
}

#[test]
fn a_plain_python_server_is_reloaded_under_load() {
    reloads_under_load(python(&[]).start(), &[(Kind::Fresh, 8), (Kind::Slow, 2)]);
}

/// It says `READY=1` before it has loaded the application.
#[test]
fn gunicorn_with_a_broken_application_is_rolled_back() {
    let master = in_front_of_gunicorn().start();
    master.plan("2");
    let (committed, record) = master.reload();
    assert!(!committed, "{record:#}");
    master.settle(2);
    let _still_served = who(master.address());
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_worker_is_told_its_listeners_by_name() {
    let master = python(&[]).start();
    says(&master, 0, &["WARN"]);
    let answer = http::get(master.address(), "/").expect("an answer").text();
    assert!(answer.ends_with(" 1 web\n"), "{answer}");
    master.check();
}

/// Looks the same as a program that is never ready, but for its word.
#[test]
fn a_program_is_ready_when_it_says_so_if_its_word_is_asked_for() {
    let master = python(&["silent=1", "says=1"]).set("EVERPORT_READY", "manual").start();
    master.reload_well();
    says(&master, 4, &["worker ready", "READY=1"]);
    master.settle(2);
    master.check_but(&["drain signal not handled"]);
}

#[test]
fn a_program_that_is_asked_for_its_word_and_never_gives_it_is_rolled_back() {
    let ended = python(&[]).set("EVERPORT_READY", "manual").ready_timeout("1s").run_to_end();
    assert_eq!(ended.code(), Some(1), "{}", ended.errors);
}

#[test]
fn the_word_of_a_program_that_is_seen_not_to_accept_does_not_count() {
    let master = python(&["deaf=2", "says=2"]).ready_timeout("4s").start();
    let (committed, record) = master.reload();
    assert!(!committed, "{record:#}");
    master.log.wait_for(&["nothing showed that the worker was ready", "web", "said=true"]);
    master.settle(2);
    assert!(http::get(master.address(), "/").expect("an answer").text().contains(" 1 "));
    master.check_but(&["reload rolled back"]);
}

#[test]
fn a_program_that_shows_nothing_is_ready_after_a_time_as_a_last_resort() {
    let master = python(&["silent=1"]).set("EVERPORT_READY_AFTER", "300ms").start();
    says(&master, 2, &["WARN", "worker ready", "ready-after, unproven"]);
    let _served = who(master.address());
    master.check_but(&["drain signal not handled"]);
}

#[test]
fn a_program_that_serves_in_its_children_is_seen() {
    let master = python(&["children=1"]).start();
    let workers = master.status().active();
    let pid: u32 = who(master.address()).parse().expect("a pid");
    assert!(workers.iter().all(|worker| worker.pid != Some(pid)));
    master.reload_well();
    process::wait_for_end(pid);
    master.settle(2);
    master.check();
}

#[test]
fn a_program_that_does_nothing_on_the_drain_signal_is_killed_at_the_deadline() {
    let master = python(&["stubborn=1"]).drain_timeout("300ms").start();
    let old: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    master.reload_well();
    old.into_iter().for_each(process::wait_for_end);
    master.settle(2);
    says(&master, 2, &["worker exited", "generation=1", "was killed by SIGKILL"]);
    master.check();
}

#[test]
fn a_program_that_does_not_handle_the_drain_signal_is_spared_it_until_the_deadline() {
    let master = python(&["naked=1"]).drain_timeout("2s").start();
    let mut connection = http::Connection::open(master.address()).expect("the port is open");
    let mut generation = move || connection.get("/").expect("an answer").text().split(' ').nth(1).map(str::to_owned);
    assert_eq!(generation().as_deref(), Some("1"));
    master.reload_well();
    assert_eq!(generation().as_deref(), Some("1"), "it serves on");
    master.settle(2);
    says(&master, 2, &["ERROR", "drain signal not handled"]);
    says(&master, 2, &["worker exited", "generation=1", "was killed by SIGKILL"]);
    master.check_but(&["drain signal not handled"]);
}

#[test]
fn the_drain_signal_can_be_another_one() {
    // One that the program does not handle, as the master finds out.
    let master = python(&[]).set("EVERPORT_DRAIN_SIGNAL", "USR2").drain_timeout("300ms").start();
    master.reload_well();
    master.log.wait_for(&["drain signal not handled", "SIGUSR2"]);
    master.settle(2);
    master.check_but(&["drain signal not handled"]);
}

#[test]
fn such_workers_are_shown_and_killed_as_others_are_but_know_no_pause() {
    let master = python(&[]).start();
    let status = master.status();
    let victim = status.active().remove(0);
    assert!(status.0["generations"][0]["workers"][0]["memory_bytes"].as_u64() > Some(1_000_000), "{status:#?}");
    let (code, said) = ask(&master.control(), "POST", &format!("/kill?worker={}", victim.worker)).expect("an answer");
    assert_eq!((code, &said["slot"]), (200, &victim.slot.into()), "{said:#}");
    master.wait_until("another fills the slot", |status| {
        status.active().len() == 2 && status.active().iter().all(|worker| worker.worker != victim.worker)
    });
    for (order, lines) in [("/pause", 2), ("/resume", 2)] {
        assert_eq!(ask(&master.control(), "POST", order).expect("an answer").0, 200);
        says(&master, lines, &["worker goes on accepting"]);
        let _served = who(master.address());
    }
    master.settle(2);
    master.check();
}

#[test]
fn a_program_that_dies_is_started_again() {
    let master = python(&[]).start();
    let victim = master.status().active()[0].pid.expect("it lives");
    process::signal(victim, Signal::SIGKILL);
    master.wait_until("another fills the slot", |status| {
        status.active().len() == 2 && status.active().iter().all(|worker| worker.pid != Some(victim))
    });
    let _served = who(master.address());
    master.check();
}

#[test]
fn what_a_dead_program_leaves_in_its_group_ends_with_it() {
    let master = in_front_of_gunicorn().start();
    let victim = master.status().active()[0].pid.expect("it lives");
    let both = || Some(process::children(victim)).filter(|children| children.len() == 2);
    let children = soon("gunicorn has both its children", both);
    process::signal(victim, Signal::SIGKILL);
    children.into_iter().for_each(process::wait_for_end);
    master.settle(2);
    master.check();
}

#[test]
fn programs_get_the_drain_signal_when_the_master_is_gone() {
    let master = python(&[]).start();
    let workers: Vec<u32> = master.status().active().iter().filter_map(|worker| worker.pid).collect();
    master.signal(Signal::SIGKILL);
    for worker in workers {
        assert_eq!(process::reap(worker), Some(0), "it drained");
    }
}

#[test]
fn a_listener_that_nobody_accepts_from_is_named() {
    let ended = Setup::cli(
        &["--protocol", "listen-fds", "--listen", "127.0.0.1:0?name=web", "--listen", "127.0.0.1:0?name=admin"],
        &["python3", &format!("{FIXTURES}/server.py")],
    )
    .ready_timeout("4s")
    .run_to_end();
    assert_eq!(ended.code(), Some(1), "{}", ended.errors);
    let unseen =
        ended.errors.lines().find(|line| line.contains("nothing showed that the worker was ready")).expect("a reason");
    assert!(unseen.contains("admin") && !unseen.contains("web"), "{unseen}");
}
