use std::os::unix::ffi::OsStringExt;

use super::*;

/// A pure environment.
fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<OsString> + 'a {
    |name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
}

fn in_environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    RawConfig::default().or_environment(lookup(variables)).try_into()
}

fn flag<T>(text: &str) -> Option<Given<T>> {
    Some(Given::Text(text.into(), Source::Flag))
}

fn sentence<T: fmt::Debug>(result: Result<T, ConfigError>) -> String {
    result.expect_err("the value is wrong").to_string()
}

#[test]
fn nothing_given_is_all_defaults() {
    let config = Config::try_from(RawConfig { processors: NonZeroU32::new(3), ..RawConfig::default() }).unwrap();
    let expected = Config {
        listen: Vec::new(),
        workers: NonZeroU32::new(3).unwrap(),
        policy: Policy::RoundRobin,
        pid_file: None,
        control: None,
        drain_timeout: Duration::from_secs(30),
        ready_timeout: Duration::from_secs(30),
        readiness: Readiness::Auto,
        first_byte_grace: Duration::from_secs(1),
        steal_after: Duration::from_millis(50),
        program: Program::Embedded,
    };
    assert_eq!(config, expected);
}

#[test]
fn workers_default_to_the_processors_within_the_limit() {
    for (processors, workers) in [(None, 1), (NonZeroU32::new(1), 1), (NonZeroU32::new(5000), MAX_WORKERS)] {
        let config = Config::try_from(RawConfig { processors, ..RawConfig::default() }).unwrap();
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
fn what_was_given_goes_before_the_environment() {
    let raw = RawConfig {
        listen: vec![Given::Text("127.0.0.1:1".into(), Source::Flag)],
        workers: Some(Given::Value(2)),
        policy: flag("rr"),
        drain_timeout: Some(Given::Value(Duration::ZERO)),
        ..RawConfig::default()
    };
    // What is not used is not even read.
    let environment = [
        ("EVERPORT_LISTEN", "nonsense"),
        ("EVERPORT_WORKERS", "nonsense"),
        ("EVERPORT_SCHED_POLICY", "none"),
        ("EVERPORT_DRAIN_TIMEOUT", "nonsense"),
        ("EVERPORT_READY", "manual"),
    ];
    let config = Config::try_from(raw.or_environment(lookup(&environment))).unwrap();
    assert_eq!(config.listen.len(), 1);
    assert_eq!(config.workers.get(), 2);
    assert_eq!(config.policy, Policy::RoundRobin);
    assert_eq!(config.drain_timeout, Duration::ZERO);
    assert_eq!(config.readiness, Readiness::Manual);
}

#[test]
fn an_empty_variable_is_not_set() {
    let empty = MASTER_ENVIRONMENT.map(|variable| (variable, ""));
    assert_eq!(in_environment(&empty).unwrap(), in_environment(&[]).unwrap());
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
        ("EVERPORT_SCHED_POLICY", "least", "unknown policy, the known ones are rr and none (also called shared)"),
        ("EVERPORT_SCHED_POLICY", "RR", "unknown policy, the known ones are rr and none (also called shared)"),
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
        ("EVERPORT_READY_TIMEOUT", "0s", "must be longer than zero, for nothing is ready at once"),
        ("EVERPORT_READY_TIMEOUT", "8d", "longer than 7days"),
        ("EVERPORT_READY", "maybe", "want auto or manual"),
    ];
    for (variable, value, problem) in table {
        assert_eq!(sentence(in_environment(&[(variable, value)])), format!("invalid {variable} {value:?}: {problem}"));
    }
}

#[test]
fn a_wrong_value_names_the_flag_or_the_method_that_gave_it() {
    let raw = || RawConfig::default();
    let table = [
        (RawConfig { workers: flag("0"), ..raw() }, r#"--workers "0": want a whole number from 1 to 1024"#),
        (
            RawConfig { workers: Some(Given::Value(0)), ..raw() },
            "Builder::workers 0: want a whole number from 1 to 1024",
        ),
        (
            RawConfig { policy: flag(""), ..raw() },
            r#"--policy "": unknown policy, the known ones are rr and none (also called shared)"#,
        ),
        (
            RawConfig { ready_timeout: flag("30"), ..raw() },
            r#"--ready-timeout "30": the unit is missing, write for example 30s, 500ms or 1m 30s"#,
        ),
        (
            RawConfig { drain_timeout: Some(Given::Value(Duration::MAX)), ..raw() },
            "Builder::drain_timeout 18446744073709551615.999999999s: longer than 7days",
        ),
        (RawConfig { pid_file: flag(""), ..raw() }, r#"--pid-file "": the path is empty"#),
        (RawConfig { control: Some(Given::Value("".into())), ..raw() }, r#"Builder::control "": the path is empty"#),
        (
            RawConfig { pid_file: Some(Given::Value("a\0b".into())), ..raw() },
            r#"Builder::pid_file "a\0b": the path has a zero byte in it"#,
        ),
        (RawConfig { readiness: flag("now"), ..raw() }, r#"--ready "now": want auto or manual"#),
    ];
    for (raw, expected) in table {
        assert_eq!(sentence(Config::try_from(raw)), format!("invalid {expected}"));
    }
}

#[test]
fn a_wrong_address_names_its_part() {
    for (source, name) in
        [(Source::Flag, "--listen"), (Source::Builder, "Builder::listen"), (Source::Environment, "EVERPORT_LISTEN")]
    {
        let raw = RawConfig { listen: vec![Given::Text("127.0.0.1:eighty".into(), source)], ..RawConfig::default() };
        let error = sentence(Config::try_from(raw));
        assert!(error.starts_with(&format!(r#"invalid {name} "127.0.0.1:eighty": port: found "#)), "{error}");
        assert!(error.contains(", wanted "), "{error}");
    }
}

#[test]
fn listeners_have_a_limit() {
    let listen = |count| (0..count).map(|port| Given::Text(format!("127.0.0.1:{port}").into(), Source::Flag)).collect();
    let raw = RawConfig { listen: listen(MAX_LISTENERS), ..RawConfig::default() };
    assert_eq!(Config::try_from(raw).unwrap().listen.len(), MAX_LISTENERS);
    let raw = RawConfig { listen: listen(MAX_LISTENERS + 1), ..RawConfig::default() };
    assert_eq!(sentence(Config::try_from(raw)), r#"invalid --listen "127.0.0.1:128": more than 128 listeners"#);
}

#[test]
fn a_value_that_is_not_text_stays_one_line() {
    let bytes = OsString::from_vec(b"4\xff\n".to_vec());
    let raw = RawConfig { workers: Some(Given::Text(bytes, Source::Environment)), ..RawConfig::default() };
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
    let environment = [("EVERPORT_CONTROL", "/run/b")];
    let path = |path: &str| Some(PathBuf::from(path));
    assert_eq!(control_path(Some("/run/a".into()), lookup(&environment)).unwrap(), path("/run/a"));
    assert_eq!(control_path(None, lookup(&environment)).unwrap(), path("/run/b"));
    assert_eq!(control_path(None, lookup(&[])).unwrap(), None);
    assert_eq!(sentence(control_path(Some("".into()), lookup(&[]))), r#"invalid --control "": the path is empty"#);
}

#[test]
fn workers_do_not_inherit_the_masters_settings() {
    for setting in [
        Setting::Listen,
        Setting::Workers,
        Setting::Policy,
        Setting::PidFile,
        Setting::Control,
        Setting::DrainTimeout,
        Setting::ReadyTimeout,
        Setting::Ready,
    ] {
        assert!(MASTER_ENVIRONMENT.contains(&Source::Environment.name(setting)));
    }
    assert!(!MASTER_ENVIRONMENT.contains(&"EVERPORT_LOG_FORMAT"));
}

#[test]
fn names_print_as_they_are_read() {
    for policy in [Policy::RoundRobin, Policy::None] {
        assert_eq!(policy.to_string().parse(), Ok(policy));
        assert_eq!(serde_json::to_value(policy).unwrap(), policy.to_string());
    }
    for readiness in [Readiness::Auto, Readiness::Manual] {
        assert_eq!(readiness.to_string().parse(), Ok(readiness));
    }
}
