//! Where the settings of a master come from, so that a reload can ask there again.

use std::path::Path;

use super::key::{KEYS, Reach};
use super::raw::RawConfig;
use super::{Config, ConfigError};

/// What was given at the start, and the file that it names.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    given: RawConfig,
    /// What held at the start, the file included.
    first: RawConfig,
}

impl Origin {
    /// The settings as they hold at the start.
    pub(crate) fn read(given: RawConfig) -> Result<(Self, Config), ConfigError> {
        let first = given.clone().or_file()?;
        let config = first.clone().try_into()?;
        Ok((Self { given, first }, config))
    }

    /// A relative path of the file begins here from now on, wherever the process may go.
    pub(crate) fn anchor(&mut self, directory: &Path) {
        self.given.file = self.given.file.take().map(|file| directory.join(file));
    }

    /// The settings as they hold now, and the keys of which a new value counts only from the next start on: these stay as
    /// they were.
    pub(crate) fn read_again(&self) -> Result<(Config, Vec<&'static str>), ConfigError> {
        let mut raw = self.given.clone().or_file()?;
        // Even what does not count yet must be right: the next start reads it.
        Config::try_from(raw.clone())?;
        let mut late = Vec::new();
        for key in KEYS.iter().filter(|key| key.reach == Reach::Master) {
            if raw.take_over(key.setting, &self.first) {
                late.push(key.name);
            }
        }
        Ok((raw.try_into()?, late))
    }
}
