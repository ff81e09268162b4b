//! The configuration file: what it may say, and how it is told what is wrong.

use tempfile::TempDir;

use super::*;

/// A file with this text, and what the environment says, as a master that has its program from the file.
fn load_with(text: &str, variables: &[(&str, &str)]) -> (TempDir, Result<Config, ConfigError>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    std::fs::write(&path, text).unwrap();
    let mut raw = RawConfig::default();
    raw.file = Some(path);
    let config = read(raw.or_environment(lookup(variables)).unwrap());
    (folder, config)
}

fn read(raw: RawConfig) -> Result<Config, ConfigError> {
    Origin::read(raw).map(|(_, config)| config)
}

fn load(text: &str) -> Config {
    load_with(text, &[]).1.unwrap()
}

/// The sentence about a file, without its folder.
fn complaint(text: &str) -> String {
    let (folder, result) = load_with(text, &[]);
    sentence(result).replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn every_key_can_come_from_a_file() {
    let config = load(
        r#"
        program = ["./server", "--flag"]
        workers = 4
        policy = "none"
        ready = "manual"
        ready_timeout = "5s"
        drain_timeout = "1m 30s"
        drain_grace = "2s"
        drain_generations = 2
        drain_age = "1h"
        drain_memory = "2GiB"
        strategy = "rolling"
        probation = "30s"
        hang_timeout = "20s"
        restart_limit = 5
        restart_period = "10s"
        recycle_memory = "512MiB"
        recycle_age = "1day"
        recycle_connections = 100_000
        recycle_at_once = 2
        user = "www"
        group = "33"
        no_new_privs = true
        umask = "027"
        nice = -5
        oom_score_adj = 100
        nofile = 0x1000
        directory = "/srv"
        pid_file = "/run/p"
        control = "/run/c"
        daemon = true
        log_file = "/log/m"
        worker_log_file = "/log/w"
        audit_file = "/log/a"

        [[listener]]
        name = "web"
        address = "127.0.0.1:8000?backlog=9"

        [[listener]]
        address = "unix:/run/app.sock"

        [env]
        DATABASE = "postgres://a=b"

        [sandbox]
        read = ["/usr", "/etc"]
        write = ["/tmp"]
        "#,
    );
    let path = |path: &str| Some(PathBuf::from(path));
    let seconds = Duration::from_secs;
    let program = Program::Command { program: "./server".into(), arguments: vec!["--flag".into()] };
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8000?backlog=9&name=web", "unix:/run/app.sock"]);
    assert_eq!((config.program, config.workers.get(), config.policy), (program, 4, Policy::None));
    assert_eq!((config.readiness, config.ready_timeout), (Readiness::Manual, seconds(5)));
    assert_eq!((config.drain_timeout, config.drain_grace), (seconds(90), seconds(2)));
    assert_eq!((config.drain_generations, config.drain_age), (2, Some(seconds(3600))));
    assert_eq!(config.drain_memory, Some(2 << 30));
    assert_eq!((config.strategy, config.probation), (Strategy::Rolling, seconds(30)));
    assert_eq!((config.hang_timeout, config.restart_limit), (Some(seconds(20)), 5));
    assert_eq!((config.restart_period, config.recycle_memory), (seconds(10), Some(512 << 20)));
    assert_eq!((config.recycle_age, config.recycle_connections), (Some(seconds(86400)), Some(100_000)));
    assert_eq!((config.recycle_at_once, config.no_new_privs), (2, true));
    assert_eq!((config.user.as_deref(), config.group.as_deref()), (Some("www"), Some("33")));
    assert_eq!((config.umask, config.nice, config.oom_score_adj), (Some(0o27), Some(-5), Some(100)));
    assert_eq!((config.nofile, config.directory), (Some(4096), path("/srv")));
    assert_eq!((config.pid_file, config.control, config.daemon), (path("/run/p"), path("/run/c"), true));
    assert_eq!((config.log_file, config.worker_log_file), (path("/log/m"), path("/log/w")));
    assert_eq!((config.audit_file, config.env["DATABASE"].as_str()), (path("/log/a"), "postgres://a=b"));
    assert_eq!((config.sandbox_read.len(), config.sandbox_write.len()), (2, 1));

    let config = load(
        "program = [\"a\"]\nprotocol = \"listen-fds\"\nready_after = \"1s\"\ndrain_signal = \"QUIT\"\n\
         [[listener]]\naddress = \"127.0.0.1:1\"",
    );
    assert_eq!((config.protocol, config.ready_after), (Protocol::ListenFds, Some(seconds(1))));
    assert_eq!(config.drain_signal, Signal::SIGQUIT);
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_default() {
    let text = "program = [\"a\"]\nworkers = 4\nready_timeout = \"nonsense\"\ndrain_timeout = \"7s\"\n\
                [[listener]]\naddress = \"127.0.0.1:1\"\n[[listener]]\naddress = \"127.0.0.1:2\"";
    let variables = [("EVERPORT_WORKERS", "2"), ("EVERPORT_READY_TIMEOUT", "3s"), ("EVERPORT_LISTEN", "127.0.0.1:3")];
    let config = load_with(text, &variables).1.unwrap();
    assert_eq!((config.workers.get(), config.ready_timeout), (2, Duration::from_secs(3)));
    assert_eq!((config.drain_timeout, config.drain_grace), (Duration::from_secs(7), Duration::from_secs(10)));
    // A list is taken whole from one place.
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:3"]);
}

#[test]
fn what_is_wrong_is_named_with_file_and_line_and_key() {
    let table = [
        ("workers = 0", "e.toml:1: invalid workers 0: want a whole number from 1 to 1024"),
        ("\n\nworkers = \"4\"", "e.toml:3: invalid workers \"4\": want a whole number, found a string"),
        ("workers = 1.5", "e.toml:1: invalid workers 1.5: want a whole number, found a number with a point"),
        (
            "workers = 99999999999999999999",
            "e.toml:1: invalid workers 99999999999999999999: want a whole number from 1 to 1024",
        ),
        ("# a comment\ndrain_timeout = 30", "e.toml:2: invalid drain_timeout 30: want a string, found a whole number"),
        (
            "drain_timeout = \"30\"",
            "e.toml:1: invalid drain_timeout \"30\": the unit is missing, write for example 30s, 500ms or 1m 30s",
        ),
        (
            "recycle_memory = \"512\"",
            "e.toml:1: invalid recycle_memory \"512\": the unit is missing, write for example 512MiB or 2GiB",
        ),
        ("daemon = \"yes\"", "e.toml:1: invalid daemon \"yes\": want true or false, found a string"),
        ("daemon = 1", "e.toml:1: invalid daemon 1: want true or false, found a whole number"),
        ("control = 1979-05-27", "e.toml:1: invalid control 1979-05-27: want a string, found a date or time"),
        ("program = \"./server\"", "e.toml:1: invalid program \"./server\": want a list of strings, found a string"),
        ("program = [\n\"a\",\n1]", "e.toml:3: invalid program 1: want a list of strings, found a whole number"),
        ("program = []", "no program: name it behind --, or as program in the configuration file"),
        ("program = [\"\"]", "e.toml:1: invalid program \"\": the path is empty"),
        ("[env]\nA = 1", "e.toml:2: invalid env 1: want a string for each variable, found a whole number"),
        ("[env]\n\"A=B\" = \"x\"", "e.toml:2: invalid env \"x\": a variable's name can have no ="),
        (
            "[env]\nEVERPORT_SLOT = \"1\"",
            "e.toml:2: invalid env \"EVERPORT_SLOT=1\": Everport itself sets this variable for its workers",
        ),
        ("env = [\"A=1\"]", "e.toml:1: invalid env [\"A=1\"]: want a table of strings, found a list"),
        (
            "listener = \"127.0.0.1:1\"",
            "e.toml:1: invalid listener \"127.0.0.1:1\": want tables [[listener]] with address and name, found a string",
        ),
        (
            "[listener]\naddress = \"127.0.0.1:1\"",
            "e.toml:1: invalid listener [listener]: want tables [[listener]] with address and name, found a table",
        ),
        ("[[listener]]\nname = \"a\"", "e.toml:1: invalid listener [[listener]]: a listener needs an address"),
        ("[[listener]]\naddress = 80", "e.toml:2: invalid listener 80: want a string as address, found a whole number"),
        (
            "[[listener]]\naddress = \"127.0.0.1:1\"\nname = \"a&backlog=1\"",
            "e.toml:3: invalid listener \"a&backlog=1\": want a name of letters, digits, '-', '_' and '.'",
        ),
        ("[[listener]]\nadress = \"127.0.0.1:1\"", "e.toml:2: unknown key listener.adress, want listener.address"),
        ("worker = 2", "e.toml:1: unknown key worker, want workers"),
        ("drain_timout = \"3s\"", "e.toml:1: unknown key drain_timout, want drain_timeout"),
        ("[sandbox]\nreed = [\"/\"]", "e.toml:2: unknown key sandbox.reed, want sandbox.read"),
        ("sandbox = true", "e.toml:1: unknown key sandbox, want one of program, "),
        ("\"a\\nb\" = 1", "e.toml:1: unknown key \"a\\nb\", want one of program, "),
        ("workers = 1\nworkers = 2", "e.toml:2: duplicate key"),
        ("\nworkers 2", "e.toml:2: key with no value, expected `=`"),
    ];
    for (text, expected) in table {
        let said = complaint(text);
        let is_whole = !expected.ends_with(' ');
        assert!(if is_whole { said == expected } else { said.starts_with(expected) }, "{text}\n  {said}\n  {expected}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_wrong_address_names_its_line() {
    let said = complaint("[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:eighty\"");
    assert!(said.starts_with("e.toml:3: invalid listener \"127.0.0.1:eighty?name=web\": port: found "), "{said}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let with = |path: PathBuf| {
        let mut raw = RawConfig::default();
        raw.file = Some(path);
        sentence(read(raw))
    };
    let missing = folder.path().join("none.toml");
    assert_eq!(
        with(missing.clone()),
        format!("cannot read the configuration file {missing:?}: No such file or directory (os error 2)")
    );
    // Nobody writes to it: reading would wait for ever.
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(with(pipe.clone()), format!("cannot read the configuration file {pipe:?}: not a regular file"));
    let long = folder.path().join("long");
    std::fs::write(&long, vec![b'\n'; 1 + usize::try_from(MAX_FILE).unwrap()]).unwrap();
    assert!(with(long).ends_with("longer than 1048576 bytes"));
    let bytes = folder.path().join("bytes");
    std::fs::write(&bytes, [0xff]).unwrap();
    assert!(with(bytes).ends_with("stream did not contain valid UTF-8"));
}

#[test]
fn a_value_that_is_long_or_more_than_a_line_is_shown_by_its_beginning() {
    let long = format!("workers = \"{}\"", "x".repeat(100));
    let shown = format!("\"\\\"{}\" …", "x".repeat(39));
    assert_eq!(complaint(&long), format!("e.toml:1: invalid workers {shown}: want a whole number, found a string"));
    let said = complaint("workers = [1,\n2]");
    assert_eq!(said, "e.toml:1: invalid workers \"[1,\" …: want a whole number, found a list");
}

#[test]
fn a_program_that_is_its_own_worker_names_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    std::fs::write(&path, "program = [\"x\"]").unwrap();
    let mut raw = RawConfig::embedded();
    raw.file = Some(path.clone());
    let expected = format!("{}:1: invalid program \"x\": this program is itself what its workers run", path.display());
    assert_eq!(sentence(read(raw)), expected);
}

#[test]
fn a_reload_reads_the_file_again_and_leaves_to_the_master_what_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    let write = |text: &str| std::fs::write(&path, format!("program = [\"a\"]\n{text}")).unwrap();
    let mut raw = RawConfig::default();
    raw.set(Setting::DrainTimeout, "9s", Source::Flag);
    raw.file = Some(path.clone());
    write("workers = 2\ncontrol = \"/run/a\"");
    let (origin, first) = Origin::read(raw).unwrap();
    assert_eq!((first.workers.get(), first.control.as_deref()), (2, Some("/run/a".as_ref())));

    write("workers = 3\ndrain_timeout = \"1s\"\ncontrol = \"/run/b\"\npid_file = \"/run/p\"");
    let (config, late) = origin.read_again().unwrap();
    assert_eq!((config.workers.get(), config.drain_timeout), (3, Duration::from_secs(9)));
    assert_eq!((config.control.as_deref(), config.pid_file), (Some("/run/a".as_ref()), None));
    assert_eq!(late, ["pid_file", "control"]);

    // What counts only from the next start on must be right nevertheless.
    write("control = \"\"");
    let expected = format!("{}:2: invalid control \"\": the path is empty", path.display());
    assert_eq!(origin.read_again().unwrap_err().to_string(), expected);

    write("control = \"/run/a\"");
    let (config, late) = origin.read_again().unwrap();
    assert_eq!((config.workers.get(), late.len()), (1, 0));
}
