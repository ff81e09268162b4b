//! Where log lines go: to standard error or to a file, as text or as JSON.
//!
//! `RUST_LOG` says which (default `info`), `EVERPORT_LOG_FORMAT` how (`text`, the default, or `json`). Workers inherit both.
//!
//! Invariant: no log line can hold the master, for its standard error may be a pipe that nobody reads. A thread writes the
//! lines; when it falls behind by [`MAX_LINES`], further ones are dropped.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::warn;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::config::{ConfigError, Problem, quoted};
use crate::error::Result;
use crate::log_file::{LogFile, Written};

/// How many lines may wait for the thread that writes them: minutes of a busy master, a few megabytes.
const MAX_LINES: usize = 16 * 1024;

/// Who logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Never waits for the reader of its log.
    Master,
    /// Writes at once, so that its last line is out before it ends.
    Worker,
}

/// What must live as long as lines are logged: when it is dropped, those that wait are written, for at most a second.
#[must_use = "lines that wait are lost without it"]
#[derive(Debug)]
pub(crate) struct Flush {
    _guard: Option<WorkerGuard>,
}

/// Starts logging. A subscriber that the program has set before stays.
/// A `log_file` is the master's alone.
pub(crate) fn init(role: Role, log_file: Option<&Path>, lookup: impl Fn(&str) -> Option<OsString>) -> Result<Flush> {
    let format = format(lookup("EVERPORT_LOG_FORMAT"))?;
    let filter = filter(lookup("RUST_LOG"))?;
    let no_colour = lookup("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colours = log_file.is_none() && !no_colour && io::stderr().is_terminal();
    *target() = log_file.map(LogFile::open).transpose()?;
    let (writer, guard) = match role {
        Role::Master => {
            let (writer, guard) = NonBlockingBuilder::default()
                .buffered_lines_limit(MAX_LINES)
                .lossy(true)
                .thread_name("everport-log")
                .finish(Target);
            (BoxMakeWriter::new(writer), Some(guard))
        }
        Role::Worker => (BoxMakeWriter::new(io::stderr), None),
    };
    // A line that cannot be written is lost: to complain on standard error would fail as well, and panic.
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).log_internal_errors(false);
    // The only failure is that there is a subscriber already: the program's own choice.
    let _: std::result::Result<(), _> = match format {
        Format::Text => subscriber.with_ansi(colours).try_init(),
        Format::Json => subscriber.json().flatten_event(true).try_init(),
    };
    Ok(Flush { _guard: guard })
}

/// Opens the log file again, if there is one.
pub(crate) fn reopen() -> Option<(PathBuf, Result<()>)> {
    target().as_mut().map(|file| (file.path().to_owned(), file.reopen()))
}

/// The log file of this process, as there is one log. None: standard error.
static TARGET: Mutex<Option<LogFile>> = Mutex::new(None);

fn target() -> MutexGuard<'static, Option<LogFile>> {
    TARGET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the thread of the log writes to: each write is one line.
#[derive(Debug)]
struct Target;

impl Write for Target {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut target = target();
        let Some(file) = target.as_mut() else { return io::stderr().write(line) };
        match file.append(line) {
            Written::Whole | Written::Dropped => {}
            // It waits in the queue until this line is done.
            Written::Again { lost } => warn!(path = %file.path().display(), lost, "log file written again"),
            Written::Failed(error) => {
                // There is no other place to say it, and if this one is gone too, nobody listens.
                let _ = writeln!(io::stderr(), "everport: cannot write the log file {:?}: {error}", file.path());
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
}

fn format(given: Option<OsString>) -> std::result::Result<Format, ConfigError> {
    let Some(text) = given else {
        return Ok(Format::Text);
    };
    match text.to_str() {
        Some("" | "text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        _ => Err(ConfigError::named("EVERPORT_LOG_FORMAT", quoted(&text), Problem::LogFormat)),
    }
}

fn filter(given: Option<OsString>) -> std::result::Result<EnvFilter, ConfigError> {
    let text = given.unwrap_or_default();
    let wrong = |problem| ConfigError::named("RUST_LOG", quoted(&text), problem);
    let directives = text.to_str().ok_or_else(|| wrong(Problem::NotUtf8))?;
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)
        .map_err(|error| wrong(Problem::LogFilter(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_default_format() {
        for given in [None, Some(OsString::new()), Some("text".into())] {
            assert_eq!(format(given).unwrap(), Format::Text);
        }
        assert_eq!(format(Some("json".into())).unwrap(), Format::Json);
    }

    #[test]
    fn info_is_the_default_level() {
        assert_eq!(filter(None).unwrap().max_level_hint(), Some(LevelFilter::INFO));
        assert_eq!(filter(Some("warn,everport=debug".into())).unwrap().max_level_hint(), Some(LevelFilter::DEBUG));
    }

    #[test]
    fn wrong_values_are_named() {
        let error = format(Some("xml".into())).unwrap_err();
        assert_eq!(error.to_string(), r#"invalid EVERPORT_LOG_FORMAT "xml": want text or json"#);
        let error = filter(Some("everport=loud".into())).unwrap_err();
        let expected = r#"invalid RUST_LOG "everport=loud": not a log filter such as info or everport=debug ("#;
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
