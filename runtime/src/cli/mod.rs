//! The `everport` command: arguments in, one exit code out. The only code that writes to standard output.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done as asked |
//! | 1 | failed: the start, the reload (it was rolled back), or there is no master at the control socket |
//! | 2 | bad usage: an argument, a variable or a configuration file that makes no sense |

mod arguments;
mod ask;
mod check;
mod orders;
mod table;
mod unit;
mod workers;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;

use self::arguments::{Arguments, Command, ControlArguments};
use crate::builder::run_master;
use crate::config::{Config, ConfigError, RawConfig, Setting, Source, control_path};
use crate::control::client::AskError;
use crate::error::Error;

/// Runs the command that this process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse_from(env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return not_parsed(&error),
    };
    match carry_out(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints help and version as clap does, but what is wrong in one line.
fn not_parsed(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone, as in `everport --help | head -1`, has all that it wanted.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // If standard error is closed there is nobody to tell.
            let _ = error.print();
        }
        _ => complain(&one_line(&error.to_string())),
    }
    ExitCode::from(BAD_USAGE)
}

/// The first paragraph of clap's message: what is wrong, without usage and tips, which are in the help.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim);
    let said: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    let sentence = said.join(" ");
    format!("{} (see --help)", sentence.trim_start_matches("error: "))
}

fn complain(problem: &impl fmt::Display) {
    // If standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "everport: {problem}");
}

const FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;

fn carry_out(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(run) => Ok(run_master(run.into_raw().or_surroundings()?)?),
        Command::Check { json, run } => check::check(run.into_raw(), json),
        Command::Reload { no_wait: false, control } => ask::reload(&control_socket(control)?),
        Command::Reload { no_wait: true, control } => ask::begin_reload(&control_socket(control)?),
        Command::Rollback { control } => ask::rollback(&control_socket(control)?),
        Command::Status { json, control } => ask::status(&control_socket(control)?, json),
        Command::Order(order) => orders::give(order),
        Command::Reopen { control } => ask::reopen(&control_socket(control)?),
        Command::Unit(run) => {
            let config: Config = run.into_raw().or_surroundings()?.or_file()?.try_into()?;
            if config.daemon {
                return Err(Failure::UnitOfDaemon);
            }
            let here = env::current_dir().map_err(Error::io("find", &"the working directory"))?;
            let own = env::current_exe().map_err(Error::io("find", &"this program's own file"))?;
            let arguments: Vec<OsString> = env::args_os().skip(2).collect();
            let origin = unit::Origin { executable: &own, arguments: &arguments, directory: &here };
            print(unit::unit(&config, &origin, variable).as_bytes())
        }
        Command::Stop { now, control } => ask::stop(&control_socket(control)?, now),
    }
}

/// Why a command did not do as asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Master(#[from] Error),
    #[error("no control socket: name it by --control or EVERPORT_CONTROL, or as control in the configuration file")]
    NoControl,
    #[error("a service manager keeps the master in the background itself: leave --daemon out")]
    UnitOfDaemon,
    #[error("not opened again: {}", reasons.join("; "))]
    NotReopened { reasons: Vec<String> },
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("rolled back: generation {generation}: {reason}")]
    RolledBack { generation: u64, reason: String },
    #[error("asked process {pid} to stop, but it lives on after {}", humantime::format_duration(*.after))]
    LivesOn { pid: i32, after: Duration },
    #[error("cannot wait for the end of process {pid}: {source}")]
    Wait { pid: i32, source: io::Error },
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Master(Error::Config(_)) | Self::NoControl | Self::UnitOfDaemon => BAD_USAGE,
            _ => FAILED,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Master(error.into())
    }
}

fn variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

fn control_socket(given: ControlArguments) -> Result<PathBuf, Failure> {
    let mut raw = RawConfig::default();
    if let Some(path) = given.control {
        raw.set(Setting::Control, path, Source::Flag);
    }
    raw.file = given.config.map(PathBuf::from);
    let raw = raw.or_environment(variable)?;
    if let Some(path) = control_path(&raw)? {
        return Ok(path);
    }
    control_path(&raw.or_file()?)?.ok_or(Failure::NoControl)
}

/// Writes to standard output. A reader that has gone, as in `everport status | head -1`, has all that it wanted.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong_workers() -> ConfigError {
        let mut raw = RawConfig::embedded();
        raw.set(Setting::Workers, "0", Source::Flag);
        Config::try_from(raw).unwrap_err()
    }

    #[test]
    fn bad_usage_and_failure_have_different_exit_codes() {
        assert_eq!(Failure::from(wrong_workers()).exit_code(), 2);
        assert_eq!(Failure::NoControl.exit_code(), 2);
        assert_eq!(Failure::Master(Error::RunInsideRuntime).exit_code(), 1);
        assert_eq!(Failure::RolledBack { generation: 2, reason: String::new() }.exit_code(), 1);
        assert_eq!(Failure::LivesOn { pid: 1, after: Duration::ZERO }.exit_code(), 1);
    }

    #[test]
    fn bad_usage_is_one_line() {
        let table = [
            ("everport run ./server", "unexpected argument './server' found (see --help)"),
            ("everport run --worker 2 -- true", "unexpected argument '--worker' found (see --help)"),
            ("everport restart", "unrecognized subcommand 'restart' (see --help)"),
            (
                "everport run --listen -- true",
                "a value is required for '--listen <ADDR>...' but none was supplied (see --help)",
            ),
        ];
        for (line, expected) in table {
            let error = Arguments::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(one_line(&error.to_string()), expected);
        }
    }

    #[test]
    fn failures_are_sentences() {
        let rolled_back = Failure::RolledBack { generation: 2, reason: "slot 0: not ready after 30s".to_owned() };
        assert_eq!(rolled_back.to_string(), "rolled back: generation 2: slot 0: not ready after 30s");
        let lives_on = Failure::LivesOn { pid: 4711, after: Duration::from_secs(40) };
        assert_eq!(lives_on.to_string(), "asked process 4711 to stop, but it lives on after 40s");
    }
}
