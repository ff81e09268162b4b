//! Standard output and standard error of a worker whose master is lost: where they are pipes that the master read, nobody
//! reads them any more, and a program that prints would fail or be killed in the middle of what it finishes. Such a stream
//! leads nowhere from then on.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::FileType;

/// Which of the two streams are pipes that may lose their reader.
#[derive(Debug)]
pub(super) struct Streams {
    pipes: [bool; 2],
}

impl Streams {
    pub(super) fn look() -> Self {
        let is_pipe = |fd| rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_fifo());
        Self { pipes: both().map(is_pipe) }
    }

    /// What to wait for: the loss of a reader is reported without being asked for.
    pub(super) fn watched<'a>(&self) -> impl Iterator<Item = PollFd<'a>> + use<'a> {
        let pipes = both().into_iter().zip(self.pipes).filter(|(_, is_pipe)| *is_pipe);
        pipes.map(|(fd, _)| PollFd::from_borrowed_fd(fd, PollFlags::empty()))
    }

    /// Some pipe has lost its reader: lets all of them lead nowhere, for they had the same one.
    pub(super) fn let_go(&mut self) -> io::Result<()> {
        let [output, errors] = std::mem::take(&mut self.pipes);
        let nowhere = File::options().write(true).open("/dev/null")?;
        if output {
            rustix::stdio::dup2_stdout(&nowhere)?;
        }
        if errors {
            rustix::stdio::dup2_stderr(&nowhere)?;
        }
        Ok(())
    }
}

fn both() -> [BorrowedFd<'static>; 2] {
    [rustix::stdio::stdout(), rustix::stdio::stderr()]
}
