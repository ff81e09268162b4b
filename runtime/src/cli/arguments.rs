//! What may stand on the command line. Values are read by the gate in [`crate::config`], so that a wrong one is reported in
//! the same words wherever it comes from.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

use crate::config::{Given, Program, RawConfig, Source};

const EXIT_CODES: &str = "\
Exit codes:
  0  done as asked
  1  failed: the start, the reload (it was rolled back), or there is no master at the control socket
  2  bad usage: an argument or a variable that makes no sense";

/// A port that never closes: run a server's workers under a master that replaces them without losing a connection.
#[derive(Debug, Parser)]
#[command(name = "everport", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Become the master of workers that run PROGRAM, until stopped.
    #[command(after_help = EXIT_CODES)]
    Run(RunArguments),
    /// Replace all workers by a new generation, and wait until that has succeeded or was rolled back.
    #[command(after_help = EXIT_CODES)]
    Reload {
        /// Say what has begun, and do not wait for the outcome.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Roll the reload under way back: resume the old generation and drain the new one.
    #[command(after_help = EXIT_CODES)]
    Rollback {
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Show generations, workers, listeners and the last reload.
    #[command(after_help = EXIT_CODES)]
    Status {
        /// Print JSON instead of tables.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Drain the workers and end the master, and wait until it has gone.
    #[command(after_help = EXIT_CODES)]
    Stop {
        /// Do not drain: cut what is under way.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
}

#[derive(Debug, Args)]
pub(super) struct ControlArguments {
    /// The master's control socket [variable: EVERPORT_CONTROL].
    #[arg(long, value_name = "SOCKET")]
    pub(super) control: Option<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    /// Bind a listener at start: 127.0.0.1:8000, unix:/run/app.sock, udp:0.0.0.0:53 … [variable: EVERPORT_LISTEN].
    #[arg(long, value_name = "ADDR", num_args = 1..)]
    listen: Vec<OsString>,
    /// How many workers [variable: EVERPORT_WORKERS] [default: one per usable processor].
    #[arg(long, value_name = "N")]
    workers: Option<OsString>,
    /// How connections are spread: rr or none [variable: EVERPORT_SCHED_POLICY] [default: rr].
    #[arg(long, value_name = "P")]
    policy: Option<OsString>,
    /// Write the master's pid to this file [variable: EVERPORT_PID_FILE].
    #[arg(long, value_name = "F")]
    pid_file: Option<OsString>,
    /// Listen for commands at this path [variable: EVERPORT_CONTROL].
    #[arg(long, value_name = "SOCKET")]
    control: Option<OsString>,
    /// How long a worker may drain before what is left is cut [variable: EVERPORT_DRAIN_TIMEOUT] [default: 30s].
    #[arg(long, value_name = "D")]
    drain_timeout: Option<OsString>,
    /// How long a worker may take until it is ready [variable: EVERPORT_READY_TIMEOUT] [default: 30s].
    #[arg(long, value_name = "D")]
    ready_timeout: Option<OsString>,
    /// When a worker is ready: auto, when it first accepts, or manual, when it says so [variable: EVERPORT_READY]
    /// [default: auto].
    #[arg(long, value_name = "auto|manual")]
    ready: Option<OsString>,
    /// The program that the workers run.
    #[arg(value_name = "PROGRAM", required = true, last = true)]
    program: Vec<OsString>,
}

impl RunArguments {
    /// What was given, unread.
    pub(super) fn into_raw(self) -> RawConfig {
        let mut words = self.program.into_iter();
        RawConfig {
            listen: self.listen.into_iter().map(flag).collect(),
            workers: self.workers.map(flag),
            policy: self.policy.map(flag),
            pid_file: self.pid_file.map(flag),
            control: self.control.map(flag),
            drain_timeout: self.drain_timeout.map(flag),
            ready_timeout: self.ready_timeout.map(flag),
            readiness: self.ready.map(flag),
            // clap requires at least one word. An empty name would fail to start like any other that does not exist.
            program: Program::Command { program: words.next().unwrap_or_default(), arguments: words.collect() },
            processors: None,
        }
    }
}

fn flag<T>(text: OsString) -> Given<T> {
    Given::Text(text, Source::Flag)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::{Config, ConfigError};

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        let words = line.split_whitespace();
        Arguments::try_parse_from(words).map(|arguments| arguments.command).map_err(|error| error.kind())
    }

    fn config(line: &str) -> Result<Config, ConfigError> {
        match parse(line) {
            Ok(Command::Run(run)) => run.into_raw().try_into(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn run_takes_every_setting() {
        let config = config(
            "everport run --listen 127.0.0.1:8000 unix:/run/a --listen [::1]:1 --workers 2 --policy none \
             --pid-file /run/p --control /run/c --drain-timeout 5s --ready-timeout 6s --ready manual \
             -- ./server --workers 9 -x",
        );
        let config = config.unwrap();
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:8000", "unix:/run/a", "[::1]:1"]);
        assert_eq!(config.workers.get(), 2);
        assert_eq!(config.policy.to_string(), "none");
        assert_eq!(config.pid_file.unwrap().to_str(), Some("/run/p"));
        assert_eq!(config.control.unwrap().to_str(), Some("/run/c"));
        assert_eq!((config.drain_timeout.as_secs(), config.ready_timeout.as_secs()), (5, 6));
        assert_eq!(config.readiness.to_string(), "manual");
        let program = Program::Command {
            program: "./server".into(),
            arguments: ["--workers", "9", "-x"].map(Into::into).to_vec(),
        };
        assert_eq!(config.program, program);
    }

    #[test]
    fn run_needs_a_program_only() {
        let config = config("everport run -- true").unwrap();
        assert_eq!(config.program, Program::Command { program: "true".into(), arguments: Vec::new() });
        assert!(config.listen.is_empty());
    }

    #[test]
    fn a_wrong_value_is_reported_by_the_gate() {
        let error = config("everport run --workers two -- true").unwrap_err();
        assert_eq!(error.to_string(), r#"invalid --workers "two": want a whole number from 1 to 1024"#);
        // A value that looks like a flag is a value.
        let error = config("everport run --workers=-1 -- true").unwrap_err();
        assert_eq!(error.to_string(), r#"invalid --workers "-1": want a whole number from 1 to 1024"#);
    }

    #[test]
    fn bad_usage_is_told_apart() {
        let table = [
            ("everport", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
            ("everport restart", ErrorKind::InvalidSubcommand),
            ("everport run", ErrorKind::MissingRequiredArgument),
            ("everport run --workers 2 --", ErrorKind::MissingRequiredArgument),
            ("everport run ./server", ErrorKind::UnknownArgument),
            ("everport run --speed 9 -- true", ErrorKind::UnknownArgument),
            ("everport run --workers 1 --workers 2 -- true", ErrorKind::ArgumentConflict),
            ("everport run --listen -- true", ErrorKind::InvalidValue),
            ("everport status --json=yes", ErrorKind::TooManyValues),
            ("everport stop later", ErrorKind::UnknownArgument),
            ("everport --help", ErrorKind::DisplayHelp),
            ("everport run --help", ErrorKind::DisplayHelp),
            ("everport --version", ErrorKind::DisplayVersion),
        ];
        for (line, kind) in table {
            assert_eq!(parse(line).map(|command| format!("{command:?}")), Err(kind), "{line}");
        }
    }

    #[test]
    fn commands_take_the_control_socket() {
        let control = |given: ControlArguments| given.control.map(|path| path.into_string().unwrap());
        let socket = Some("/run/c".to_owned());
        match parse("everport reload --control /run/c").unwrap() {
            Command::Reload { no_wait: false, control: given } => assert_eq!(control(given), socket),
            other => panic!("{other:?}"),
        }
        match parse("everport reload --no-wait").unwrap() {
            Command::Reload { no_wait: true, control: given } => assert_eq!(control(given), None),
            other => panic!("{other:?}"),
        }
        match parse("everport rollback --control /run/c").unwrap() {
            Command::Rollback { control: given } => assert_eq!(control(given), socket),
            other => panic!("{other:?}"),
        }
        match parse("everport status --json --control /run/c").unwrap() {
            Command::Status { json: true, control: given } => assert_eq!(control(given), socket),
            other => panic!("{other:?}"),
        }
        match parse("everport stop --now").unwrap() {
            Command::Stop { now: true, control: given } => assert_eq!(control(given), None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn help_documents_the_exit_codes() {
        let mut command = Arguments::command();
        assert!(command.render_long_help().to_string().contains(EXIT_CODES));
        for subcommand in command.get_subcommands_mut() {
            assert!(subcommand.render_help().to_string().contains(EXIT_CODES), "{}", subcommand.get_name());
        }
    }
}
