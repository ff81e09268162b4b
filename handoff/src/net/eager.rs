//! The first read and the first write of an accepted connection ask the socket at once, not when the runtime says that it is
//! ready.
//!
//! Tokio learns what a socket is ready for at its next look at epoll. By the time a connection is taken its client has mostly
//! sent something, and there is room for the first answer always: waiting for that look would cost a short connection a
//! system call, and a turn of the runtime, for each of the two. Whatever the socket has not, tokio waits for as ever.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::ReadBuf;

/// How much the first read takes at most: what it may fill is zeroed before.
const MAX_READ: usize = 16 * 1024;

/// How many parts one write may have (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// What was not tried yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Eager {
    read: bool,
    write: bool,
}

impl Eager {
    /// For a socket that the runtime has just begun to watch.
    pub(super) fn fresh() -> Self {
        Self { read: true, write: true }
    }

    /// As `poll_read`, the first time; `None` when the runtime is to be asked.
    pub(super) fn read(&mut self, socket: impl AsFd, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        if buf.remaining() == 0 || !std::mem::take(&mut self.read) {
            return None;
        }
        let room = buf.initialize_unfilled_to(buf.remaining().min(MAX_READ));
        let count = done(rustix::io::read(socket, room))?;
        Some(count.map(|count| buf.advance(count)))
    }

    /// As `poll_write`; `None` as above.
    pub(super) fn write(&mut self, socket: impl AsFd, buf: &[u8]) -> Option<io::Result<usize>> {
        let first = std::mem::take(&mut self.write);
        if first { done(rustix::net::send(socket, buf, SendFlags::NOSIGNAL)) } else { None }
    }

    /// As `poll_write_vectored`; `None` as above.
    pub(super) fn write_vectored(&mut self, socket: impl AsFd, bufs: &[IoSlice<'_>]) -> Option<io::Result<usize>> {
        let first = std::mem::take(&mut self.write);
        if first { done(rustix::io::writev(socket, &bufs[..bufs.len().min(MAX_PARTS)])) } else { None }
    }
}

/// `None` when there was nothing to be had yet.
fn done<T>(outcome: rustix::io::Result<T>) -> Option<io::Result<T>> {
    match outcome {
        Err(Errno::AGAIN | Errno::INTR) => None,
        outcome => Some(outcome.map_err(io::Error::from)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_is_there_is_read_once() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"request").unwrap();
        let mut eager = Eager::fresh();
        let mut space = [0; 4];
        let mut buf = ReadBuf::new(&mut space);
        eager.read(&ours, &mut buf).unwrap().unwrap();
        assert_eq!(buf.filled(), b"requ");
        buf.clear();
        assert!(eager.read(&ours, &mut buf).is_none());
        assert!(buf.filled().is_empty());
    }

    #[test]
    fn what_is_not_there_is_the_runtimes() {
        let (ours, _theirs) = pair();
        let mut buf = [0; 4];
        assert!(Eager::fresh().read(&ours, &mut ReadBuf::new(&mut buf)).is_none());
        // Nobody can tell a read into no room from the end.
        assert!(Eager::fresh().read(&ours, &mut ReadBuf::new(&mut [])).is_none());
    }

    #[test]
    fn the_end_and_a_failure_are_said() {
        let (ours, theirs) = pair();
        drop(theirs);
        let mut space = [0; 4];
        let mut buf = ReadBuf::new(&mut space);
        Eager::fresh().read(&ours, &mut buf).unwrap().unwrap();
        assert!(buf.filled().is_empty());
        assert_eq!(Eager::fresh().write(&ours, b"x").unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_first_answer_is_written_once_and_a_full_socket_is_the_runtimes() {
        let (ours, mut theirs) = pair();
        let mut eager = Eager::fresh();
        assert_eq!(eager.write(&ours, b"ans").unwrap().unwrap(), 3);
        assert!(eager.write(&ours, b"wer").is_none());
        let parts = [IoSlice::new(b"w"), IoSlice::new(b"er")];
        assert!(eager.write_vectored(&ours, &parts).is_none());
        assert_eq!(Eager::fresh().write_vectored(&ours, &parts).unwrap().unwrap(), 3);
        let many = [IoSlice::new(b""); MAX_PARTS + 1];
        assert_eq!(Eager::fresh().write_vectored(&ours, &many).unwrap().unwrap(), 0);
        let mut answer = [0; 6];
        theirs.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer");
        let chunk = [0; 65536];
        let writes = std::iter::repeat_with(|| Eager::fresh().write(&ours, &chunk)).take(1000);
        assert!(writes.into_iter().any(|outcome| outcome.is_none()), "a socket's buffer is bounded");
    }
}
