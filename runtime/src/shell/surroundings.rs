//! What a worker's process finds around it, apart from its program and its link to the master: working directory,
//! environment, privileges, and where its output goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use everport_handoff::privileges::Report;

use super::privileges::WorkerPrivileges;
use super::worker_log::WorkerLog;
use crate::config::{Config, master_environment};
use crate::error::{Error, Result};

/// The surroundings of the workers of one configuration.
#[derive(Debug)]
pub(super) struct Surroundings {
    directory: PathBuf,
    variables: Vec<(String, String)>,
    privileges: WorkerPrivileges,
}

/// Where standard output and standard error of workers go.
#[derive(Debug)]
pub(super) enum Output {
    /// To those of the master.
    Inherited,
    /// Nowhere: those of a master in the background belong to whoever started it.
    Nowhere,
    /// To a file.
    Log(WorkerLog),
}

impl Output {
    /// As the settings say.
    pub(super) fn start(config: &Config) -> Result<Self> {
        match &config.worker_log_file {
            Some(path) => WorkerLog::start(path).map(Self::Log),
            None if config.daemon => Ok(Self::Nowhere),
            None => Ok(Self::Inherited),
        }
    }

    fn give_to(&self, command: &mut Command) -> io::Result<()> {
        let (output, errors) = match self {
            Self::Inherited => (Stdio::inherit(), Stdio::inherit()),
            Self::Nowhere => (Stdio::null(), Stdio::null()),
            Self::Log(log) => log.streams()?,
        };
        command.stdout(output).stderr(errors);
        Ok(())
    }
}

impl Surroundings {
    /// Resolves the settings. `started_in` is the master's own directory, as it was given.
    ///
    /// # Errors
    ///
    /// The directory is not there, or workers cannot have such privileges.
    pub(super) fn new(config: &Config, started_in: &Path, soft_nofile: Option<u64>) -> Result<Self> {
        let directory = match &config.directory {
            Some(directory) => started_in.join(directory),
            None => started_in.to_owned(),
        };
        fs::metadata(&directory)
            .and_then(is_directory)
            .map_err(Error::io("use", &format_args!("the working directory {directory:?}")))?;
        let variables = config.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Self { directory, variables, privileges: WorkerPrivileges::resolve(config, soft_nofile)? })
    }

    /// Whether workers run as another user than the master, and are trusted less.
    pub(super) fn is_other_user(&self) -> bool {
        self.privileges.is_other_user()
    }

    /// The working directory, as it was given.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes `command` start in these surroundings, with /dev/null as its standard input. `directory` is a path to the
    /// working directory as it was when the worker's generation started.
    pub(super) fn give_to(&self, command: &mut Command, directory: &Path, output: &Output) -> io::Result<Report> {
        command.current_dir(directory).stdin(Stdio::null());
        for variable in master_environment() {
            command.env_remove(variable);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        output.give_to(command)?;
        self.privileges.next().map_err(io::Error::other)?.pass_to(command)
    }
}

fn is_directory(found: fs::Metadata) -> io::Result<()> {
    if found.is_dir() { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
}
