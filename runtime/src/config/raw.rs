//! Values as they were given, each with the place it came from, before the gate to a [`Config`](super::Config).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::key::{Default as KeyDefault, KEYS, Kind, Setting};
use super::{ConfigError, Problem, file};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Flag,
    Builder,
    Environment,
    File { path: Arc<Path>, line: usize },
    Default,
}

/// A value as it was given: text that is still to be read. A list is several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) text: OsString,
    pub(crate) source: Source,
}

/// What the workers run, as far as the command line does not say it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Face {
    /// A program of its own.
    #[default]
    Command,
    /// This very program: the Builder was used.
    Embedded,
    /// Either, for who only looks at settings.
    Any,
}

/// Everything that was given, unread.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawConfig {
    values: BTreeMap<Setting, Vec<Given>>,
    pub(crate) face: Face,
    /// The configuration file that a flag or the Builder names.
    pub(crate) file: Option<PathBuf>,
    /// How many processors the process may use, if that is known: the default for `workers`.
    pub(crate) processors: Option<NonZeroU32>,
}

impl RawConfig {
    /// Nothing given, for the Builder.
    pub(crate) fn embedded() -> Self {
        Self { face: Face::Embedded, ..Self::default() }
    }

    /// Sets one value, in place of any before.
    pub(crate) fn set(&mut self, setting: Setting, text: impl Into<OsString>, source: Source) {
        self.values.insert(setting, vec![Given { text: text.into(), source }]);
    }

    /// Adds one value of a list.
    pub(crate) fn add(&mut self, setting: Setting, text: impl Into<OsString>, source: Source) {
        self.values.entry(setting).or_default().push(Given { text: text.into(), source });
    }

    /// What was given for this setting; nothing, if nothing was.
    pub(super) fn get(&self, setting: Setting) -> &[Given] {
        self.values.get(&setting).map_or(&[], Vec::as_slice)
    }

    /// What was given, or else the default of the table.
    pub(super) fn or_default(&self, setting: Setting) -> Vec<Given> {
        match (self.get(setting), setting.key().default) {
            ([], KeyDefault::Value(text)) => vec![Given { text: text.into(), source: Source::Default }],
            (given, _) => given.to_vec(),
        }
    }

    /// Fills in from the configuration file, if there is one, what was not given otherwise.
    pub(crate) fn or_file(mut self) -> Result<Self, ConfigError> {
        if let Some(path) = &self.file {
            for (setting, given) in file::read(path)?.values {
                self.values.entry(setting).or_insert(given);
            }
        }
        Ok(self)
    }

    /// Puts the other's value of this setting in place of its own. Returns whether they differed.
    pub(super) fn take_over(&mut self, setting: Setting, other: &Self) -> bool {
        let texts = |raw: &Self| raw.or_default(setting).into_iter().map(|given| given.text).collect::<Vec<_>>();
        let differs = texts(self) != texts(other);
        match other.values.get(&setting) {
            Some(given) => self.values.insert(setting, given.clone()),
            None => self.values.remove(&setting),
        };
        differs
    }

    /// Fills in from this process's environment what was not given otherwise, and counts its processors.
    pub(crate) fn or_surroundings(mut self) -> Result<Self, ConfigError> {
        let processors = std::thread::available_parallelism().ok();
        self.processors = processors.and_then(|processors| NonZeroU32::try_from(processors).ok());
        self.or_environment(|variable| std::env::var_os(variable))
    }

    /// Fills in from the environment what was not given otherwise. An empty variable counts as not set.
    pub(crate) fn or_environment(mut self, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        for key in &KEYS {
            if self.get(key.setting).is_empty()
                && let Some(text) = lookup(&key.setting.variable()).filter(|text| !text.is_empty())
            {
                let parts = parts(key.setting, &text).map_err(|problem| {
                    let given = Given { text: text.clone(), source: Source::Environment };
                    ConfigError::wrong_value(key.setting, &given, problem)
                })?;
                for part in parts {
                    self.add(key.setting, part, Source::Environment);
                }
            }
        }
        if self.file.is_none() {
            self.file = lookup("EVERPORT_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        }
        Ok(self)
    }
}

/// The values that one variable holds: paths are separated as in `PATH`, pairs stand on lines of their own, addresses are
/// separated by commas or spaces, and the words of a program are those that a shell would make of it, quotes included.
fn parts(setting: Setting, text: &OsStr) -> Result<Vec<OsString>, Problem> {
    let is_separator: fn(&u8) -> bool = match (setting, setting.key().kind) {
        (Setting::Program, _) => {
            let words = shlex::bytes::split(text.as_bytes()).ok_or(Problem::Quotes)?;
            return Ok(words.into_iter().map(OsString::from_vec).collect());
        }
        (_, Kind::List) => |&byte| byte == b':',
        (_, Kind::Pairs) => |&byte| byte == b'\n',
        (_, Kind::Listeners) => |&byte| byte == b',' || byte.is_ascii_whitespace(),
        (_, Kind::Number | Kind::Switch | Kind::Text) => return Ok(vec![text.to_owned()]),
    };
    let parts = text.as_bytes().split(is_separator).filter(|part| !part.is_empty());
    Ok(parts.map(|part| OsStr::from_bytes(part).to_owned()).collect())
}
