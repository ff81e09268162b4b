//! What holds in the end, setting by setting, with the place that each value comes from: for whoever looks at it.

use super::key::{Default as KeyDefault, KEYS, Key, Setting};
use super::raw::{RawConfig, Source};
use super::{Config, ConfigError};

/// One setting as it holds.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    pub(crate) key: &'static Key,
    /// One, or several of a list. None if the setting has no value: then its default says what that means.
    pub(crate) values: Vec<String>,
    pub(crate) source: Source,
}

/// Every setting as it holds, if all of them are valid.
pub(crate) fn effective(raw: &RawConfig) -> Result<Vec<Effective>, ConfigError> {
    let config = Config::try_from(raw.clone())?;
    let settings = KEYS.iter().map(|key| {
        let given = raw.or_default(key.setting);
        let source = given.first().map_or(Source::Default, |given| given.source.clone());
        let values = match (key.setting, given.is_empty()) {
            // These have defaults that depend on other things.
            (Setting::Workers, true) => vec![config.workers.to_string()],
            (Setting::NoNewPrivs, true) => vec![config.no_new_privs.to_string()],
            _ => given.iter().map(|given| given.text.to_string_lossy().into_owned()).collect(),
        };
        Effective { key, values, source }
    });
    Ok(settings.collect())
}

impl Effective {
    /// What the default means where there is no value.
    pub(crate) fn words(&self) -> &'static str {
        let (KeyDefault::Value(words) | KeyDefault::Words(words)) = self.key.default;
        words
    }
}
