//! The systemd unit that starts what a command line says (`everport unit`).

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, KEYS, Program, Strategy};

/// How much longer than what it waits for systemd waits for the master.
const MARGIN: Duration = Duration::from_secs(10);

/// What the unit is made of, apart from the settings.
#[derive(Debug)]
pub(super) struct Origin<'a> {
    /// This command's own file.
    pub(super) executable: &'a Path,
    /// Everything behind `everport unit`.
    pub(super) arguments: &'a [OsString],
    pub(super) directory: &'a Path,
}

/// The unit, as a text for a file below `/etc/systemd/system`.
pub(super) fn unit(config: &Config, origin: &Origin<'_>, variable: impl Fn(&str) -> Option<OsString>) -> String {
    let own = [origin.executable.as_os_str(), OsStr::new("run")];
    let words = own.into_iter().chain(origin.arguments.iter().map(OsString::as_os_str));
    let command: Vec<String> = words.map(|word| quoted(word, true)).collect();
    let settings = KEYS.iter().map(|key| key.setting.variable()).chain(["EVERPORT_CONFIG".to_owned()]);
    let environment = settings.filter_map(|name| {
        let value = variable(&name)?;
        let mut pair = OsString::from(name);
        pair.push("=");
        pair.push(value);
        Some(format!("Environment={}\n", quoted(&pair, false)))
    });
    let name = match &config.program {
        Program::Command { program, .. } => Path::new(program).file_name().unwrap_or(program),
        Program::Embedded => OsStr::new("a server"),
    };
    // A reload is waited for as a start is; slot by slot it takes as many starts as there are workers.
    let starts = if config.strategy == Strategy::Rolling { config.workers.get() } else { 1 };
    let start = config.ready_timeout.saturating_mul(starts).saturating_add(config.probation).saturating_add(MARGIN);
    let stop = config.drain_timeout.saturating_add(MARGIN);
    format!(
        "[Unit]\n\
         Description={name} under Everport\n\
         After=network.target\n\
         \n\
         [Service]\n\
         # Before systemd 253: Type=notify, and ExecReload=kill -HUP $MAINPID.\n\
         Type=notify-reload\n\
         WorkingDirectory={directory}\n\
         {environment}\
         ExecStart={command}\n\
         # The master alone hears of a stop, and drains its workers; what is left at the end is killed.\n\
         KillMode=mixed\n\
         TimeoutStartSec={start}\n\
         TimeoutStopSec={stop}\n\
         WatchdogSec=30\n\
         Restart=on-failure\n\
         # Bad usage does not mend itself.\n\
         RestartPreventExitStatus=2\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        name = escaped(&name.to_string_lossy()),
        directory = escaped(&origin.directory.to_string_lossy()),
        environment = environment.collect::<String>(),
        command = command.join(" "),
        start = start.as_secs(),
        stop = stop.as_secs(),
    )
}

/// A word as systemd.syntax(7) wants it. In a command line it also expands variables.
fn quoted(word: &OsStr, is_command: bool) -> String {
    let word = escaped(&word.to_string_lossy());
    let word = if is_command { word.replace('$', "$$") } else { word };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,:=+@[]%?&".contains(c);
    match word.chars().all(is_plain) && !word.is_empty() {
        true => word,
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")),
    }
}

/// Without what systemd would take for one of its specifiers.
fn escaped(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawConfig, Setting, Source};

    fn unit_of(arguments: &[&str], settings: &[(Setting, &str)]) -> String {
        let mut raw = RawConfig::default();
        raw.add(Setting::Program, "./server", Source::Flag);
        for (setting, text) in settings {
            raw.add(*setting, text, Source::Flag);
        }
        let arguments: Vec<OsString> = arguments.iter().map(Into::into).collect();
        let origin = Origin {
            executable: Path::new("/usr/bin/everport"),
            arguments: &arguments,
            directory: Path::new("/srv/100% app"),
        };
        let variable = |name: &str| (name == "EVERPORT_CONTROL").then(|| "/run/my app".into());
        unit(&raw.try_into().unwrap(), &origin, variable)
    }

    #[track_caller]
    fn has(unit: &str, line: &str) {
        assert!(unit.lines().any(|found| found == line), "no line {line} in:\n{unit}");
    }

    #[test]
    fn it_starts_the_same_in_the_same_place() {
        let unit = unit_of(&["--listen", "[::1]:80?backlog=9", "--", "./server", "50%", "$HOME", "a \"b\"\\", ""], &[]);
        has(
            &unit,
            r#"ExecStart=/usr/bin/everport run --listen [::1]:80?backlog=9 -- ./server 50%% "$$HOME" "a \"b\"\\" """#,
        );
        has(&unit, "WorkingDirectory=/srv/100%% app");
        has(&unit, r#"Environment="EVERPORT_CONTROL=/run/my app""#);
        has(&unit, "Description=server under Everport");
    }

    #[test]
    fn systemd_waits_longer_than_the_master() {
        let unit = unit_of(&[], &[(Setting::ReadyTimeout, "1m"), (Setting::DrainTimeout, "2m")]);
        has(&unit, "TimeoutStartSec=70");
        has(&unit, "TimeoutStopSec=130");
        let rolling = [(Setting::Strategy, "rolling"), (Setting::Workers, "3"), (Setting::Probation, "5s")];
        has(&unit_of(&[], &rolling), "TimeoutStartSec=105");
    }
}
