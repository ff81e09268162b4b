//! The configuration file: what `check` says of it, and what a reload makes of it.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::status::{Status, WorkerLine};
use crate::harness::{Ended, Line, Master, Setup, command, http, process, soon};

/// A file that the test writes.
struct File(PathBuf);

impl File {
    /// A file in the folder of a master that is about to be started.
    fn of(folder: &Path, text: &str) -> Self {
        let file = Self(folder.join("everport.toml"));
        file.write(text);
        file
    }

    /// In one step, as editors and deployments do it.
    fn write(&self, text: &str) {
        let draft = self.0.with_extension("draft");
        fs::write(&draft, text).expect("the folder is ours");
        fs::rename(draft, &self.0).expect("the folder is ours");
    }
}

/// The worker fixture as program, with listeners of its own.
fn program(listeners: &[&str]) -> String {
    let words: Vec<String> = [WORKER].iter().chain(listeners).map(|word| format!("{word:?}")).collect();
    format!("program = [{}]\n", words.join(", "))
}

/// A master with everything from its file.
fn start(text: &str) -> (Master, File) {
    let setup = Setup::program(CLI, &["run"]).unset("EVERPORT_WORKERS");
    let file = File::of(&setup.folder(), text);
    (setup.set("EVERPORT_CONFIG", file.0.as_path()).start(), file)
}

fn check(text: &str, flags: &[&str]) -> (PathBuf, Ended) {
    let setup = Setup::program(CLI, &["check"]).unset("EVERPORT_WORKERS");
    let file = File::of(&setup.folder(), text);
    let setup = setup.argument("--config").argument(file.0.as_path());
    let setup = flags.iter().fold(setup, |setup, flag| setup.argument(flag));
    (file.0, setup.run_to_end())
}

/// The address of the listener with this name.
fn address_of(master: &Master, name: &str) -> SocketAddr {
    let status = master.status();
    let listeners = status.0["listeners"].as_array().expect("a list").clone();
    let named = listeners.iter().find(|listener| listener["name"] == name);
    named
        .and_then(|listener| listener["address"].as_str()?.parse().ok())
        .unwrap_or_else(|| panic!("{name}: {status:?}"))
}

#[test]
fn check_prints_what_holds_and_where_it_comes_from() {
    let text = format!("{}workers = 3\n[[listener]]\naddress = \"127.0.0.1:0\"\n", program(&[]));
    let (file, ended) = check(&text, &["--drain-grace", "2s"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.errors);
    let lines: Vec<String> =
        ended.output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for expected in [
        format!("workers 3 {}:2", file.display()),
        format!("listener 127.0.0.1:0 {}:4", file.display()),
        "drain_grace 2s flag".to_owned(),
        "drain_timeout 10s environment".to_owned(),
        "policy rr default".to_owned(),
        "hang_timeout never default".to_owned(),
    ] {
        assert!(lines.contains(&expected), "no {expected:?} in {}", ended.output);
    }
    let (file, ended) = check(&text, &["--json"]);
    let json: Value = serde_json::from_str(&ended.output).expect("JSON");
    assert_eq!(json["workers"]["value"], 3);
    assert_eq!(json["workers"]["file"], file.to_str().expect("a plain path"));
    assert_eq!(json["workers"]["line"], 2);
    assert_eq!(json["drain_timeout"]["source"], "environment");
}

#[test]
fn a_wrong_file_is_refused_by_check_and_by_run_in_the_same_words() {
    let wrong = format!("{}\ndrain_timout = \"3s\"\n", program(&[]));
    let (file, ended) = check(&wrong, &[]);
    let expected = format!("everport: {}:3: unknown key drain_timout, want drain_timeout", file.display());
    assert_eq!((ended.code(), ended.errors, ended.output), (Some(2), expected, String::new()));

    let setup = Setup::program(CLI, &["run"]);
    let file = File::of(&setup.folder(), &wrong);
    let ended = setup.argument("--config").argument(file.0.as_path()).run_to_end();
    let expected = format!("everport: {}:3: unknown key drain_timout, want drain_timeout", file.0.display());
    assert_eq!((ended.code(), ended.errors), (Some(2), expected));
}

#[test]
fn a_reload_takes_up_workers_and_environment_and_program() {
    let (master, file) = start(&format!("{}workers = 1\n[env]\nCOLOUR = \"red\"\n", program(&["127.0.0.1:0"])));
    assert_eq!(master.line().ask("env COLOUR"), "red");
    // Nobody takes the settings of the master itself for the worker's.
    assert_eq!(master.line().ask("env EVERPORT_CONFIG"), "unset");
    let text = program(&["127.0.0.1:0", "--restless"]);
    file.write(&format!("{text}workers = 3\n[env]\nCOLOUR = \"blue\"\n"));
    assert_eq!(master.reload_well()["workers"], 3);
    master.settle(3);
    assert_eq!(master.line().ask("env COLOUR"), "blue");
    assert!(master.line().ask("args").ends_with("--restless"));
    file.write(&format!("{}workers = 1\n", program(&["127.0.0.1:0"])));
    master.hup();
    master.settle(1);
    assert_eq!(master.line().ask("env COLOUR"), "unset");
    master.check();
}

#[test]
fn a_wrong_file_rolls_the_reload_back_and_changes_nothing() {
    let good = format!("{}workers = 1\n", program(&["127.0.0.1:0"]));
    let (master, file) = start(&good);
    let mut kept = master.line();
    let before = kept.who();
    let table = [
        (format!("{good}probation = \"soon\"\n"), "3: invalid probation \"soon\": not a duration"),
        ("workers = 1\n".to_owned(), "no program: name it behind --, or as program in the configuration file"),
        (format!("{good}[[listener]]\naddress = \"unix:/nowhere/at/all\"\n"), "cannot listen on unix:/nowhere/at/all"),
        ("workers 1\n".to_owned(), "1: key with no value"),
    ];
    for (text, expected) in &table {
        file.write(text);
        let (committed, record) = master.reload();
        assert!(!committed);
        let reason = record["reason"].as_str().expect("a reason");
        assert!(reason.contains(expected), "{reason}");
    }
    fs::remove_file(&file.0).expect("it is there");
    let (_, record) = master.reload();
    assert!(record["reason"].as_str().expect("a reason").contains("No such file"), "{record}");
    assert_eq!(kept.who(), before);
    assert_eq!(master.line().who(), before);
    file.write(&good);
    master.reload_well();
    drop(kept);
    master.settle(1);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn what_belongs_to_the_master_changes_with_its_next_start_only() {
    let text = program(&["127.0.0.1:0"]);
    let (master, file) = start(&text);
    let pid_file = master.folder().join("pid");
    file.write(&format!("pid_file = {:?}\n{text}", pid_file.to_str().expect("a plain path")));
    master.reload_well();
    let words = "setting changed; it counts from the next start of the master on key=\"pid_file\"";
    master.log.wait_for(&[words]);
    assert!(!pid_file.exists());
}

#[test]
fn the_file_names_the_control_socket_to_commands_too() {
    let setup = Setup::program(CLI, &["run"]).unset("EVERPORT_CONTROL");
    let control = setup.control();
    let text = format!("control = {:?}\n{}", control.to_str().expect("a plain path"), program(&["127.0.0.1:0"]));
    let file = File::of(&setup.folder(), &text);
    let master = setup.argument("--config").argument(file.0.as_path()).start();
    let status = Setup::program(CLI, &["status", "--config"]).unset("EVERPORT_CONTROL").argument(file.0.as_path());
    let ended = status.run_to_end();
    assert!(ended.output.starts_with(&format!("master: pid {}", master.pid())), "{}", ended.output);
    master.check();
}

#[test]
fn a_listener_that_is_added_is_there_before_its_generation() {
    let (master, file) = start(&program(&["127.0.0.1:0"]));
    master.plan("g2 exit 3");
    let added = "[[listener]]\nname = \"extra\"\naddress = \"127.0.0.1:0\"\n";
    file.write(&format!("{}{added}", program(&["127.0.0.1:0", "127.0.0.1:0?name=extra"])));
    // Its first try is rolled back, and the listener goes with it.
    let (committed, _) = master.reload();
    assert!(!committed);
    master.log.wait_for(&["listener closed"]);
    assert_eq!(master.addresses().len(), 1);
    master.plan("");
    master.reload_well();
    let address = address_of(&master, "extra");
    assert_eq!(Line::connect(address).who().generation, 3);
}

/// Connects again and again, never twice at the same time, until the port is refused. Every connection before must be
/// answered.
fn knock(address: SocketAddr, started: &AtomicBool) -> usize {
    let mut answered = 0;
    loop {
        match Line::try_connect(address) {
            Ok(mut line) => {
                let who = line.try_who();
                assert!(who.is_ok(), "after {answered} answers: {who:?}");
                answered += 1;
                started.store(true, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return answered,
            Err(error) => panic!("after {answered} answers: {error}"),
        }
    }
}

#[test]
fn a_listener_that_is_removed_serves_everybody_until_it_is_gone() {
    for policy in ["rr", "none", "split"] {
        let extra = "[[listener]]\nname = \"extra\"\naddress = \"127.0.0.1:0\"\n";
        let head = format!("policy = \"{policy}\"\nworkers = 2\n");
        let (master, file) = start(&format!("{head}{}{extra}", program(&["127.0.0.1:0", "127.0.0.1:0?name=extra"])));
        let address = address_of(&master, "extra");
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let started = Arc::new(AtomicBool::new(false));
                let seen = Arc::clone(&started);
                (started, std::thread::spawn(move || knock(address, &seen)))
            })
            .collect();
        soon("every client was answered", || {
            clients.iter().all(|(started, _)| started.load(Ordering::Relaxed)).then_some(())
        });
        file.write(&format!("{head}{}", program(&["127.0.0.1:0"])));
        master.reload_well();
        for (_, client) in clients {
            let answered = client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(answered > 0);
        }
        master.settle(2);
        assert_eq!(master.addresses().len(), 1);
        master.stop();
    }
}

#[test]
fn a_relative_path_begins_where_the_master_was_started_by_the_name_that_it_had() {
    let setup = Setup::program(CLI, &["run", "--config", "everport.toml"]).unset("EVERPORT_WORKERS");
    let release = |name: &str, workers: u32| {
        let folder = setup.folder().join(name);
        fs::create_dir(&folder).expect("the folder is ours");
        File::of(&folder, &format!("{}workers = {workers}\n", program(&["127.0.0.1:0"])));
        folder
    };
    let (first, second) = (release("first", 1), release("second", 2));
    let current = setup.folder().join("current");
    std::os::unix::fs::symlink(&first, &current).expect("the folder is ours");
    let master = setup.working_directory(current.as_path()).start();
    assert_eq!(master.settle(1).workers().len(), 1);
    let draft = current.with_extension("new");
    std::os::unix::fs::symlink(&second, &draft).expect("the folder is ours");
    fs::rename(&draft, &current).expect("the folder is ours");
    master.reload_well();
    master.settle(2);
    master.stop();
}

/// It gets what its file names, and nothing that only another generation has.
#[test]
fn a_program_that_knows_nothing_of_everport_gets_the_listeners_of_its_file() {
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/foreign/server.py");
    let head = format!("program = [\"python3\", {server:?}]\nworkers = 1\nprotocol = \"listen-fds\"\n");
    let listener = |name: &str| format!("[[listener]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n");
    let (master, file) = start(&format!("{head}{}", listener("old")));
    let old = address_of(&master, "old");
    // The process, its generation, and the names of its listeners.
    let says = |address, words: &str| http::get(address, "/").expect("an answer").text().ends_with(words);
    assert!(says(old, " 1 old\n"));
    file.write(&format!("{head}{}", listener("new")));
    master.reload_well();
    assert!(says(address_of(&master, "new"), " 2 new\n"));
    master.settle(1);
    assert_eq!(master.addresses().len(), 1);
    let refused = Line::try_connect(old).expect_err("the listener has gone");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    master.stop();
}

#[test]
fn a_listener_that_stays_takes_up_its_new_options_with_the_commit_and_not_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("app.sock");
    let address = format!("unix:{}", socket.display());
    let text = |options: &str| format!("{}[[listener]]\naddress = \"{address}{options}\"\n", program(&[&address]));
    let mode = || fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777;
    let (master, file) = start(&text("?mode=0600&backlog=8"));
    assert_eq!(mode(), 0o600);
    master.plan("g2 exit 3");
    file.write(&text("?mode=0660&backlog=16"));
    assert!(!master.reload().0);
    assert_eq!((mode(), master.log.count(&["listener changed"])), (0o600, 0));
    master.plan("");
    master.reload_well();
    assert_eq!(mode(), 0o660);
    master.log.wait_for(&["listener changed", "backlog=16"]);
    assert_eq!(Line::connect_unix(&socket).expect("it listens").who().generation, 3);
}

#[test]
fn privileges_are_those_of_each_generation_also_for_the_worker_that_follows_a_crash() {
    let text = |nice: i64| format!("workers = 1\nprobation = \"1h\"\nnice = {nice}\n{}", program(&["127.0.0.1:0"]));
    let (master, file) = start(&text(5));
    file.write(&text(7));
    assert_eq!(command(&master, &["reload", "--no-wait"]).code(), Some(0));
    let nices = |status: &Status| -> Vec<_> {
        let seen = |worker: &WorkerLine| (worker.generation, worker.state.clone(), worker.pid.map(process::nice));
        status.workers().iter().map(seen).collect()
    };
    let both = [(1, "paused".to_owned(), Some(5)), (2, "active".to_owned(), Some(7))];
    let status = master.wait_until("the new one is on probation", |status| {
        status.workers().iter().map(|worker| worker.state.as_str()).eq(["paused", "active"])
    });
    assert_eq!(nices(&status), both);
    let old = status.workers()[0].pid.expect("it lives");
    process::signal(old, Signal::SIGKILL);
    let status = master.wait_until("the old one has been replaced", |status| {
        let workers = status.workers();
        workers.len() == 2 && workers[0].state == "ready" && workers[0].pid != Some(old)
    });
    assert_eq!(nices(&status)[0], (1, "ready".to_owned(), Some(5)));
    assert_eq!(command(&master, &["rollback"]).code(), Some(0));
    let status = master.settle(1);
    assert_eq!(nices(&status), [(1, "active".to_owned(), Some(5))]);
    master.check();
}
