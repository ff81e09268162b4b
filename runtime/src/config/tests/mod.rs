//! What is accepted, what is not, and in which words.

mod file;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStringExt;

use super::key::{KEYS, Reach};
use super::*;

/// A pure environment.
fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
}

fn in_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    RawConfig::embedded().or_environment(lookup(variables))?.try_into()
}

fn given(setting: Setting, text: impl AsRef<OsStr>, source: Source) -> RawConfig {
    let mut raw = RawConfig::embedded();
    raw.set(setting, text.as_ref(), source);
    raw
}

fn with_processors(processors: Option<NonZeroU32>) -> RawConfig {
    let mut raw = RawConfig::embedded();
    raw.processors = processors;
    raw
}

fn sentence<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> String {
    result.expect_err("the value is wrong").to_string()
}

#[test]
fn the_table_is_in_the_order_of_the_settings() {
    for (index, key) in KEYS.iter().enumerate() {
        assert_eq!(key.setting as usize, index, "{}", key.name);
        assert_eq!(key.setting.key().name, key.name);
    }
}

#[test]
fn the_documentation_has_every_key_with_its_default() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/configuration.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let rows: Vec<&str> = manual.lines().filter(|line| line.starts_with("| `")).collect();
    let written = |key: &Key| {
        let mark = if key.reach == Reach::Master { r" \*" } else { "" };
        let default = match key.default {
            KeyDefault::Value(value) => format!("`{value}`"),
            KeyDefault::Words(words) => words.to_owned(),
        };
        format!("| `{}`{mark} | {default} |", key.name)
    };
    let expected: Vec<String> = KEYS.iter().map(written).collect();
    assert_eq!(rows.len(), expected.len());
    for (row, start) in rows.iter().zip(&expected) {
        assert!(row.starts_with(start.as_str()), "{row}\n{start}");
    }
}

#[test]
fn nothing_given_is_all_defaults() {
    let config = Config::try_from(with_processors(NonZeroU32::new(3))).unwrap();
    let expected = Config {
        program: Program::Embedded,
        listen: Vec::new(),
        workers: NonZeroU32::new(3).unwrap(),
        policy: Policy::RoundRobin,
        max_connections: None,
        shed: false,
        protocol: Protocol::Everport,
        readiness: Readiness::Auto,
        ready_timeout: Duration::from_secs(30),
        ready_after: None,
        drain_timeout: Duration::from_secs(30),
        drain_grace: Duration::from_secs(10),
        drain_signal: Signal::SIGTERM,
        drain_generations: 4,
        drain_age: None,
        drain_memory: None,
        strategy: Strategy::All,
        probation: Duration::ZERO,
        hang_timeout: None,
        restart_limit: 60,
        restart_period: Duration::from_secs(60),
        recycle_memory: None,
        recycle_age: None,
        recycle_connections: None,
        recycle_at_once: 1,
        ticket_rotation: Duration::from_secs(12 * 60 * 60),
        env: BTreeMap::new(),
        user: None,
        group: None,
        no_new_privs: false,
        umask: None,
        nice: None,
        oom_score_adj: None,
        nofile: None,
        directory: None,
        sandbox_read: Vec::new(),
        sandbox_write: Vec::new(),
        pid_file: None,
        control: None,
        daemon: false,
        log_file: None,
        worker_log_file: None,
        audit_file: None,
        first_byte_grace: Duration::from_secs(1),
        steal_after: Duration::from_millis(50),
    };
    assert_eq!(config, expected);
}

#[test]
fn workers_default_to_the_processors_within_the_limit() {
    for (processors, workers) in [(None, 1), (NonZeroU32::new(1), 1), (NonZeroU32::new(5000), MAX_WORKERS)] {
        let config = Config::try_from(with_processors(processors)).unwrap();
        assert_eq!(config.workers.get(), workers);
    }
}

#[test]
fn everything_can_come_from_the_environment() {
    let config = in_environment(&[
        ("EVERPORT_LISTEN", "127.0.0.1:8000, [::1]:0,unix:/run/app.sock"),
        ("EVERPORT_WORKERS", "4"),
        ("EVERPORT_SCHED_POLICY", "shared"),
        ("EVERPORT_PID_FILE", "/run/app.pid"),
        ("EVERPORT_CONTROL", "/run/app.control"),
        ("EVERPORT_DRAIN_TIMEOUT", "1m 30s"),
        ("EVERPORT_READY_TIMEOUT", " 500ms "),
        ("EVERPORT_READY", "manual"),
    ]);
    let config = config.unwrap();
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8000", "[::1]:0", "unix:/run/app.sock"]);
    assert_eq!(config.workers.get(), 4);
    assert_eq!(config.policy, Policy::None);
    assert_eq!(config.pid_file, Some(PathBuf::from("/run/app.pid")));
    assert_eq!(config.control, Some(PathBuf::from("/run/app.control")));
    assert_eq!(config.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.ready_timeout, Duration::from_millis(500));
    assert_eq!(config.readiness, Readiness::Manual);
}

#[test]
fn every_key_can_come_from_the_environment() {
    let config = RawConfig::default().or_environment(lookup(&[
        ("EVERPORT_PROGRAM", r#"./server  --flag 'two words' "it's" a\ b "" "#),
        ("EVERPORT_PROTOCOL", "listen-fds"),
        ("EVERPORT_LISTEN", "127.0.0.1:0"),
        ("EVERPORT_READY_AFTER", "2s"),
        ("EVERPORT_DRAIN_GRACE", "3s"),
        ("EVERPORT_DRAIN_SIGNAL", "SIGQUIT"),
        ("EVERPORT_DRAIN_GENERATIONS", "2"),
        ("EVERPORT_DRAIN_AGE", "1h"),
        ("EVERPORT_DRAIN_MEMORY", "2GiB"),
        ("EVERPORT_STRATEGY", "rolling"),
        ("EVERPORT_PROBATION", "30s"),
        ("EVERPORT_RESTART_LIMIT", "5"),
        ("EVERPORT_RESTART_PERIOD", "10s"),
        ("EVERPORT_RECYCLE_MEMORY", "512MiB"),
        ("EVERPORT_RECYCLE_AGE", "2h"),
        ("EVERPORT_RECYCLE_AT_ONCE", "3"),
        ("EVERPORT_TICKET_ROTATION", "1s"),
        ("EVERPORT_ENV", "A=1 2\nB="),
        ("EVERPORT_USER", "nobody"),
        ("EVERPORT_GROUP", "65534"),
        ("EVERPORT_NO_NEW_PRIVS", "false"),
        ("EVERPORT_UMASK", "027"),
        ("EVERPORT_NICE", "-5"),
        ("EVERPORT_OOM_SCORE_ADJ", "-1000"),
        ("EVERPORT_NOFILE", "4096"),
        ("EVERPORT_DIRECTORY", "/srv"),
        ("EVERPORT_SANDBOX_READ", "/usr:/etc"),
        ("EVERPORT_SANDBOX_WRITE", "/tmp"),
        ("EVERPORT_DAEMON", "true"),
        ("EVERPORT_LOG_FILE", "/l"),
        ("EVERPORT_WORKER_LOG_FILE", "/w"),
        ("EVERPORT_AUDIT_FILE", "/a"),
    ]));
    let config = Config::try_from(config.unwrap()).unwrap();
    let arguments = ["--flag", "two words", "it's", "a b", ""].map(OsString::from).to_vec();
    let program = Program::Command { program: "./server".into(), arguments };
    assert_eq!((config.program, config.protocol), (program, Protocol::ListenFds));
    assert_eq!((config.ready_after, config.drain_grace), (Some(Duration::from_secs(2)), Duration::from_secs(3)));
    assert_eq!((config.drain_signal, config.drain_generations), (Signal::SIGQUIT, 2));
    assert_eq!((config.drain_age, config.drain_memory), (Some(Duration::from_secs(3600)), Some(2 << 30)));
    assert_eq!((config.strategy, config.probation), (Strategy::Rolling, Duration::from_secs(30)));
    assert_eq!((config.restart_limit, config.restart_period), (5, Duration::from_secs(10)));
    assert_eq!((config.recycle_memory, config.recycle_age), (Some(512 << 20), Some(Duration::from_secs(7200))));
    assert_eq!((config.recycle_at_once, config.ticket_rotation), (3, Duration::from_secs(1)));
    let env = [("A", "1 2"), ("B", "")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(config.env, BTreeMap::from(env));
    assert_eq!((config.user.as_deref(), config.group.as_deref()), (Some("nobody"), Some("65534")));
    assert_eq!((config.no_new_privs, config.umask, config.nice), (false, Some(0o27), Some(-5)));
    assert_eq!((config.oom_score_adj, config.nofile), (Some(-1000), Some(4096)));
    let path = |path: &str| PathBuf::from(path);
    assert_eq!(config.directory, Some(path("/srv")));
    assert_eq!((config.sandbox_read, config.sandbox_write), (vec![path("/usr"), path("/etc")], vec![path("/tmp")]));
    assert!(config.daemon);
    assert_eq!((config.log_file, config.worker_log_file), (Some(path("/l")), Some(path("/w"))));
    assert_eq!(config.audit_file, Some(path("/a")));
}

#[test]
fn a_confined_worker_gains_no_privileges_by_exec_unless_told_so() {
    for setting in [Setting::User, Setting::SandboxRead, Setting::SandboxWrite] {
        let mut raw = given(setting, "x", Source::Flag);
        assert!(Config::try_from(raw.clone()).unwrap().no_new_privs);
        raw.set(Setting::NoNewPrivs, "false", Source::Flag);
        assert!(!Config::try_from(raw).unwrap().no_new_privs);
    }
}

#[test]
fn what_was_given_goes_before_the_environment() {
    let mut raw = given(Setting::Listen, "127.0.0.1:1", Source::Flag);
    raw.set(Setting::Workers, "2", Source::Builder);
    raw.set(Setting::Policy, "rr", Source::Flag);
    raw.set(Setting::DrainTimeout, "0s", Source::Builder);
    // What is not used is not even read.
    let environment = [
        ("EVERPORT_LISTEN", "nonsense"),
        ("EVERPORT_WORKERS", "nonsense"),
        ("EVERPORT_SCHED_POLICY", "none"),
        ("EVERPORT_DRAIN_TIMEOUT", "nonsense"),
        ("EVERPORT_READY", "manual"),
    ];
    let config = Config::try_from(raw.or_environment(lookup(&environment)).unwrap()).unwrap();
    assert_eq!(config.listen.len(), 1);
    assert_eq!(config.workers.get(), 2);
    assert_eq!(config.policy, Policy::RoundRobin);
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert_eq!(config.readiness, Readiness::Manual);
}

#[test]
fn an_empty_variable_is_not_set() {
    let nothing = RawConfig::embedded().or_environment(|_| Some(OsString::new())).unwrap();
    assert_eq!(Config::try_from(nothing).unwrap(), in_environment(&[]).unwrap());
}

#[test]
fn a_wrong_variable_is_named_with_its_value_and_what_was_wanted() {
    let long = "x".repeat(MAX_SOCKET_PATH + 1);
    let table = [
        ("EVERPORT_WORKERS", "0", "want a whole number from 1 to 1024"),
        ("EVERPORT_WORKERS", "1025", "want a whole number from 1 to 1024"),
        ("EVERPORT_WORKERS", "-1", "want a whole number from 1 to 1024"),
        ("EVERPORT_WORKERS", "two", "want a whole number from 1 to 1024"),
        ("EVERPORT_WORKERS", "99999999999999999999", "want a whole number from 1 to 1024"),
        (
            "EVERPORT_SCHED_POLICY",
            "splits",
            "unknown policy, the known ones are rr, none (also called shared), least, p2c, hash and split",
        ),
        (
            "EVERPORT_SCHED_POLICY",
            "RR",
            "unknown policy, the known ones are rr, none (also called shared), least, p2c, hash and split",
        ),
        ("EVERPORT_CONTROL", &long, "the path has 108 bytes, but a socket's path can have only 107"),
        ("EVERPORT_DRAIN_TIMEOUT", "30", "the unit is missing, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", "0", "the unit is missing, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", "1.5", "the unit is missing, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", "-5s", "not a duration, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", " ", "not a duration, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", "soon", "not a duration, write for example 30s, 500ms or 1m 30s"),
        ("EVERPORT_DRAIN_TIMEOUT", "8d", "longer than 7days"),
        ("EVERPORT_DRAIN_TIMEOUT", "99999999999999999999y", "too long, or finer than a nanosecond"),
        ("EVERPORT_DRAIN_TIMEOUT", "0.5ns", "too long, or finer than a nanosecond"),
        ("EVERPORT_READY_TIMEOUT", "0s", "must be longer than zero"),
        ("EVERPORT_READY_TIMEOUT", "8d", "longer than 7days"),
        ("EVERPORT_READY", "maybe", "want auto or manual"),
        ("EVERPORT_STRATEGY", "some", "want all or rolling"),
        ("EVERPORT_PROTOCOL", "fastcgi", "want everport or listen-fds"),
        ("EVERPORT_PROTOCOL", "listen-fds", "a program that embeds Everport speaks its protocol"),
        ("EVERPORT_PROGRAM", "./server 'two words", "a quotation mark or a backslash has no end"),
        ("EVERPORT_PROGRAM", "./server two\\", "a quotation mark or a backslash has no end"),
        ("EVERPORT_PROGRAM", "./server", "this program is itself what its workers run"),
        ("EVERPORT_READY_AFTER", "5s", "of use only with --protocol listen-fds"),
        ("EVERPORT_DRAIN_SIGNAL", "HUP", "of use only with --protocol listen-fds"),
        ("EVERPORT_DRAIN_SIGNAL", "KILL", "want a signal that a program can handle, such as TERM"),
        ("EVERPORT_DRAIN_SIGNAL", "TREM", "want a signal that a program can handle, such as TERM"),
        ("EVERPORT_DRAIN_GENERATIONS", "0", "want a whole number from 1 to 64"),
        ("EVERPORT_DRAIN_MEMORY", "1000", "the unit is missing, write for example 512MiB or 2GiB"),
        ("EVERPORT_DRAIN_MEMORY", "0MiB", "not an amount of memory, write for example 512MiB or 2GiB"),
        ("EVERPORT_DRAIN_MEMORY", "much", "not an amount of memory, write for example 512MiB or 2GiB"),
        ("EVERPORT_HANG_TIMEOUT", "0s", "must be longer than zero"),
        ("EVERPORT_TICKET_ROTATION", "999ms", "must be at least 1s"),
        ("EVERPORT_RECYCLE_CONNECTIONS", "0", "want a whole number from 1 to 9223372036854775807"),
        ("EVERPORT_ENV", "novalue", "want NAME=VALUE"),
        ("EVERPORT_ENV", "=x", "want NAME=VALUE"),
        ("EVERPORT_ENV", "EVERPORT_SLOT=1", "Everport itself sets this variable for its workers"),
        ("EVERPORT_USER", "a:b", "want a name or a number"),
        ("EVERPORT_NO_NEW_PRIVS", "yes", "want true or false"),
        ("EVERPORT_UMASK", "9", "want an octal number up to 777, such as 027"),
        ("EVERPORT_UMASK", "1000", "want an octal number up to 777, such as 027"),
        ("EVERPORT_NICE", "20", "want a whole number from -20 to 19"),
        ("EVERPORT_OOM_SCORE_ADJ", "1001", "want a whole number from -1000 to 1000"),
    ];
    for (variable, value, problem) in table {
        assert_eq!(sentence(in_environment(&[(variable, value)])), format!("invalid {variable} {value:?}: {problem}"));
    }
}

#[test]
fn a_wrong_value_names_the_flag_or_the_method_that_gave_it() {
    let file = |line| Source::File { path: std::path::Path::new("/etc/e.toml").into(), line };
    let table = [
        (Setting::Workers, "0", Source::Flag, r#"invalid --workers "0": want a whole number from 1 to 1024"#),
        (Setting::Workers, "0", Source::Builder, "invalid Builder::workers 0: want a whole number from 1 to 1024"),
        (Setting::Workers, "0", file(3), "/etc/e.toml:3: invalid workers 0: want a whole number from 1 to 1024"),
        (Setting::SandboxRead, "", file(9), r#"/etc/e.toml:9: invalid sandbox.read "": the path is empty"#),
        (Setting::SandboxRead, "", Source::Flag, r#"invalid --sandbox-read "": the path is empty"#),
        (
            Setting::Policy,
            "",
            Source::Flag,
            r#"invalid --policy "": unknown policy, the known ones are rr, none (also called shared), least, p2c, hash and split"#,
        ),
        (
            Setting::ReadyTimeout,
            "30",
            Source::Flag,
            r#"invalid --ready-timeout "30": the unit is missing, write for example 30s, 500ms or 1m 30s"#,
        ),
        (
            Setting::DrainTimeout,
            "8days",
            Source::Builder,
            r#"invalid Builder::drain_timeout "8days": longer than 7days"#,
        ),
        (Setting::PidFile, "", Source::Flag, r#"invalid --pid-file "": the path is empty"#),
        (Setting::Control, "", Source::Builder, r#"invalid Builder::control "": the path is empty"#),
        (Setting::PidFile, "a\0b", Source::Builder, r#"invalid Builder::pid_file "a\0b": there is a zero byte in it"#),
        (Setting::Ready, "now", Source::Flag, r#"invalid --ready "now": want auto or manual"#),
    ];
    for (setting, text, source, expected) in table {
        assert_eq!(sentence(Config::try_from(given(setting, text, source))), expected);
    }
}

#[test]
fn a_wrong_address_names_its_part() {
    for (source, name) in
        [(Source::Flag, "--listen"), (Source::Builder, "Builder::listen"), (Source::Environment, "EVERPORT_LISTEN")]
    {
        let error = sentence(Config::try_from(given(Setting::Listen, "127.0.0.1:eighty", source)));
        assert!(error.starts_with(&format!(r#"invalid {name} "127.0.0.1:eighty": port: found "#)), "{error}");
        assert!(error.contains(", wanted "), "{error}");
    }
}

#[test]
fn listeners_have_a_limit() {
    let mut raw = RawConfig::embedded();
    for port in 0..MAX_LISTENERS {
        raw.add(Setting::Listen, format!("127.0.0.1:{port}"), Source::Flag);
    }
    assert_eq!(Config::try_from(raw.clone()).unwrap().listen.len(), MAX_LISTENERS);
    raw.add(Setting::Listen, format!("127.0.0.1:{MAX_LISTENERS}"), Source::Flag);
    assert_eq!(sentence(Config::try_from(raw)), r#"invalid --listen "127.0.0.1:128": more than 128 listeners"#);
}

#[test]
fn a_value_that_is_not_text_stays_one_line() {
    let raw = given(Setting::Workers, OsString::from_vec(b"4\xff\n".to_vec()), Source::Environment);
    assert_eq!(sentence(Config::try_from(raw)), "invalid EVERPORT_WORKERS \"4\u{fffd}\\n\": not valid UTF-8");
}

#[test]
fn threads_have_a_limit() {
    assert_eq!(thread_count(1).unwrap().get(), 1);
    assert_eq!(thread_count(MAX_THREADS).unwrap().get(), MAX_THREADS);
    assert_eq!(sentence(thread_count(0)), "invalid Builder::threads 0: want a whole number from 1 to 1024");
    assert_eq!(sentence(thread_count(1025)), "invalid Builder::threads 1025: want a whole number from 1 to 1024");
}

#[test]
fn the_control_socket_of_a_command_comes_from_flag_or_environment() {
    let environment = [("EVERPORT_CONTROL", "/run/b"), ("EVERPORT_WORKERS", "nonsense")];
    let path = |path: &str| Some(PathBuf::from(path));
    let flag = |path| given(Setting::Control, path, Source::Flag);
    assert_eq!(control_path(&flag("/run/a").or_environment(lookup(&environment)).unwrap()).unwrap(), path("/run/a"));
    assert_eq!(
        control_path(&RawConfig::default().or_environment(lookup(&environment)).unwrap()).unwrap(),
        path("/run/b")
    );
    assert_eq!(control_path(&RawConfig::default()).unwrap(), None);
    assert_eq!(sentence(control_path(&flag(""))), r#"invalid --control "": the path is empty"#);
}

#[test]
fn workers_do_not_inherit_the_masters_settings() {
    let taken_away: Vec<String> = master_environment().collect();
    for name in ["EVERPORT_CONFIG", "EVERPORT_LISTEN", "EVERPORT_SCHED_POLICY", "EVERPORT_SANDBOX_READ", "LISTEN_FDS"] {
        assert!(taken_away.contains(&name.to_owned()), "{name}");
    }
    assert!(!taken_away.contains(&"EVERPORT_LOG_FORMAT".to_owned()));
}

#[test]
fn names_print_as_they_are_read() {
    for policy in Policy::ALL {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), policy.to_string());
    }
    for readiness in [Readiness::Auto, Readiness::Manual] {
        assert_eq!(readiness.to_string().parse(), Ok(readiness));
    }
}

#[test]
fn what_is_told_by_a_program_with_everport_in_it_can_have_a_limit() {
    let config = in_environment(&[("EVERPORT_HANG_TIMEOUT", "40s"), ("EVERPORT_RECYCLE_CONNECTIONS", "100000")]);
    let config = config.unwrap();
    assert_eq!((config.hang_timeout, config.recycle_connections), (Some(Duration::from_secs(40)), Some(100_000)));
}

#[test]
fn a_program_that_knows_nothing_of_everport_shares_listeners_that_are_named() {
    let listen_fds = |settings: &[(Setting, &str)]| {
        let mut raw = RawConfig::default();
        raw.add(Setting::Program, "./server", Source::Flag);
        raw.set(Setting::Protocol, "listen-fds", Source::Flag);
        for (setting, text) in settings {
            raw.set(*setting, *text, Source::Flag);
        }
        Config::try_from(raw)
    };
    let listen = (Setting::Listen, "127.0.0.1:0");
    for policy in [&[listen][..], &[listen, (Setting::Policy, "none")]] {
        assert_eq!(listen_fds(policy).unwrap().policy, Policy::None);
    }
    let table = [
        (&[listen, (Setting::Policy, "rr")][..], r#"invalid --policy "rr": --protocol listen-fds needs policy none: "#),
        (&[], "no listener: with --protocol listen-fds, name at least one by --listen"),
        (&[listen, (Setting::HangTimeout, "1s")], r#"invalid --hang-timeout "1s": of no use with "#),
        (&[listen, (Setting::RecycleConnections, "9")], r#"invalid --recycle-connections "9": of no use with "#),
    ];
    for (settings, expected) in table {
        let error = sentence(listen_fds(settings));
        assert!(error.starts_with(expected), "{error}");
    }
}
