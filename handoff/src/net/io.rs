//! A stream's socket, which tokio watches from the first time that somebody has to wait for it.
//!
//! Most requests are there before their connection is: their bytes are read, and the answer is written, at once. A
//! connection that ends with that never comes into the runtime's epoll. That saves two system calls and a turn of the runtime:
//! a fifth of what a worker pays for a connection of 16 bytes (`ops/bench/run connections`).
//!
//! Invariant: the socket is bare, or watched, or consumed by a failure to watch it; never two of these.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Handle, TryCurrentError};
use tokio::task::coop;

use super::kind::Kind;

/// How much is read at once from a bare socket: the head of a request as a rule. Of whoever sends more, tokio reads the rest.
pub(super) const FIRST_READ: usize = 4096;

/// How many slices the system writes in one call (`UIO_MAXIOV`); with more it refuses.
const MAX_SLICES: usize = 1024;

/// Slices that are no longer than this together go out as one, as the head and the body of a small response: to copy them
/// costs less than to have the system go through them.
const SMALL: usize = 1024;

/// A connected socket, non-blocking. Closed on drop.
pub(super) struct Io<K: Kind> {
    watched: OnceLock<K::Stream>,
    bare: Mutex<Option<OwnedFd>>,
    /// Whether the bare socket is read no more: it has been read empty, so that who reads on has to wait, or much was there.
    is_read: bool,
}

impl<K: Kind> Io<K> {
    /// A socket that no runtime knows.
    pub(super) fn bare(socket: OwnedFd) -> Self {
        Self { watched: OnceLock::new(), bare: Mutex::new(Some(socket)), is_read: false }
    }

    /// A stream of tokio's.
    pub(super) fn watched(stream: K::Stream) -> Self {
        Self { watched: OnceLock::from(stream), bare: Mutex::new(None), is_read: false }
    }

    /// Tokio's stream, in the runtime where it was first wanted.
    ///
    /// # Errors
    ///
    /// There is no runtime here; or the system refuses to watch the socket, which ends the connection.
    pub(super) fn tokio(&self) -> io::Result<&K::Stream> {
        if self.watched.get().is_none() {
            // Held, so that only one watches it.
            let mut bare = self.bare.lock().unwrap_or_else(PoisonError::into_inner);
            if bare.is_some() {
                Handle::try_current().map_err(no_runtime)?;
            }
            if let Some(socket) = bare.take() {
                // Nobody else can have set it.
                let _ = self.watched.set(K::register(socket)?);
            }
        }
        self.watched.get().ok_or_else(consumed)
    }

    /// As [`tokio`](Self::tokio).
    pub(super) fn tokio_mut(&mut self) -> io::Result<&mut K::Stream> {
        self.tokio()?;
        self.watched.get_mut().ok_or_else(consumed)
    }

    /// As [`tokio`](Self::tokio).
    pub(super) fn into_tokio(self) -> io::Result<K::Stream> {
        self.tokio()?;
        self.watched.into_inner().ok_or_else(consumed)
    }

    /// The standard library's stream, in no runtime.
    pub(super) fn into_std(mut self) -> io::Result<K::StdStream> {
        match self.bare_mut().take() {
            Some(socket) => Ok(K::std(socket)),
            None => K::into_std(self.watched.into_inner().ok_or_else(consumed)?),
        }
    }

    /// What needs no runtime.
    pub(super) fn with_fd<R>(&self, act: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        if let Some(stream) = self.watched.get() {
            return act(stream.as_fd());
        }
        match &*self.bare.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(socket) => act(socket.as_fd()),
            // It has come to be watched meanwhile.
            None => act(self.watched.get().ok_or_else(consumed)?.as_fd()),
        }
    }

    /// As [`poll_bare`](Self::poll_bare), for who does not wait. `None`: tokio's stream knows whether it would block.
    pub(super) fn try_bare(
        &self,
        mut act: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        let bare = self.bare.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = bare.as_ref()?;
        Some(rustix::io::retry_on_intr(|| act(socket.as_fd())).map_err(io::Error::from))
    }

    fn bare_mut(&mut self) -> &mut Option<OwnedFd> {
        self.bare.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the bare socket, unless that would have to wait. `None`: the stream of tokio's must do it.
    fn poll_bare(
        &mut self,
        cx: &mut Context<'_>,
        mut act: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<Option<io::Result<usize>>> {
        let Some(socket) = self.bare_mut() else { return Poll::Ready(None) };
        // A client that is always quicker than its task must not keep the others from their turn.
        let turn = ready!(coop::poll_proceed(cx));
        let done = rustix::io::retry_on_intr(|| act(socket.as_fd()));
        if done == Err(rustix::io::Errno::AGAIN) {
            return Poll::Ready(None);
        }
        turn.made_progress();
        Poll::Ready(Some(done.map_err(io::Error::from)))
    }
}

/// Without a signal where the client has gone, as tokio's.
pub(super) fn write(socket: BorrowedFd<'_>, buf: &[u8]) -> rustix::io::Result<usize> {
    rustix::net::send(socket, buf, SendFlags::NOSIGNAL)
}

/// As [`write()`].
pub(super) fn write_vectored(socket: BorrowedFd<'_>, bufs: &[IoSlice<'_>]) -> rustix::io::Result<usize> {
    let bufs = &bufs[..bufs.len().min(MAX_SLICES)];
    rustix::net::sendmsg(socket, bufs, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
}

/// Puts these slices into one, if they are small.
fn gather<'a>(bufs: &[IoSlice<'_>], small: &'a mut [u8; SMALL]) -> &'a [u8] {
    let mut length = 0;
    for buf in bufs {
        small[length..length + buf.len()].copy_from_slice(buf);
        length += buf.len();
    }
    &small[..length]
}

fn no_runtime(error: TryCurrentError) -> io::Error {
    io::Error::other(format!("a stream needs a tokio runtime to wait in: {error}"))
}

fn consumed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the system refused to watch the socket, which ended the connection")
}

impl<K: Kind> AsyncRead for Io<K> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.is_read && self.bare_mut().is_some() {
            let room = buf.remaining().min(FIRST_READ);
            let into = buf.initialize_unfilled_to(room);
            let read = self.poll_bare(cx, |socket| rustix::io::read(socket, &mut *into));
            if let Some(read) = ready!(read) {
                let count = read?;
                buf.advance(count);
                self.is_read = count < room || room == FIRST_READ;
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(self.tokio_mut()?).poll_read(cx, buf)
    }
}

impl<K: Kind> AsyncWrite for Io<K> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(self.poll_bare(cx, |socket| write(socket, buf))) {
            Some(written) => Poll::Ready(written),
            None => Pin::new(self.tokio_mut()?).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bufs {
            return self.poll_write(cx, only);
        }
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() <= SMALL {
            return self.poll_write(cx, gather(bufs, &mut [0; SMALL]));
        }
        match ready!(self.poll_bare(cx, |socket| write_vectored(socket, bufs))) {
            Some(written) => Poll::Ready(written),
            None => Pin::new(self.tokio_mut()?).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        // All of tokio's sockets do, and a bare one does.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.with_fd(|socket| Ok(rustix::net::shutdown(socket, Shutdown::Write)?));
        Poll::Ready(match shut {
            // The client has ended the connection already; as tokio.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }
}

impl<K: Kind> fmt::Debug for Io<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.watched.get() {
            Some(stream) => stream.fmt(f),
            None => f.debug_struct("Io").field("bare", &self.bare).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::kind::Unix;
    use super::*;

    /// A client, and its connection.
    fn pair() -> (UnixStream, Io<Unix>) {
        let (client, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (client, Io::bare(ours.into()))
    }

    fn is_watched(io: &Io<Unix>) -> bool {
        io.watched.get().is_some()
    }

    #[tokio::test]
    async fn a_request_that_is_there_is_answered_without_the_runtime_s_epoll() {
        let (mut client, mut io) = pair();
        client.write_all(b"request").unwrap();
        let mut request = [0; 64];
        assert_eq!(io.read(&mut request).await.unwrap(), 7);
        io.write_all(b"an").await.unwrap();
        assert_eq!(io.write_vectored(&[IoSlice::new(b"sw"), IoSlice::new(b"er")]).await.unwrap(), 4);
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        assert!(!is_watched(&io));
    }

    #[tokio::test]
    async fn who_must_wait_is_woken() {
        let (mut client, mut io) = pair();
        let reading = tokio::spawn(async move {
            let mut request = [0; 64];
            let first = io.read(&mut request).await.unwrap();
            (first, io.read(&mut request).await.unwrap(), is_watched(&io))
        });
        client.write_all(b"first").unwrap();
        // The reader has read that, and waits.
        tokio::task::yield_now().await;
        client.write_all(b"next one").unwrap();
        assert_eq!(reading.await.unwrap(), (5, 8, true));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_waits_for_its_client() {
        let (mut client, mut io) = pair();
        let answer = vec![7; 4 << 20];
        let writing = tokio::spawn(async move {
            io.write_all(&answer).await.unwrap();
            is_watched(&io)
        });
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            all.len()
        });
        assert!(writing.await.unwrap());
        assert_eq!(reading.await.unwrap(), 4 << 20);
    }

    /// In either way, and at the limit.
    #[tokio::test]
    async fn slices_arrive_in_order_however_long_they_are() {
        let (mut client, mut io) = pair();
        for watched in [false, true] {
            for length in [0, SMALL - 1, SMALL] {
                let slices = [&b"h"[..], &[], &vec![b'b'; length]];
                let written = io.write_vectored(&slices.map(IoSlice::new)).await.unwrap();
                let mut came = vec![0; written];
                client.read_exact(&mut came).unwrap();
                assert_eq!(came, slices.concat());
            }
            assert_eq!(is_watched(&io), watched);
            io.tokio().unwrap();
        }
    }

    #[tokio::test]
    async fn of_more_slices_than_the_system_takes_a_part_is_written() {
        let (mut client, mut io) = pair();
        let slices = vec![IoSlice::new(b"xx"); MAX_SLICES + 1];
        assert_eq!(io.write_vectored(&slices).await.unwrap(), 2 * MAX_SLICES);
        client.read_exact(&mut [0; 2 * MAX_SLICES]).unwrap();
        assert!(!is_watched(&io));
    }

    #[tokio::test]
    async fn the_end_and_an_error_are_what_tokio_makes_of_them() {
        let (client, mut io) = pair();
        drop(client);
        assert_eq!(io.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(io.write(b"answer").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        io.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_is_always_quicker_leaves_the_others_their_turn() {
        let (mut client, mut io) = pair();
        client.write_all(&[1; 4096]).unwrap();
        let had_a_turn = Arc::new(AtomicBool::new(false));
        let other = tokio::spawn({
            let had_a_turn = Arc::clone(&had_a_turn);
            async move { had_a_turn.store(true, Ordering::Relaxed) }
        });
        for _ in 0..4096 {
            io.read_exact(&mut [0; 1]).await.unwrap();
        }
        assert!(had_a_turn.load(Ordering::Relaxed));
        other.await.unwrap();
    }

    #[test]
    fn outside_of_a_runtime_what_must_wait_is_refused_and_what_need_not_is_done() {
        let (mut client, io) = pair();
        let error = io.tokio().unwrap_err();
        assert!(error.to_string().starts_with("a stream needs a tokio runtime to wait in: "), "{error}");
        assert_eq!(io.try_bare(|socket| write(socket, b"now")).unwrap().unwrap(), 3);
        assert_eq!(client.read(&mut [0; 8]).unwrap(), 3);
    }

    #[test]
    fn what_left_for_std_was_never_watched() {
        let (mut client, io) = pair();
        let mut std = io.into_std().unwrap();
        client.write_all(b"request").unwrap();
        assert_eq!(std.read(&mut [0; 8]).unwrap(), 7);
    }
}
