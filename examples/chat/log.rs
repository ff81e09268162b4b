//! The log of what was said: one file that all workers of all generations share.
//!
//! One message is one line, appended by one write, so that messages never mix and everybody sees them in one order. Each
//! user has a place in the log up to which he was told; wherever he moves, he goes on from there: he misses nothing and
//! hears nothing twice. The kernel tells each worker when the file has grown.
//!
//! The file is made of offsets that only grow; what nobody needs any more becomes a hole in it.
//!
//! Reading and writing does not leave the page cache, so that it is done without leaving the runtime's thread.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{FallocateFlags, OFlags, fallocate, inotify};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How many bytes of the log are kept. Whoever is further behind has missed something and must leave.
pub(crate) const KEPT: u64 = 1024 * 1024;

/// How much is read at once; a line is always shorter.
const CHUNK: usize = 64 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) room: String,
    pub(crate) nick: String,
    pub(crate) text: String,
}

/// The log as one worker has it.
#[derive(Debug)]
pub(crate) struct Log {
    file: Mutex<File>,
    grown: watch::Receiver<()>,
}

impl Log {
    /// Opens the log, makes it if nobody has, and follows it by a thread.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).append(true).create(true).mode(0o600);
        let file = options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)?;
        let kernel = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&kernel, path, inotify::WatchFlags::MODIFY)?;
        let (grows, grown) = watch::channel(());
        thread::Builder::new().name("log".to_owned()).spawn(move || follow(&kernel, &grows))?;
        Ok(Self { file: Mutex::new(file), grown })
    }

    /// What changes whenever the log has grown.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.grown.clone()
    }

    /// Where the next message will be.
    pub(crate) fn end(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.len())
    }

    /// Appends a message.
    pub(crate) fn append(&self, line: &Line) -> io::Result<()> {
        let bytes = [&serde_json::to_vec(line)?[..], b"\n"].concat();
        let mut file = self.file();
        // Once: what would follow a part of it might not be its rest.
        if file.write(&bytes)? != bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let end = file.stream_position()?;
        let (before, after) = ((end - bytes.len() as u64) / KEPT, end / KEPT);
        if after > before && after > 1 {
            // Those who are that far behind leave, see `read`.
            let dig = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&*file, dig, 0, (after - 1) * KEPT)?;
        }
        Ok(())
    }

    /// The next messages behind this place, which moves on; none if there are no more yet.
    ///
    /// # Errors
    ///
    /// What should come next is not kept any more.
    pub(crate) fn read(&self, place: &mut u64) -> io::Result<Vec<Line>> {
        let file = self.file();
        let more = || Ok::<_, io::Error>(file.metadata()?.len().saturating_sub(*place));
        let mut chunk = vec![0; usize::try_from(more()?).unwrap_or(CHUNK).min(CHUNK)];
        if chunk.is_empty() {
            return Ok(Vec::new());
        }
        let length = file.read_at(&mut chunk, *place)?;
        // Asked after reading, for it grows meanwhile.
        if more()? > KEPT {
            return Err(io::Error::other("too far behind"));
        }
        // The last line may not be whole yet.
        let whole = chunk[..length].iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        *place += whole as u64;
        // One that is no message is what a full disk left.
        Ok(chunk[..whole].split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }

    fn file(&self) -> MutexGuard<'_, File> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes on that the file has grown, until the process ends.
fn follow(kernel: &OwnedFd, grows: &watch::Sender<()>) {
    let mut events = [0; 1024];
    // What the events say is known: there is one file.
    while rustix::io::read(kernel, &mut events[..]).is_ok() {
        grows.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Line {
        Line { room: "hall".to_owned(), nick: "ann".to_owned(), text: format!("{number} {}\n", "x".repeat(900)) }
    }

    /// As two workers have it.
    fn two() -> (tempfile::TempDir, Log, Log) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("log");
        let open = || Log::open(&path).expect("the folder is ours");
        let (one, other) = (open(), open());
        (folder, one, other)
    }

    #[tokio::test]
    async fn what_one_worker_appends_another_reads_once_and_in_order() {
        let (_folder, one, other) = two();
        let mut news = other.news();
        let mut place = other.end().expect("a file");
        let mut seen = Vec::new();
        for number in 0..100 {
            [&one, &other][number % 2].append(&line(number)).expect("room");
            while seen.len() <= number {
                let lines = other.read(&mut place).expect("it is kept");
                if lines.is_empty() {
                    news.changed().await.expect("the log is followed");
                }
                seen.extend(lines);
            }
        }
        assert_eq!(seen, (0..100).map(line).collect::<Vec<_>>());
        assert_eq!(other.read(&mut place).expect("it is kept"), []);
    }

    #[tokio::test]
    async fn the_file_is_bounded_and_who_is_too_far_behind_is_told() {
        let (folder, one, other) = two();
        let mut place = 0;
        for number in 0..5000 {
            one.append(&line(number)).expect("room");
        }
        let file = folder.path().join("log").metadata().expect("it is there");
        assert!(file.len() > 4 * KEPT);
        let blocks = std::os::unix::fs::MetadataExt::blocks(&file);
        assert!(blocks * 512 <= 2 * KEPT + 64 * 1024, "{blocks} blocks");
        other.read(&mut place).expect_err("it is not kept any more");
        let mut place = file.len() - KEPT;
        let newest =
            std::iter::from_fn(|| Some(other.read(&mut place).expect("kept")).filter(|lines| !lines.is_empty()));
        assert_eq!(newest.last().and_then(|lines| lines.last().cloned()), Some(line(4999)));
    }
}
