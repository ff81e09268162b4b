//! A master that lives for years: its log files, and its life in the background.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};

use crate::harness::setup::{CLI, WORKER};
use crate::harness::status::{self, Status};
use crate::harness::{Master, Setup, process, soon};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Waits for a line with all these words in a file.
#[track_caller]
fn wait_for_line(path: &Path, words: &[&str]) {
    soon(&format!("a line with {words:?} in {}", path.display()), || {
        text(path).lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}

#[test]
fn lines_of_many_workers_never_tear_in_their_one_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("workers.log");
    let master = Setup::lines().workers(4).set("EVERPORT_WORKER_LOG_FILE", &log).start();
    let mut lines: Vec<_> = (0..4).map(|slot| master.line_to(slot)).collect();
    // All at once: told first, heard later.
    for (slot, line) in lines.iter_mut().enumerate() {
        line.tell(&format!("print worker-{slot} 500"));
    }
    for line in &mut lines {
        assert_eq!(line.hear().expect("an answer"), "ok");
    }
    drop(lines);
    let ended = master.stop();
    assert!(!ended.output.contains("worker-") && !ended.errors.contains("worker-"), "{}", ended.errors);
    let stream = |slot, stream| (0..500).map(move |line| format!("worker-{slot} {stream} {line}"));
    let expected: BTreeSet<String> = (0..4).flat_map(|slot| stream(slot, "out").chain(stream(slot, "err"))).collect();
    let text = text(&log);
    // Workers log on standard error too.
    let seen: Vec<String> = text.lines().filter(|line| line.contains("worker-")).map(str::to_owned).collect();
    assert_eq!(seen.len(), expected.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// What logrotate does: move the files away, ask for new ones.
#[test]
fn log_files_are_opened_again_by_signal_and_by_command() {
    let setup = Setup::lines().workers(1);
    let folder = setup.folder();
    let (log, workers) = (folder.join("master.log"), folder.join("workers.log"));
    let master = setup.set("EVERPORT_LOG_FILE", &log).set("EVERPORT_WORKER_LOG_FILE", &workers).start();
    wait_for_line(&log, &["worker ready"]);
    let mut line = master.line();
    let ask: [&dyn Fn(); 2] = [&|| master.signal(Signal::SIGUSR1), &|| {
        let output = Command::new(CLI).args(["reopen", "--control"]).arg(master.control()).output().expect("our own");
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, format!("reopened: {}\nreopened: {}\n", log.display(), workers.display()));
    }];
    for (number, ask) in ask.into_iter().enumerate() {
        assert_eq!(line.ask(&format!("print before-{number} 1")), "ok");
        wait_for_line(&workers, &[&format!("before-{number} err")]);
        wait_for_line(&workers, &[&format!("before-{number} out")]);
        let (old, old_workers) = (folder.join(format!("old.{number}")), folder.join(format!("old-workers.{number}")));
        fs::rename(&log, &old).expect("our own folder");
        fs::rename(&workers, &old_workers).expect("our own folder");
        ask();
        wait_for_line(&log, &["log files reopened", "files=2"]);
        assert_eq!(line.ask(&format!("print after-{number} 1")), "ok");
        wait_for_line(&workers, &[&format!("after-{number} out")]);
        assert!(text(&old_workers).contains(&format!("before-{number} out")));
        assert!(!text(&old_workers).contains("after-") || number == 1);
        assert!(!text(&workers).contains(&format!("before-{number}")));
    }
    drop(line);
    assert_eq!(master.log.text(), "", "with a file, standard error says nothing");
    master.check();
}

#[test]
fn a_log_that_cannot_be_opened_again_is_told_and_the_old_one_goes_on() {
    let setup = Setup::lines();
    let folder = setup.folder().join("logs");
    fs::create_dir(&folder).expect("our own folder");
    let log = folder.join("workers.log");
    let master = setup.set("EVERPORT_WORKER_LOG_FILE", &log).start();
    let moved = master.folder().join("moved");
    fs::rename(&folder, &moved).expect("our own folder");
    let (code, answer) = status::ask(&master.control(), "POST", "/reopen").expect("an answer");
    assert_eq!(code, 500);
    let reason = answer["failures"][0].as_str().expect("a reason");
    assert!(reason.contains("cannot open the log file") && reason.contains("again"), "{reason}");
    let output = Command::new(CLI).args(["reopen", "--control"]).arg(master.control()).output().expect("our own");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("everport: not opened again: cannot open the log"));
    assert_eq!(master.line().ask("print still 1"), "ok");
    wait_for_line(&moved.join("workers.log"), &["still out 0"]);
    master.check();
}

#[test]
fn a_full_disk_for_logs_holds_nobody_up_and_is_told_once() {
    let master = Setup::lines().set("EVERPORT_WORKER_LOG_FILE", "/dev/full").start();
    assert_eq!(master.line().ask("print lost 5000"), "ok", "a worker does not wait for the disk");
    master.log.wait_for(&["worker log not written", "No space left on device"]);
    master.reload_well();
    master.settle(2);
    assert_eq!(master.line().ask("print lost 5000"), "ok");
    assert_eq!(master.log.count(&["worker log not written"]), 1);
    master.check();

    let master = Setup::lines().set("EVERPORT_LOG_FILE", "/dev/full").start();
    master.log.wait_for(&["everport: cannot write the log file \"/dev/full\"", "No space left on device"]);
    master.reload_well();
    master.settle(2);
    assert_eq!(master.line().who().generation, 2);
    let ended = master.stop();
    assert_eq!(ended.errors.lines().filter(|line| line.contains("cannot write the log file")).count(), 1);
}

#[test]
fn workers_that_outlive_the_master_are_not_ended_by_what_they_print() {
    let setup = Setup::lines().workers(1);
    let log = setup.folder().join("workers.log");
    let master = setup.set("EVERPORT_WORKER_LOG_FILE", log).start();
    let mut line = master.line();
    let pid = line.who().pid;
    master.signal(Signal::SIGKILL);
    process::wait_for_end(master.pid());
    // It has noticed when it lets go of the pipe that nobody reads.
    soon("the worker prints to nowhere", || {
        let target = fs::read_link(format!("/proc/{pid}/fd/1")).ok()?;
        (target == Path::new("/dev/null")).then_some(())
    });
    assert_eq!(line.ask("print unheard 10"), "ok");
    drop(line);
    assert_eq!(process::reap(pid), Some(110));
}

/// A master in the background, and the process that started it.
struct Background {
    /// Sweeps up when it is dropped.
    starter: Master,
}

impl Background {
    fn status(&self) -> Status {
        soon("the control socket answers", || self.starter.try_status())
    }

    fn pid(&self) -> u32 {
        self.status().0["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a pid")
    }
}

fn in_the_background(setup: Setup) -> Background {
    let starter = setup.set("EVERPORT_DAEMON", "true").launch();
    process::wait_for_end(starter.pid());
    Background { starter }
}

#[test]
fn a_daemon_serves_when_the_command_returns_and_holds_nothing_of_its_terminal() {
    for embedded in [false, true] {
        let setup = match embedded {
            false => Setup::cli(&["--listen", "127.0.0.1:0"], &[WORKER, "127.0.0.1:0"]),
            true => Setup::lines(),
        };
        let (log, pid_file) = (setup.folder().join("log"), setup.folder().join("pid"));
        let background = in_the_background(setup.set("EVERPORT_LOG_FILE", &log).set("EVERPORT_PID_FILE", &pid_file));
        // At once: it serves before the command returns.
        let status = background.starter.try_status().expect("it serves");
        assert_eq!(status.state(), "running");
        let pid = background.pid();
        assert_ne!(pid, background.starter.pid());
        assert_eq!(text(&pid_file), format!("{pid}\n"));
        // Both streams have come to their ends: nobody holds them.
        background.starter.output.wait_for_end();
        background.starter.log.wait_for_end();
        assert_eq!(background.starter.log.text(), "");
        let native = |pid: u32| Pid::from_raw(pid.cast_signed());
        let session = getsid(Some(native(pid))).expect("it lives");
        assert_ne!(session, getsid(None).expect("our own session"));
        assert_ne!(session, native(pid), "the leader of a session could get a terminal");
        // It reloads like any other, by the program's own name.
        process::signal(pid, Signal::SIGHUP);
        soon("the second generation serves", || {
            let status = background.starter.try_status()?;
            let is_second = |worker: &status::WorkerLine| worker.generation == 2;
            (status.active().len() == 2 && status.active().iter().all(is_second)).then_some(())
        });
        let worker = status.active()[0].clone();
        assert!(worker.pid.is_some());
        let output = Command::new(CLI).args(["stop", "--control"]).arg(background.starter.control()).output();
        assert!(output.expect("our own").status.success());
        assert_eq!(process::reap(pid), Some(0));
        assert!(!pid_file.exists());
        assert!(text(&log).contains("master stopped"));
        assert_eq!(background.starter.wait().code(), Some(0), "of the command that started it");
    }
}

#[test]
fn a_daemon_that_cannot_start_is_a_failed_command_with_the_reason() {
    let table = [
        (Setup::lines().plan("* exit 3"), "the first generation failed: ", "exited with code 3"),
        (Setup::lines().set("EVERPORT_USER", "no-such-user"), "there is no user", "no-such-user"),
        (Setup::lines().ready_timeout("300ms").plan("* never-ready"), "the first generation failed: ", "was not ready"),
    ];
    for (setup, reason, detail) in table {
        let ended = setup.set("EVERPORT_DAEMON", "true").run_to_end();
        assert_eq!(ended.code(), Some(1), "{}", ended.errors);
        let line = ended.errors.lines().find(|line| line.contains(reason));
        assert!(line.is_some_and(|line| line.contains(detail)), "{}", ended.errors);
        assert!(ended.errors.contains("the master has not started in the background"), "{}", ended.errors);
    }
}

#[test]
fn a_second_daemon_with_the_same_pid_file_is_refused() {
    let setup = Setup::lines();
    let pid_file = setup.folder().join("pid");
    let first = in_the_background(setup.set("EVERPORT_PID_FILE", &pid_file));
    let pid = first.pid();
    // It has no log file, and says so while somebody can read it.
    first.starter.log.wait_for(&["WARN", "nothing of the log is kept", "--log-file"]);
    let ended = Setup::lines().set("EVERPORT_DAEMON", "true").set("EVERPORT_PID_FILE", &pid_file).run_to_end();
    assert_eq!(ended.code(), Some(1));
    assert!(ended.errors.contains(&format!("is taken by process {pid}")), "{}", ended.errors);
    process::signal(pid, Signal::SIGTERM);
    assert_eq!(process::reap(pid), Some(0));
}
