//! What a generation was started from: a file or a directory that stays the same, whatever becomes of its path.
//!
//! A path that still leads to that very file is preferred, the given one or the real one: a process that is run through
//! `/proc/self/fd` is named after a number. Only when neither does is the open descriptor used. A script cannot be run
//! that way, for its interpreter would have to open the descriptor, which is closed by then: it is run by path, and the log
//! says so.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tracing::warn;

/// A file or a directory, however its path is used later.
#[derive(Debug)]
pub(super) struct Pin {
    /// The path as it was given, and free of symlinks as it was then.
    given: PathBuf,
    real: PathBuf,
    file: OwnedFd,
    kind: Kind,
    /// Whether the log knows that the path leads to another file.
    told: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// What the kernel can use through a descriptor.
    Native,
    /// What needs its path, for an interpreter opens it.
    Script,
}

impl Pin {
    pub(super) fn program(path: PathBuf) -> io::Result<Self> {
        let kind = if is_script(&path) { Kind::Script } else { Kind::Native };
        Self::open(path, OFlags::empty(), kind)
    }

    pub(super) fn directory(path: PathBuf) -> io::Result<Self> {
        Self::open(path, OFlags::DIRECTORY, Kind::Native)
    }

    fn open(given: PathBuf, flags: OFlags, kind: Kind) -> io::Result<Self> {
        let file = rustix::fs::open(&given, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let real = fs::canonicalize(&given).unwrap_or_else(|_| given.clone());
        Ok(Self { given, real, file, kind, told: Cell::new(false) })
    }

    /// A path that leads to the pinned file.
    pub(super) fn path(&self) -> PathBuf {
        if let Some(path) = [&self.given, &self.real].into_iter().find(|path| self.is_at(path)) {
            return path.clone();
        }
        let is_news = !self.told.replace(true);
        match self.kind {
            Kind::Native => {
                if is_news {
                    warn!(path = ?self.given, "replaced on disk; this generation goes on with what it was started from");
                }
                PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            }
            Kind::Script => {
                if is_news {
                    warn!(path = ?self.given, "replaced on disk; a script cannot be pinned, this generation goes on with the new one");
                }
                self.given.clone()
            }
        }
    }

    fn is_at(&self, path: &Path) -> bool {
        let Ok(pinned) = rustix::fs::fstat(&self.file) else { return false };
        fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (pinned.st_dev, pinned.st_ino))
    }
}

/// Whether the file names an interpreter. One that may be run but not read is none: no interpreter could read it either.
fn is_script(path: &Path) -> bool {
    let mut first = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut first)).is_ok() && first == *b"#!"
}
