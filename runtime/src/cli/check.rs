//! `everport check`: whether the settings are valid, and what holds, with the place that each value comes from.

use serde_json::{Map, Value, json};

use super::{Failure, print};
use crate::config::{Effective, Face, Kind, RawConfig, Source, effective};

/// Prints every setting, or fails with what is wrong.
pub(super) fn check(mut raw: RawConfig, as_json: bool) -> Result<(), Failure> {
    // A program that is its own worker reads the same file, and names no other.
    raw.face = Face::Any;
    let settings = effective(&raw.or_surroundings()?.or_file()?)?;
    let text = if as_json { json_text(&settings) } else { table(&settings) };
    print(text.as_bytes())
}

/// A line for each setting: its name, what holds, and where that comes from.
fn table(settings: &[Effective]) -> String {
    let row = |setting: &Effective| match setting.values.as_slice() {
        [] => [setting.key.name.to_owned(), setting.words().to_owned(), source(&setting.source)],
        values => [setting.key.name.to_owned(), one_line(&values.join(" ")), source(&setting.source)],
    };
    let rows: Vec<[String; 3]> = settings.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (names, values) = (width(0), width(1));
    rows.iter().map(|[name, value, source]| format!("{name:<names$}  {value:<values$}  {source}\n")).collect()
}

/// Line breaks and the like in a value do not break the table.
fn one_line(text: &str) -> String {
    if text.contains(|character: char| character.is_control()) { format!("{text:?}") } else { text.to_owned() }
}

fn source(source: &Source) -> String {
    match source {
        Source::Flag => "flag".to_owned(),
        Source::Builder => "builder".to_owned(),
        Source::Environment => "environment".to_owned(),
        Source::File { path, line } => format!("{}:{line}", path.display()),
        Source::Default => "default".to_owned(),
    }
}

/// An object with `value` and `source` for each setting. A setting without a value is null.
fn json_text(settings: &[Effective]) -> String {
    let entry = |setting: &Effective| {
        let mut entry = json!({ "value": json_value(setting) });
        match &setting.source {
            Source::File { path, line } => {
                entry["source"] = "file".into();
                entry["file"] = path.to_string_lossy().into();
                entry["line"] = (*line).into();
            }
            other => entry["source"] = source(other).into(),
        }
        (setting.key.name.to_owned(), entry)
    };
    let object: Map<String, Value> = settings.iter().map(entry).collect();
    format!("{:#}\n", Value::Object(object))
}

fn json_value(setting: &Effective) -> Value {
    let text = |value: &String| Value::from(value.as_str());
    match setting.key.kind {
        Kind::List | Kind::Listeners => setting.values.iter().map(text).collect(),
        Kind::Pairs => {
            let pair = |value: &String| value.split_once('=').map(|(name, value)| (name.to_owned(), value.into()));
            Value::Object(setting.values.iter().filter_map(pair).collect())
        }
        Kind::Text => setting.values.last().map_or(Value::Null, text),
        // They are valid, so they are numbers and switches of JSON too.
        Kind::Number | Kind::Switch => {
            setting.values.last().and_then(|value| value.parse().ok()).unwrap_or(Value::Null)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

    fn settings() -> Vec<Effective> {
        let mut raw = RawConfig::default();
        raw.face = Face::Any;
        raw.set(Setting::Workers, "3", Source::Flag);
        raw.set(Setting::Env, "A=1\n2", Source::Environment);
        let file = Source::File { path: std::path::Path::new("/e.toml").into(), line: 7 };
        raw.set(Setting::Program, "./server", file.clone());
        raw.add(Setting::Program, "-v", file);
        effective(&raw).unwrap()
    }

    #[test]
    fn the_table_shows_values_and_their_sources() {
        let text = table(&settings());
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = text.lines().map(words).collect();
        for expected in [
            "program ./server -v /e.toml:7",
            "listener none, workers ask default",
            "workers 3 flag",
            "drain_timeout 30s default",
            "hang_timeout never default",
            r#"env "A=1\n2" environment"#,
            "no_new_privs false default",
        ] {
            assert!(lines.contains(&expected.to_owned()), "{expected}: {text}");
        }
        assert_eq!(lines.len(), crate::config::KEYS.len());
    }

    #[test]
    fn the_json_has_types() {
        let json: Value = serde_json::from_str(&json_text(&settings())).unwrap();
        assert_eq!(
            json["program"],
            json!({ "value": ["./server", "-v"], "source": "file", "file": "/e.toml", "line": 7 })
        );
        assert_eq!(json["workers"], json!({ "value": 3, "source": "flag" }));
        assert_eq!(json["env"], json!({ "value": { "A": "1\n2" }, "source": "environment" }));
        assert_eq!(json["daemon"], json!({ "value": false, "source": "default" }));
        assert_eq!(json["hang_timeout"], json!({ "value": null, "source": "default" }));
        assert_eq!(json["listener"], json!({ "value": [], "source": "default" }));
    }
}
