//! The audit file: one JSON line for every reload that ended, every generation that drained and every order beside these.
//!
//! Invariant: each line is one write at the end of the file, so that lines of several writers never tear; and whatever
//! becomes of it, nothing waits for the file and no reload fails because of it.

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use tracing::{error, info};

/// Where the lines go, if anywhere.
#[derive(Debug)]
pub(super) struct Audit {
    path: Option<PathBuf>,
    failing: bool,
}

impl Audit {
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, failing: false }
    }

    /// Appends one line. A failure is said once, until a line is written again.
    pub(super) fn append(&mut self, line: &(impl Serialize + Debug)) {
        let Some(path) = &self.path else { return };
        let written = append(path, line);
        match (&written, self.failing) {
            (Err(error), false) => error!(path = ?path, %error, "audit line not written"),
            (Ok(()), true) => info!(path = ?path, "audit file written again"),
            (Err(_), true) | (Ok(()), false) => {}
        }
        self.failing = written.is_err();
    }
}

/// Opened anew for each line: reloads are rare, and a file that was moved away needs no word to the master.
fn append(path: &Path, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    // Without waiting: the path may lead to a pipe that nobody reads.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    match rustix::io::write(&file, &bytes)? {
        written if written == bytes.len() => Ok(()),
        written => Err(io::Error::other(format!("only {written} of {} bytes fit", bytes.len()))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_line_is_appended_and_a_moved_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let mut audit = Audit::new(Some(path.clone()));
        audit.append(&1);
        audit.append(&"two");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n\"two\"\n");
        fs::rename(&path, folder.path().join("audit.1")).unwrap();
        audit.append(&3);
        assert_eq!(fs::read_to_string(&path).unwrap(), "3\n");
    }

    #[test]
    fn a_full_disk_a_missing_folder_and_a_pipe_without_a_reader_are_errors_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let error = |path: &Path| append(path, &1).unwrap_err().raw_os_error();
        assert_eq!(error(Path::new("/dev/full")), Some(28));
        assert_eq!(error(&folder.path().join("missing/audit")), Some(2));
        assert_eq!(error(&pipe), Some(6));
        let mut audit = Audit::new(Some(pipe));
        audit.append(&1);
        assert!(audit.failing);
    }
}
