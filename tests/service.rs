//! A master under a service manager, and as process 1 of a container.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::{Line, Master, PATIENCE, Setup, process, soon};

/// A service manager as sd_notify(3) describes it.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("our own folder");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time");
        Self { socket, path, _folder: folder }
    }

    fn hear(&self) -> io::Result<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next message that is no status and no sign of life.
    #[track_caller]
    fn next(&self) -> String {
        loop {
            let message = self.hear().expect("a message");
            if !message.starts_with("STATUS=") && message != "WATCHDOG=1\n" {
                return message;
            }
        }
    }

    /// Waits for a status with these words.
    #[track_caller]
    fn wait_for_status(&self, words: &str) {
        loop {
            let message = self.hear().unwrap_or_else(|error| panic!("no status with {words}: {error}"));
            if message.starts_with("STATUS=") && message.contains(words) {
                return;
            }
        }
    }
}

#[test]
fn the_manager_is_told_of_start_reload_rollback_and_stop() {
    let manager = Manager::new();
    let master = Setup::lines().set("NOTIFY_SOCKET", &manager.path).start();
    assert_eq!(manager.next(), "READY=1\n");
    manager.wait_for_status("generation 1: 2 workers serve");
    let reloading = |manager: &Manager| {
        let message = manager.next();
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").map(str::trim_end);
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{message}");
    };
    master.hup();
    reloading(&manager);
    assert_eq!(manager.next(), "READY=1\n");
    manager.wait_for_status("generation 2: 2 workers serve");
    master.plan("g3 exit 5");
    let (committed, _) = master.reload();
    assert!(!committed);
    reloading(&manager);
    assert_eq!(manager.next(), "READY=1\n", "the old generation serves, and is what the manager keeps");
    manager.wait_for_status("rolled back: ");
    // It is the master's affair and not that of the workers.
    assert_eq!(master.line().ask("env NOTIFY_SOCKET"), "unset");
    master.plan("");
    master.check_but(&["reload rolled back"]);
    assert_eq!(manager.next(), "STOPPING=1\n");
}

#[test]
fn the_manager_is_not_told_that_a_failed_start_is_ready() {
    let manager = Manager::new();
    let ended = Setup::lines().set("NOTIFY_SOCKET", &manager.path).plan("* exit 5").run_to_end();
    assert_eq!(ended.code(), Some(1));
    manager.socket.set_nonblocking(true).expect("our own socket");
    while let Ok(message) = manager.hear() {
        assert!(!message.contains("READY=1"), "{message}");
    }
}

#[test]
fn signs_of_life_come_at_half_of_the_watchdogs_time() {
    let manager = Manager::new();
    let master = Setup::lines().set("NOTIFY_SOCKET", &manager.path).set("WATCHDOG_USEC", "200000").start();
    assert_eq!(manager.next(), "READY=1\n");
    manager.socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time");
    let ((), took) = crate::harness::http::timed(|| {
        let mut signs = 0;
        while signs < 10 {
            signs += u32::from(manager.hear().expect("a sign of life") == "WATCHDOG=1\n");
        }
    });
    assert!(took >= Duration::from_millis(850), "ten signs in {took:?}");
    assert_eq!(master.line().ask("env WATCHDOG_USEC"), "unset");
    master.check();
}

#[test]
fn a_manager_that_does_not_listen_holds_nobody_up() {
    let manager = Manager::new();
    let master = Setup::lines().set("NOTIFY_SOCKET", &manager.path).set("WATCHDOG_USEC", "2000").start();
    // Its queue is full after a few signs of life.
    master.log.pass(Duration::from_millis(300));
    master.reload_well();
    assert_eq!(master.line().who().generation, 2);
    drop(manager);
    master.log.wait_for(&["service manager not told"]);
    master.reload_well();
    assert_eq!(master.line().who().generation, 3);
    master.stop();
}

/// The whole way of a socket with a name, from systemd's own tool to a client.
#[test]
fn a_socket_that_systemd_bound_is_served_under_its_name() {
    // Nobody else binds below this address, so that the port stays free until systemd's tool has it.
    let free = TcpListener::bind("127.83.68.1:0").expect("a free port");
    let address = free.local_addr().expect("a bound socket");
    drop(free);
    let listen = format!("--listen={address}");
    let pass = ["EVERPORT_CONTROL", "EVERPORT_WORKERS", process::MARK].map(|name| format!("--setenv={name}"));
    let mut words = vec![listen.as_str(), "--fdname=web"];
    words.extend(pass.iter().map(String::as_str));
    words.extend([CLI, "run", "--listen", "systemd:web", "--", WORKER, "systemd:web"]);
    let master = Setup::program("systemd-socket-activate", &words).launch();
    // It starts the service when the first client comes, which waits until that serves.
    let mut line = soon("a connection", || Line::try_connect(address).ok());
    assert_eq!(line.who().generation, 1);
    assert_eq!(master.status().0["listeners"][0]["name"], "systemd:web");
    assert_eq!(line.ask("env LISTEN_FDS"), "unset", "the sockets are the master's");
    master.reload_well();
    let mut next = Line::connect(address);
    assert_eq!(next.who().generation, 2);
    drop((line, next));
    master.settle(2);
    assert_eq!(master.stop().code(), Some(0));
}

/// What systemd-analyze has to say of a unit, but for what its version cannot know.
fn verify(unit: &Path) -> Vec<String> {
    let output = Command::new("systemd-analyze").arg("verify").arg(unit).output();
    let output = output.expect("systemd-analyze, of the package systemd");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Type=notify-reload came with systemd 253.
    let known = |line: &&str| !line.contains("Failed to parse service type, ignoring: notify-reload");
    said.lines().filter(known).map(str::to_owned).collect()
}

#[test]
fn a_printed_unit_is_one_that_systemd_accepts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = Command::new(CLI)
        .args(["unit", "--listen", "127.0.0.1:8000", "--drain-timeout", "1m", "--", WORKER, "50%", "$HOME", "a b"])
        .env("EVERPORT_WORKERS", "3")
        .output()
        .expect("our own");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let command = format!("ExecStart={CLI} run --listen 127.0.0.1:8000 --drain-timeout 1m -- {WORKER} 50%% ");
    assert!(text.contains(&command), "{text}");
    for line in ["Type=notify-reload", "KillMode=mixed", "TimeoutStopSec=70", "Environment=EVERPORT_WORKERS=3"] {
        assert!(text.lines().any(|found| found == line), "no {line} in:\n{text}");
    }
    let unit = folder.path().join("printed.service");
    fs::write(&unit, text).expect("our own folder");
    assert_eq!(verify(&unit), Vec::<String>::new());

    let output = Command::new(CLI).args(["unit", "--daemon", "--", "true"]).output().expect("our own");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_units_in_ops_are_ones_that_systemd_accepts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops/systemd");
    for name in ["everport.service", "everport.socket"] {
        let text = fs::read_to_string(units.join(name)).expect("a unit");
        // The program is installed on the machine that the unit is for.
        let text = text.replace("/usr/local/bin/everport", CLI).replace("/srv/app/server", WORKER);
        fs::write(folder.path().join(name), text).expect("our own folder");
    }
    for name in ["everport.service", "everport.socket"] {
        assert_eq!(verify(&folder.path().join(name)), Vec::<String>::new(), "{name}");
    }
}

/// The command as process 1 of a new pid namespace, as in a container, and its pid outside.
fn as_process_1(program: &[&str]) -> (Master, u32) {
    let mut words = vec!["--pid", "--fork", "--mount-proc", "--kill-child"];
    if !geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend([CLI, "run", "--"]);
    words.extend(program);
    let master = Setup::program("unshare", &words).launch();
    master.wait_until("the first generation serves", |status| status.state() == "running");
    let pid = process::children(master.pid())[0];
    (master, pid)
}

#[test]
fn process_1_reaps_what_it_adopts_and_loses_no_exit_status() {
    let (master, pid) = as_process_1(&[WORKER, "127.0.0.1:0"]);
    assert_eq!(master.status().0["pid"], 1);
    for round in 1..=3 {
        let mut line = master.line();
        assert_eq!(line.ask("orphans 50"), "ok");
        // A worker ends amid the others, and its code is told.
        line.tell("exit 7");
        assert!(line.ends());
        soon("its exit is told", || {
            (master.log.count(&["worker exited", "exited with code 7"]) == round).then_some(())
        });
        master.wait_until("it is replaced", |status| status.active().len() == 2);
    }
    soon("all orphans are reaped", || (process::children(pid).len() == 2).then_some(()));
    assert_eq!(master.log.count(&["exit status lost"]), 0);
    process::signal(pid, Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}

/// `docker kill -s HUP`: from outside the namespace, where the sender has no pid that process 1 could see.
#[test]
fn process_1_reloads_and_stops_by_signals_from_outside() {
    let (master, pid) = as_process_1(&[WORKER, "127.0.0.1:0"]);
    process::signal(pid, Signal::SIGHUP);
    master.wait_until("the second generation serves", |status| {
        status.active().len() == 2 && status.active().iter().all(|worker| worker.generation == 2)
    });
    assert_eq!(master.status().0["last_reload"]["asked_by"]["pid"], 0);
    process::signal(pid, Signal::SIGTERM);
    assert_eq!(master.wait().code(), Some(0));
}
