//! As whom and within what workers run.
//!
//! Only root can give workers another user. Without root, those tests see to it that it is refused.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use landlock::{ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
use nix::unistd::{User, geteuid};
use tempfile::TempDir;

use crate::harness::setup::{CLI, WORKER};
use crate::harness::{Line, Setup, process};

/// The worker fixture where every user may run it.
fn public_worker() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let worker = folder.path().join("worker");
    fs::copy(WORKER, &worker).expect("our own folder");
    (folder, worker)
}

/// A line of `/proc/PID/status`.
fn status_of(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The soft limit of descriptors.
fn nofile_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).expect("a living process");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("every kernel has it");
    line.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).expect("a number")
}

/// A port that only root may bind, if root is who we are; else any.
fn low_port() -> u16 {
    let low = || (600..1000).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port");
    if geteuid().is_root() { low() } else { 0 }
}

#[test]
fn workers_run_as_the_user_in_every_generation_and_the_master_keeps_the_low_port() {
    let (_folder, worker) = public_worker();
    let address = format!("127.0.0.1:{}", low_port());
    let setup = Setup::program(worker, &[&address]).set("EVERPORT_LISTEN", &*address).set("EVERPORT_USER", "nobody");
    if !geteuid().is_root() {
        let ended = setup.run_to_end();
        assert_eq!(ended.code(), Some(1));
        assert!(ended.errors.contains("only root can run workers as user"), "{}", ended.errors);
        return;
    }
    let nobody = User::from_name("nobody").expect("a database of users").expect("nobody");
    let master = setup.start();
    assert_eq!(status_of(master.pid(), "Uid"), "0 0 0 0");
    let check = |generation: u64| {
        let me = Line::connect(master.address()).who();
        assert_eq!(me.generation, generation);
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
        assert_eq!(status_of(me.pid, "Uid"), four(nobody.uid.as_raw()));
        assert_eq!(status_of(me.pid, "Gid"), four(nobody.gid.as_raw()));
        assert_eq!(status_of(me.pid, "Groups"), nobody.gid.to_string());
        assert_eq!(status_of(me.pid, "CapEff"), "0000000000000000");
        assert_eq!(status_of(me.pid, "NoNewPrivs"), "1");
        me.pid
    };
    let first = check(1);
    process::signal(first, nix::sys::signal::Signal::SIGKILL);
    master.wait_until("the killed one is replaced", |status| {
        let active = status.active();
        active.len() == 2 && active.iter().all(|worker| worker.pid != Some(first))
    });
    check(1);
    master.reload_well();
    master.settle(2);
    check(2);
    master.check();
}

#[test]
fn workers_of_another_user_may_listen_where_the_configuration_says_only() {
    if !geteuid().is_root() {
        // Every worker is of the master's own user then, and that one may bind.
        let master = Setup::lines().start();
        assert!(master.line().ask("bind 127.0.0.1:0").starts_with("ok "));
        return master.check();
    }
    let (_folder, worker) = public_worker();
    let master = Setup::program(worker, &["127.0.0.1:0"])
        .set("EVERPORT_LISTEN", "127.0.0.1:0")
        .set("EVERPORT_USER", "nobody")
        .set("EVERPORT_GROUP", "0")
        .start();
    let mut line = master.line();
    let errno = nix::libc::EACCES;
    assert_eq!(line.ask("bind 127.0.0.1:0"), format!("err PermissionDenied {errno}"));
    assert_eq!(line.ask("bind unix:@everport-tests-nobody"), format!("err PermissionDenied {errno}"));
    assert_eq!(status_of(line.who().pid, "Gid"), "0 0 0 0", "the group that was asked for");
    drop(line);
    assert_eq!(master.status().addresses().len(), 1);
    master.check();
}

#[test]
fn who_or_what_is_not_there_is_told_at_the_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gone = folder.path().join("gone");
    let gone = gone.to_str().expect("plain text");
    let table = [
        ("--user=no-such-user", r#"there is no user "no-such-user""#.to_owned()),
        ("--group=no-such-group", r#"there is no group "no-such-group""#.to_owned()),
        ("--user=4711", "user 4711 is not in the database of users: name its group too".to_owned()),
        (&format!("--directory={gone}"), format!("cannot use the working directory {gone:?}: ")),
        (&format!("--sandbox-read={gone}"), "cannot sandbox the workers: ".to_owned()),
        (&format!("--log-file={gone}/log"), format!("cannot open the log file \"{gone}/log\": ")),
        (&format!("--worker-log-file={gone}/log"), format!("cannot open the log file \"{gone}/log\": ")),
        (&format!("--pid-file={gone}/pid"), format!("cannot create the pid file \"{gone}/pid\": ")),
    ];
    for (flag, expected) in table {
        let ended = Setup::cli(&[flag], &[WORKER, "127.0.0.1:0"]).run_to_end();
        assert_eq!(ended.code(), Some(1), "{flag}");
        assert!(ended.errors.contains(&format!("everport: {expected}")), "{flag}: {}", ended.errors);
    }
}

#[test]
fn limits_and_directory_are_those_of_the_settings() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let master = Setup::lines()
        .set("EVERPORT_UMASK", "027")
        .set("EVERPORT_NICE", "5")
        .set("EVERPORT_OOM_SCORE_ADJ", "500")
        .set("EVERPORT_NOFILE", "123")
        .set("EVERPORT_DIRECTORY", folder.path())
        .set("EVERPORT_ENV", "PROOF_COLOUR=blue")
        .set("EVERPORT_NO_NEW_PRIVS", "true")
        .start();
    let mut line = master.line();
    let pid = line.who().pid;
    assert_eq!(status_of(pid, "Umask"), "0027");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    assert_eq!(fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("it lives").trim(), "500");
    assert_eq!(process::nice(pid), 5);
    assert_eq!(nofile_of(pid), 123);
    let real = folder.path().canonicalize().expect("it is there");
    assert_eq!(line.ask("cwd"), real.to_str().expect("plain text"));
    assert_eq!(line.ask("env PROOF_COLOUR"), "blue");
    drop(line);
    // None of it is the master's.
    assert_eq!(status_of(master.pid(), "NoNewPrivs"), "0");
    assert_eq!(process::nice(master.pid()), process::nice(std::process::id()));
    master.check();
}

#[test]
fn the_master_takes_every_descriptor_it_may_have_and_workers_get_what_it_was_started_with() {
    let master = Setup::lines().shell("ulimit -S -n 300; ulimit -H -n 2048").start();
    assert_eq!(nofile_of(master.pid()), 2048);
    assert_eq!(nofile_of(master.line().who().pid), 300);
    master.check();
}

#[test]
fn more_descriptors_than_the_hard_limit_are_refused_without_the_right_to_raise_it() {
    let setup = Setup::lines().shell("ulimit -n 300").set("EVERPORT_NOFILE", "301");
    let setup = if geteuid().is_root() { setup.user(65534) } else { setup };
    let ended = setup.run_to_end();
    assert_eq!(ended.code(), Some(1));
    let expected = "cannot raise the limit of descriptors from 300 to 301: Operation not permitted";
    assert!(ended.errors.contains(expected), "{}", ended.errors);
}

#[test]
fn a_step_that_the_system_refuses_to_a_worker_is_named() {
    // A lower value than one's own is for the privileged.
    let setup = Setup::lines().set("EVERPORT_OOM_SCORE_ADJ", "-1000").shell("echo 0 > /proc/self/oom_score_adj");
    let setup = if geteuid().is_root() { setup.user(65534) } else { setup };
    let ended = setup.run_to_end();
    assert_eq!(ended.code(), Some(1));
    assert!(ended.errors.contains("set its oom_score_adj: Permission denied"), "{}", ended.errors);
}

fn kernel_has_landlock() -> bool {
    let wanted = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    wanted.handle_access(AccessFs::from_all(ABI::V1)).is_ok()
}

/// Flags of a sandbox in which a program of this system can run at all.
fn sandbox(folder: &TempDir) -> Vec<String> {
    let program = PathBuf::from(WORKER);
    let own = program.parent().expect("a folder").to_str().expect("plain text");
    let there = |path: &&str| fs::exists(path).unwrap_or(false);
    let system = ["/usr", "/lib", "/lib64", "/bin", "/nix", own].into_iter().filter(there);
    let mut flags: Vec<String> = system.map(|path| format!("--sandbox-read={path}")).collect();
    for (name, flag) in [("read", "--sandbox-read"), ("write", "--sandbox-write"), ("other", "")] {
        let path = folder.path().join(name);
        fs::create_dir(&path).expect("our own folder");
        fs::write(path.join("file"), name).expect("our own folder");
        if !flag.is_empty() {
            flags.push(format!("{flag}={}", path.display()));
        }
    }
    flags
}

#[test]
fn a_sandboxed_worker_reads_and_writes_where_it_may_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let flags = sandbox(&folder);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let setup = Setup::cli(&flags, &[WORKER, "127.0.0.1:0"]);
    if !kernel_has_landlock() {
        let ended = setup.run_to_end();
        assert_eq!(ended.code(), Some(1));
        assert!(ended.errors.contains("this kernel has no landlock"), "{}", ended.errors);
        return;
    }
    let master = setup.start();
    let mut line = master.line();
    let mut ask = |verb: &str, path: &str| line.ask(&format!("{verb} {}", folder.path().join(path).display()));
    let denied = format!("err PermissionDenied {}", nix::libc::EACCES);
    assert_eq!(ask("read", "read/file"), "ok");
    assert_eq!(ask("write", "read/file"), denied);
    assert_eq!(ask("write", "read/new"), denied);
    assert_eq!(ask("read", "write/file"), "ok");
    assert_eq!(ask("write", "write/new"), "ok");
    assert_eq!(ask("write", "/dev/null"), "ok");
    assert_eq!(ask("read", "other/file"), denied);
    assert_eq!(ask("write", "other/file"), denied);
    let pid = line.who().pid;
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    drop(line);
    // The path may lead somewhere else by now, to where a release was switched.
    let (path, moved) = (folder.path().join("read"), folder.path().join("moved"));
    fs::rename(&path, &moved).expect("our own folder");
    fs::create_dir(&path).expect("our own folder");
    fs::write(path.join("file"), "new").expect("our own folder");
    master.reload_well();
    master.settle(2);
    let mut line = master.line();
    assert_eq!(line.ask(&format!("read {}", path.join("file").display())), "ok");
    assert_eq!(line.ask(&format!("read {}", moved.join("file").display())), denied);
    drop(line);
    master.check();
}

/// Runs a program on a kernel that answers `landlock_create_ruleset` as one without Landlock does: by a seccomp filter. The
/// call has the same number, 444, on every architecture.
const WITHOUT_LANDLOCK: &str = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *rule) for rule in rules))
program = struct.pack('HxxxxxxP', len(rules), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_kernel_without_landlock_is_an_error_and_no_silence() {
    let words = ["-c", WITHOUT_LANDLOCK, CLI, "run", "--sandbox-read=/", "--", WORKER, "127.0.0.1:0"];
    let ended = Setup::program("python3", &words).run_to_end();
    assert_eq!(ended.code(), Some(1), "{}", ended.errors);
    assert!(ended.errors.contains("cannot sandbox the workers: this kernel has no landlock"), "{}", ended.errors);
    // Who asks for no sandbox needs no Landlock.
    let words = ["-c", WITHOUT_LANDLOCK, CLI, "run", "--", WORKER, "127.0.0.1:0"];
    let master = Setup::program("python3", &words).start();
    assert_eq!(master.line().who().generation, 1);
    master.check();
}
