//! A file that says who runs, and a lock on it that says whether that is still so.
//!
//! Invariant: whoever holds the lock of the file at the path is the only one. A file whose lock is free is stale, whatever
//! it says: the kernel frees the lock when its holder dies, however it dies.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use rustix::fs::{FlockOperation, flock};
use tracing::warn;

use crate::error::{Error, Result};

/// The pid file of this process. Removed when it is dropped.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    /// Holds the lock. Close-on-exec, so no worker inherits it.
    file: File,
}

impl PidFile {
    /// Takes the file at `path` and writes this process's pid into it.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let error = |operation| Error::io(operation, &format_args!("the pid file {path:?}"));
        // Whoever ends removes its file, perhaps between our open and our lock: then the lock is on a file without a name.
        for _ in 0..ATTEMPTS {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            let mut file = open.map_err(error("create"))?;
            if let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                return Err(match errno {
                    rustix::io::Errno::WOULDBLOCK => {
                        Error::PidFileTaken { path: path.to_owned(), pid: holder(&mut file) }
                    }
                    errno => error("lock")(errno.into()),
                });
            }
            if is_at(&file, path) {
                overwrite(&mut file).map_err(error("write"))?;
                return Ok(Self { path: path.to_owned(), file });
            }
        }
        Err(error("lock")(io::ErrorKind::Interrupted.into()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Somebody may have put another file in its place, which is not ours to remove.
        if is_at(&self.file, &self.path)
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "pid file not removed");
        }
    }
}

/// Enough to get past any number of processes that just end; a limit only so that the loop has one.
const ATTEMPTS: u32 = 100;

/// Far more than a pid and its line end.
const MAX_CONTENT: u64 = 32;

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// What a pid file says, if it is one.
fn read(file: &mut File) -> io::Result<Option<u32>> {
    let mut content = String::new();
    file.take(MAX_CONTENT).read_to_string(&mut content)?;
    match content.trim() {
        "" => Ok(None),
        pid => pid.parse().map(Some).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no pid file")),
    }
}

fn holder(file: &mut File) -> Option<u32> {
    read(file).ok().flatten()
}

/// Writes our pid over an old one. A file that holds something else was named by mistake and is left alone.
fn overwrite(file: &mut File) -> io::Result<()> {
    read(file)?;
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_pid_while_it_lives() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pid_file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
        drop(pid_file);
        assert!(!path.exists());
    }

    #[test]
    fn a_held_file_is_refused_and_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let _held = PidFile::create(&path).unwrap();
        let error = PidFile::create(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("the pid file {path:?} is taken by process {}", process::id()));
        assert!(path.exists());
    }

    #[test]
    fn a_file_whose_lock_is_free_is_stale() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "1234567890\n").unwrap();
        let _pid_file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", process::id()));
    }

    #[test]
    fn a_file_that_holds_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        fs::write(&path, "dear diary").unwrap();
        let error = PidFile::create(&path).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write the pid file {path:?}: it is no pid file"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "dear diary");
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing/pid");
        let error = PidFile::create(&path).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot create the pid file {path:?}: No such file or directory (os error 2)")
        );
    }

    #[test]
    fn a_file_put_in_its_place_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pid_file = PidFile::create(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "1\n").unwrap();
        drop(pid_file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }
}
