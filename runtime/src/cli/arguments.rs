//! What may stand on the command line. Values are read by the gate in [`crate::config`], so that a wrong one is reported in
//! the same words wherever it comes from.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand, value_parser};

use super::orders::Order;
use crate::config::{KEYS, Key, KeyDefault, Kind, RawConfig, Setting, Source};

pub(super) const EXIT_CODES: &str = "\
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
    /// Open the log files again, after they were moved away.
    #[command(after_help = EXIT_CODES)]
    Reopen {
        #[command(flatten)]
        control: ControlArguments,
    },
    /// Print a systemd unit that starts what `everport run` with the same arguments would.
    #[command(after_help = EXIT_CODES)]
    Unit(RunArguments),
    /// Drain the workers and end the master, and wait until it has gone.
    #[command(after_help = EXIT_CODES)]
    Stop {
        /// Do not drain: cut what is under way.
        #[arg(long)]
        now: bool,
        #[command(flatten)]
        control: ControlArguments,
    },
    #[command(flatten)]
    Order(Order),
}

#[derive(Debug, Args)]
pub(super) struct ControlArguments {
    /// The master's control socket [variable: EVERPORT_CONTROL].
    #[arg(long, value_name = "SOCKET")]
    pub(super) control: Option<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    settings: Settings,
    /// The program that the workers run, if the configuration does not name one.
    #[arg(value_name = "PROGRAM", last = true)]
    program: Vec<OsString>,
}

impl RunArguments {
    /// What was given, unread.
    pub(super) fn into_raw(self) -> RawConfig {
        let Settings(mut raw) = self.settings;
        for word in self.program {
            raw.add(Setting::Program, word, Source::Flag);
        }
        raw
    }
}

/// The configuration file, and a flag for each setting.
#[derive(Debug)]
pub(super) struct Settings(pub(super) RawConfig);

const CONFIG: &str = "config";

impl Args for Settings {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(CONFIG)
            .long("config")
            .value_name("F")
            .value_parser(value_parser!(OsString))
            .help("Read this configuration file, at the start and at every reload [variable: EVERPORT_CONFIG]");
        command.arg(file).args(KEYS.iter().filter(|key| key.setting != Setting::Program).map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Settings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut raw = RawConfig::default();
        raw.file = matches.get_one::<OsString>(CONFIG).map(PathBuf::from);
        for key in KEYS.iter().filter(|key| key.setting != Setting::Program) {
            for value in matches.get_many::<OsString>(key.name).into_iter().flatten() {
                raw.add(key.setting, value, Source::Flag);
            }
        }
        Ok(Self(raw))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of one setting.
fn flag(key: &Key) -> Arg {
    let (KeyDefault::Value(default) | KeyDefault::Words(default)) = key.default;
    let variable = key.setting.variable();
    let arg = Arg::new(key.name)
        .long(key.setting.flag().trim_start_matches("--").to_owned())
        .value_name(key.form)
        .value_parser(value_parser!(OsString))
        .allow_negative_numbers(key.kind == Kind::Number)
        .help(format!("{} [variable: {variable}] [default: {default}]", key.help));
    match key.kind {
        Kind::Number | Kind::Text => arg,
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Pairs => arg.action(ArgAction::Append),
        Kind::List | Kind::Listeners => arg.action(ArgAction::Append).num_args(1..),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;
    use crate::config::{Config, ConfigError, Program};

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
    fn run_without_any_program_is_refused() {
        for line in ["everport run", "everport run --workers 2 --"] {
            let error = config(line).unwrap_err();
            assert_eq!(error.to_string(), "no program: name it behind --, or as program in the configuration file");
        }
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
