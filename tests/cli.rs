//! The `everport` command, and every way to start it, or an embedded master, wrongly.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::{Master, Setup, command};

fn run_two_workers() -> Master {
    Setup::cli(&["--listen", "127.0.0.1:0", "--workers", "2"], &[WORKER, "127.0.0.1:0"]).start()
}

#[test]
fn run_puts_a_master_in_front_of_a_program() {
    let master = run_two_workers();
    let address = master.address();
    assert_eq!(master.status().addresses().len(), 1, "the worker's `bind` gave it the configured listener");
    assert_eq!(master.line_to(1).who().generation, 1);
    master.reload_well();
    assert_eq!(master.address(), address);
    assert_eq!(master.line().who().generation, 2);
    master.settle(2);
    master.check();
}

#[test]
fn reload_says_what_it_did_and_exits_with_the_outcome() {
    let master = run_two_workers();
    let done = command(&master, &["reload"]);
    assert_eq!(done.code(), Some(0), "{}", done.errors);
    assert!(done.output.contains("generation 2"), "{}", done.output);
    master.plan("g3 exit 42");
    let failed = command(&master, &["reload"]);
    assert_eq!(failed.code(), Some(1));
    assert!(failed.errors.contains("42") && failed.errors.contains("rolled back"), "{}", failed.errors);
    assert_eq!(failed.output, "");
    master.plan("");
    master.settle(2);
    master.check_but(&["reload rolled back"]);
}

#[test]
fn status_is_a_table_or_json() {
    let master = run_two_workers();
    let table = command(&master, &["status"]);
    assert_eq!(table.code(), Some(0), "{}", table.errors);
    for worker in master.status().active() {
        let pid = worker.pid.expect("it lives").to_string();
        assert!(table.output.contains(&pid), "{}", table.output);
    }
    assert!(table.output.contains(&master.address().to_string()), "{}", table.output);
    let json = command(&master, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.output).expect("JSON");
    assert_eq!(json["pid"], master.pid());
    master.check();
}

#[test]
fn stop_drains_and_stop_now_does_not() {
    let master = run_two_workers();
    let mut line = master.line();
    let me = line.who();
    assert_eq!(command(&master, &["stop", "--now"]).code(), Some(0));
    assert!(line.ends());
    assert_eq!(master.wait().code(), Some(0));
    assert!(me.pid > 0);

    let master = run_two_workers();
    let mut line = master.line();
    let me = line.who();
    let stop = std::thread::scope(|scope| {
        let stop = scope.spawn(|| command(&master, &["stop"]));
        master.wait_until("the master stops", |status| status.state() == "stopping");
        assert_eq!(line.who(), me);
        drop(line);
        stop.join().expect("no panic")
    });
    assert_eq!(stop.code(), Some(0), "{}", stop.errors);
    assert_eq!(master.wait().code(), Some(0));
}

#[test]
fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
    let flags = ["--listen", "127.0.0.1:0", "--workers", "1", "--policy", "none"];
    let master = Setup::cli(&flags, &[WORKER, "127.0.0.1:0"]).workers(3).policy("rr").start();
    let status = master.status();
    assert_eq!((status.active().len(), status.0["policy"].as_str()), (1, Some("none")));
    master.check();
    let master = Setup::lines().workers(3).policy("shared").start();
    let status = master.status();
    assert_eq!((status.active().len(), status.0["policy"].as_str()), (3, Some("none")));
    master.check();
    // Without both: as many as there are processors for this process.
    let master = Setup::lines().unset("EVERPORT_WORKERS").start();
    let processors = std::thread::available_parallelism().expect("it is known").get();
    assert_eq!(master.status().active().len(), processors);
    master.check();
}

#[test]
fn the_pid_file_names_the_master_as_long_as_it_lives() {
    let setup = Setup::lines();
    let path = setup.folder().join("pid");
    let master = setup.set("EVERPORT_PID_FILE", &path).start();
    assert_eq!(std::fs::read_to_string(&path).expect("the file").trim(), master.pid().to_string());
    let second = Setup::lines().set("EVERPORT_PID_FILE", &path).run_to_end();
    assert_eq!(second.code(), Some(1), "{}", second.errors);
    assert!(second.errors.contains(&master.pid().to_string()), "{}", second.errors);
    master.reload_well();
    master.settle(2);
    assert_eq!(std::fs::read_to_string(&path).expect("the file").trim(), master.pid().to_string());
    let folder = path.parent().expect("a folder").to_owned();
    master.check();
    assert!(!folder.exists() || !path.exists());
}

#[test]
fn a_command_without_a_master_says_so() {
    for words in [&["status"][..], &["reload"], &["stop"], &["status", "--json"]] {
        let ended = Setup::program(CLI, words).run_to_end();
        assert_eq!(ended.code(), Some(1), "{words:?}: {}", ended.errors);
        assert!(ended.errors.contains("control"), "{words:?}: {}", ended.errors);
        let ended = Setup::program(CLI, words).unset("EVERPORT_CONTROL").run_to_end();
        assert!(matches!(ended.code(), Some(1 | 2)), "{words:?}: {}", ended.errors);
        assert!(ended.errors.contains("--control"), "{words:?}: {}", ended.errors);
    }
}

/// A start that fails: one clear line with these words, this code, no process left, no panic.
#[track_caller]
fn fails(setup: Setup, code: i32, words: &[&str]) {
    let ended = setup.run_to_end();
    assert_eq!(ended.code(), Some(code), "{}", ended.errors);
    let line = ended.errors.lines().find(|line| words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "no line with {words:?} in: {}", ended.errors);
    assert!(!ended.errors.contains("panicked"), "{}", ended.errors);
}

#[test]
fn wrong_flags_are_named() {
    let cases: [(&[&str], &[&str]); 13] = [
        (&["--policy", "fastest"], &["--policy", "fastest", "rr", "none", "least", "p2c", "hash"]),
        (&["--listen", "127.0.0.1:99999"], &["--listen", "99999"]),
        (&["--listen", "nonsense:1:2:3"], &["--listen", "nonsense"]),
        (&["--listen", "127.0.0.1:0?color=red"], &["--listen", "color"]),
        (&["--workers", "0"], &["--workers", "0"]),
        (&["--workers", "many"], &["--workers", "many"]),
        (&["--workers", "-1"], &["-1"]),
        (&["--drain-timeout", "soon"], &["--drain-timeout", "soon"]),
        (&["--drain-timeout", "30"], &["--drain-timeout", "30"]),
        (&["--ready-timeout", "0s"], &["--ready-timeout", "0s"]),
        (&["--ready", "perhaps"], &["--ready", "perhaps"]),
        (&["--colour"], &["--colour"]),
        (&["--pid-file", ""], &["--pid-file"]),
    ];
    for (flags, words) in cases {
        fails(Setup::cli(flags, &[WORKER, "127.0.0.1:0"]), 2, words);
    }
    fails(Setup::program(CLI, &["run", "--listen", "127.0.0.1:0"]), 2, &["no program"]);
    fails(Setup::program(CLI, &["restart"]), 2, &["restart"]);
}

#[test]
fn wrong_variables_are_named() {
    let cases: [(&'static str, &str, &[&str]); 10] = [
        ("EVERPORT_SCHED_POLICY", "fastest", &["fastest", "rr", "none"]),
        ("EVERPORT_SCHED_POLICY", "RR ", &["RR "]),
        ("EVERPORT_WORKERS", "0", &["0"]),
        ("EVERPORT_WORKERS", "99999999999999999999", &["9999"]),
        ("EVERPORT_WORKERS", "2.5", &["2.5"]),
        ("EVERPORT_DRAIN_TIMEOUT", "-1s", &["-1s"]),
        ("EVERPORT_READY_TIMEOUT", "1 fortnight", &["fortnight"]),
        ("EVERPORT_LOG_FORMAT", "xml", &["xml", "json"]),
        ("RUST_LOG", "everport=loud", &["loud"]),
        ("EVERPORT_CONTROL", "/nowhere/at/all/control", &["/nowhere/at/all/control"]),
    ];
    for (name, value, words) in cases {
        for embedded in [true, false] {
            let setup = match embedded {
                true => Setup::lines(),
                false => Setup::cli(&[], &[WORKER, "127.0.0.1:0"]),
            };
            let ended = setup.set(name, value).run_to_end();
            assert!(matches!(ended.code(), Some(1 | 2)), "{name}={value}: {}", ended.errors);
            let lines: Vec<&str> = ended.errors.lines().collect();
            let told = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
            assert!(told, "{name}={value}: {}", ended.errors);
            assert!(name == "EVERPORT_CONTROL" || ended.errors.contains(name), "{name}={value}: {}", ended.errors);
        }
    }
}

#[test]
fn an_empty_variable_is_as_good_as_none() {
    let master = Setup::lines()
        .set("EVERPORT_SCHED_POLICY", "")
        .set("EVERPORT_PID_FILE", "")
        .set("EVERPORT_LOG_FORMAT", "")
        .set("RUST_LOG", "")
        .start();
    assert_eq!(master.status().0["policy"], "rr");
    master.check();
}

#[test]
fn a_program_that_cannot_be_run_is_named() {
    let run = |program: &str| Setup::cli(&["--listen", "127.0.0.1:0"], &[program]);
    fails(run("/no/such/program"), 1, &["/no/such/program", "No such file"]);
    fails(run("no-such-program-anywhere"), 1, &["no-such-program-anywhere"]);
    fails(run("/etc/passwd"), 1, &["/etc/passwd", "ermission denied"]);
    fails(run("/tmp"), 1, &["/tmp"]);
}

/// parallel/test-cluster-bind-twice.js: a second master on the port of another fails loudly.
#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    fails(Setup::cli(&["--listen", &address], &[WORKER, &address]), 1, &[&address, "in use"]);
    let first = Setup::lines().start();
    let address = first.address().to_string();
    for policy in ["rr", "none"] {
        fails(Setup::cli(&["--listen", &address, "--policy", policy], &[WORKER, &address]), 1, &[&address, "in use"]);
    }
    // Asked for by a worker it is the worker's error, and the first generation's end.
    fails(Setup::lines_on(&[&address]), 1, &["in use"]);
    first.check();
}

#[test]
fn a_unix_socket_that_lives_is_not_taken_and_one_that_is_dead_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("socket");
    let address = format!("unix:{}", path.display());
    let living = UnixListener::bind(&path).expect("a free path");
    fails(Setup::cli(&["--listen", &address], &[WORKER, &address]), 1, &[&address, "live"]);
    assert!(path.exists());
    drop(living);
    let master = Setup::cli(&["--listen", &address], &[WORKER, &address]).start();
    let mut line = crate::harness::Line::connect_unix(&path).expect("the new socket");
    assert_eq!(line.who().generation, 1);
    drop(line);
    master.check();
    assert!(!path.exists(), "the file goes with the master");
    let no_socket = Path::new(folder.path()).join("notes");
    std::fs::write(&no_socket, "dear diary").expect("the folder is ours");
    let address = format!("unix:{}", no_socket.display());
    fails(Setup::cli(&["--listen", &address], &[WORKER, &address]), 1, &["notes"]);
    assert_eq!(std::fs::read_to_string(&no_socket).expect("the file"), "dear diary");
}

#[test]
fn logs_are_text_or_json_and_as_loud_as_asked() {
    let master = Setup::lines().set("EVERPORT_LOG_FORMAT", "json").start();
    for line in master.log.lines() {
        let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(json["level"].is_string(), "{line}");
    }
    assert!(!master.log.lines().is_empty());
    master.stop();
    let master = Setup::lines().set("RUST_LOG", "error").start();
    master.reload_well();
    assert_eq!(master.stop().errors, "");
}

#[test]
fn help_and_version_are_there() {
    for words in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let ended = Setup::program(CLI, words).run_to_end();
        assert_eq!(ended.code(), Some(0));
        assert!(!ended.output.is_empty());
    }
    let help = Setup::program(CLI, &["run", "--help"]).run_to_end().output;
    for word in ["--listen", "--workers", "--policy", "--pid-file", "--control", "--drain-timeout", "--ready-timeout"] {
        assert!(help.contains(word), "{word} is missing in:\n{help}");
    }
}
