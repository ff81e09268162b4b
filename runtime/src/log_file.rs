//! A file that lines are appended to, by this process and others, and that can be opened again after it was moved away.
//!
//! Invariant: whatever is written is whole lines, in one write to a file that is opened for appending; so lines of several
//! writers never tear. What cannot be written, as on a full disk, is dropped and counted: nobody waits for a log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Who may read it: the owner and the group, as is usual for logs.
const MODE: u32 = 0o640;

/// A log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    /// Lines dropped since the last one that was written.
    lost: u64,
    /// Whether the last write stopped within a line.
    is_torn: bool,
}

/// What became of some lines.
#[derive(Debug)]
pub(crate) enum Written {
    /// When all is in the file, as always.
    Whole,
    /// When all is in the file, after so many lines before it were dropped.
    Again { lost: u64 },
    /// When it is dropped, as those before it.
    Dropped,
    /// When it is dropped, and those before it were not.
    Failed(io::Error),
}

impl LogFile {
    /// Opens the file at `path`, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open(path).map_err(Error::io("open", &format_args!("the log file {path:?}")))?;
        Ok(Self { path: path.to_owned(), file, lost: 0, is_torn: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path again. If that fails, the file stays the one that it was.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        let path = &self.path;
        self.file = open(path).map_err(Error::io("open", &format_args!("the log file {path:?} again")))?;
        self.is_torn = false;
        Ok(())
    }

    /// Appends whole lines, with their line ends.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Written {
        match self.try_append(lines) {
            Ok(()) => match std::mem::take(&mut self.lost) {
                0 => Written::Whole,
                lost => Written::Again { lost },
            },
            Err(error) => {
                let is_first = self.lost == 0;
                // No address space holds more lines than a u64 counts.
                self.lost += lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                if is_first { Written::Failed(error) } else { Written::Dropped }
            }
        }
    }

    fn try_append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.write_all(b"\n")?;
            self.is_torn = false;
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_torn = rest.len() < lines.len() && !lines[..lines.len() - rest.len()].ends_with(b"\n");
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(MODE).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn appends_and_follows_its_path_when_told() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        fs::write(&path, "old\n").unwrap();
        let mut log = LogFile::open(&path).unwrap();
        log.append(b"one\n");
        fs::rename(&path, &moved).unwrap();
        log.append(b"two\n");
        log.reopen().unwrap();
        log.append(b"three\n");
        assert_eq!(fs::read_to_string(&moved).unwrap(), "old\none\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0);
    }

    #[test]
    fn a_full_disk_is_told_once_and_what_was_lost_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        symlink("/dev/full", &path).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        assert!(matches!(log.append(b"one\n"), Written::Failed(error) if error.kind() == io::ErrorKind::StorageFull));
        assert!(matches!(log.append(b"two\nthree\n"), Written::Dropped));
        fs::remove_file(&path).unwrap();
        log.reopen().unwrap();
        assert!(matches!(log.append(b"four\n"), Written::Again { lost: 3 }));
        assert!(matches!(log.append(b"five\n"), Written::Whole));
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\nfive\n");
    }

    #[test]
    fn a_folder_that_is_gone_leaves_the_file_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/log");
        fs::create_dir(folder.path().join("logs")).unwrap();
        let mut log = LogFile::open(&path).unwrap();
        fs::rename(folder.path().join("logs"), folder.path().join("moved")).unwrap();
        let error = log.reopen().unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot open the log file {path:?} again: ")), "{error}");
        log.append(b"still here\n");
        assert_eq!(fs::read_to_string(folder.path().join("moved/log")).unwrap(), "still here\n");
    }
}
