//! The configuration file: TOML with the keys of the table. Every value keeps its line.
//!
//! Only the form is judged here: known keys, and values of the type that the key has. What a value says is read by the gate,
//! in the same words for every source.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::error::{ConfigError, quoted};
use super::key::{KEYS, Kind, Setting};
use super::raw::{Given, RawConfig, Source};
use super::{MAX_FILE, Problem};

/// Everything that the file gives, unread.
pub(super) fn read(path: &Path) -> Result<RawConfig, ConfigError> {
    let text = contents(path).map_err(|source| ConfigError::unreadable(path, source))?;
    let reader = Reader { path: path.into(), text: &text };
    let table = DeTable::parse(&text).map_err(|error| {
        let line = reader.line(error.span().map_or(0, |span| span.start));
        ConfigError::syntax(path, line, error.message())
    })?;
    let mut raw = RawConfig::default();
    reader.table("", table.get_ref(), &mut raw)?;
    Ok(raw)
}

/// The text of a regular file. Anything else might keep the master waiting, or never end.
fn contents(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    /// Takes every key of a table whose own name, with a dot, is `prefix`.
    fn table(&self, prefix: &str, table: &DeTable<'_>, raw: &mut RawConfig) -> Result<(), ConfigError> {
        for (word, value) in table {
            let name = format!("{prefix}{}", word.get_ref());
            let inner = format!("{name}.");
            if let Some(key) = KEYS.iter().find(|key| key.name == name) {
                self.key(key.setting, value, raw)?;
            } else if let (DeValue::Table(table), true) =
                (value.get_ref(), KEYS.iter().any(|key| key.name.starts_with(&inner)))
            {
                self.table(&inner, table, raw)?;
            } else {
                let known = KEYS.iter().map(|key| key.name);
                return Err(ConfigError::unknown_key(&self.path, self.line(word.span().start), &name, known));
            }
        }
        Ok(())
    }

    fn key(&self, setting: Setting, value: &Value<'_>, raw: &mut RawConfig) -> Result<(), ConfigError> {
        match (setting.key().kind, value.get_ref()) {
            (Kind::Number, DeValue::Integer(number)) => self.give(setting, decimal(number), value, raw),
            (Kind::Switch, DeValue::Boolean(switch)) => self.give(setting, switch.to_string(), value, raw),
            (Kind::Text, DeValue::String(text)) => self.give(setting, text.to_string(), value, raw),
            (Kind::List, DeValue::Array(list)) => {
                for item in list.iter() {
                    self.give(setting, self.text(setting, item, "a list of strings")?, item, raw);
                }
            }
            (Kind::Pairs, DeValue::Table(pairs)) => {
                for (name, item) in pairs {
                    let text = self.text(setting, item, "a string for each variable")?;
                    let name = name.get_ref();
                    if name.contains('=') {
                        return Err(self.wrong(setting, item, Problem::VariableName));
                    }
                    self.give(setting, format!("{name}={text}"), item, raw);
                }
            }
            (Kind::Listeners, DeValue::Array(tables)) => {
                for item in tables.iter() {
                    self.listener(item, raw)?;
                }
            }
            (Kind::Number, _) => return Err(self.wrong_type(setting, value, "a whole number")),
            (Kind::Switch, _) => return Err(self.wrong_type(setting, value, "true or false")),
            (Kind::Text, _) => return Err(self.wrong_type(setting, value, "a string")),
            (Kind::List, _) => return Err(self.wrong_type(setting, value, "a list of strings")),
            (Kind::Pairs, _) => return Err(self.wrong_type(setting, value, "a table of strings")),
            (Kind::Listeners, _) => return Err(self.wrong_type(setting, value, LISTENERS)),
        }
        Ok(())
    }

    /// One `[[listener]]`.
    fn listener(&self, item: &Value<'_>, raw: &mut RawConfig) -> Result<(), ConfigError> {
        let setting = Setting::Listen;
        let DeValue::Table(table) = item.get_ref() else { return Err(self.wrong_type(setting, item, LISTENERS)) };
        let (mut address, mut name) = (None, None);
        for (word, value) in table {
            match word.get_ref().as_ref() {
                "address" => address = Some((self.text(setting, value, "a string as address")?, value)),
                "name" => name = Some((self.text(setting, value, "a string as name")?, value)),
                other => {
                    let known = ["listener.address", "listener.name"].into_iter();
                    let name = format!("listener.{other}");
                    return Err(ConfigError::unknown_key(&self.path, self.line(word.span().start), &name, known));
                }
            }
        }
        let Some((address, value)) = address else {
            return Err(self.wrong(setting, item, Problem::ListenerWithoutAddress));
        };
        let text = match name {
            // It would become an option of the address.
            Some((name, value)) if name.contains('&') => {
                return Err(ConfigError::wrong_value(setting, &self.given(name, value), Problem::ListenerName));
            }
            Some((name, _)) => format!("{address}{}name={name}", if address.contains('?') { '&' } else { '?' }),
            None => address,
        };
        self.give(setting, text, value, raw);
        Ok(())
    }

    fn text(&self, setting: Setting, value: &Value<'_>, wanted: &'static str) -> Result<String, ConfigError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.to_string()),
            _ => Err(self.wrong_type(setting, value, wanted)),
        }
    }

    fn give(&self, setting: Setting, text: String, value: &Value<'_>, raw: &mut RawConfig) {
        let Given { text, source } = self.given(text, value);
        raw.add(setting, text, source);
    }

    fn given(&self, text: String, value: &Value<'_>) -> Given {
        Given { text: text.into(), source: Source::File { path: Arc::clone(&self.path), line: self.line_of(value) } }
    }

    fn wrong_type(&self, setting: Setting, value: &Value<'_>, wanted: &'static str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(setting, value, Problem::Type { found, wanted })
    }

    /// A value that is shown as it stands in the file.
    fn wrong(&self, setting: Setting, value: &Value<'_>, problem: Problem) -> ConfigError {
        let written = self.text.get(value.span()).unwrap_or_default();
        ConfigError::in_file(&self.path, self.line_of(value), setting, &as_written(written), problem)
    }

    fn line_of(&self, value: &Value<'_>) -> usize {
        self.line(value.span().start)
    }

    /// The line of a byte, counted from one.
    fn line(&self, byte: usize) -> usize {
        self.text.as_bytes().iter().take(byte).filter(|&&byte| byte == b'\n').count() + 1
    }
}

const LISTENERS: &str = "tables [[listener]] with address and name";

/// A number in the digits that everybody reads.
fn decimal(number: &DeInteger<'_>) -> String {
    match i64::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => number.to_string(),
        // Too large for any setting.
        Err(_) => number.as_str().to_owned(),
    }
}

/// How much of a value is shown.
const SHOWN: usize = 40;

/// A value as it stands in the file, if that is short and one harmless line; else how it begins.
fn as_written(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let start: String = first.chars().take(SHOWN).collect();
    match start.len() == text.len() && !start.contains(|character: char| character.is_control()) {
        true => start,
        false => format!("{} …", quoted(start.as_ref())),
    }
}
