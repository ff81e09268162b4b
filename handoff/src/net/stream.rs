//! A connection in the application's hands: tokio's stream, with its place in the worker's count.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use rustix::net::Shutdown;
use socket2::{SockAddr, SockRef};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use super::io::{FIRST_READ, Io, write, write_vectored};
use super::kind::{Kind, Tcp, Unix};
use super::split::{self, OwnedReadHalf, OwnedWriteHalf, ReadHalf};
use super::unread::{self, Unread};
use crate::name::SocketName;
use crate::worker::link::Link;
use crate::worker::tie::Tie;

/// A connection, as [`TcpStream`](super::TcpStream) or [`UnixStream`](super::UnixStream).
///
/// It counts as an active connection of its worker until it is dropped. One that was made from a stream of tokio's counts
/// for nothing.
///
/// Dropping it ends the connection, also while the master still has its copy of the socket.
pub struct Stream<K: Kind> {
    /// Nothing only once a method that consumes the stream has taken it.
    io: Option<Io<K>>,
    peer: Option<K::Addr>,
    tie: Option<Tie>,
    unread: Unread,
}

impl<K: Kind> Stream<K> {
    pub(super) fn new(io: Io<K>, peer: Option<K::Addr>, tie: Option<Tie>, unread: Unread) -> Self {
        Self { io: Some(io), peer, tie, unread }
    }

    /// The client's address, as it was when the connection came in: it is there also after the client has gone.
    ///
    /// # Errors
    ///
    /// The system does not know it any more, for a stream that was made from one of tokio's.
    pub fn peer_addr(&self) -> io::Result<K::Addr> {
        match &self.peer {
            Some(peer) => Ok(peer.clone()),
            None => self.name(|socket| socket.peer_addr()),
        }
    }

    /// The address of this end.
    ///
    /// # Errors
    ///
    /// As tokio's.
    pub fn local_addr(&self) -> io::Result<K::Addr> {
        self.name(|socket| socket.local_addr())
    }

    /// Borrows the two halves, which can be used at the same time.
    ///
    /// # Panics
    ///
    /// As [`into_inner`](Self::into_inner).
    pub fn split(&mut self) -> (ReadHalf<'_, K>, K::WriteRef<'_>) {
        let Self { io, peer, tie, unread } = self;
        // As in `io()`.
        let io = io.as_mut().expect("taken only by methods that consume the stream");
        let (read, write) = K::split(io.tokio_mut().expect(WATCHED));
        (ReadHalf::new(read, peer.as_ref(), tie.as_ref(), unread), write)
    }

    /// Parts the stream into its two halves. The connection counts until both are dropped. Dropping the writing half
    /// shuts down writing.
    ///
    /// # Panics
    ///
    /// As [`into_inner`](Self::into_inner).
    pub fn into_split(mut self) -> (OwnedReadHalf<K>, OwnedWriteHalf<K>) {
        let peer = self.peer.take();
        let unread = std::mem::take(&mut self.unread);
        let (io, tie) = self.take();
        split::owned(io.into_tokio().expect(WATCHED), peer, tie, unread)
    }

    /// The bytes that another worker has read from the connection and not used, as far as nobody has read them here. They
    /// count as read.
    pub fn take_unread(&mut self) -> Bytes {
        let bytes = self.unread.take();
        if !bytes.is_empty() {
            self.was_read();
        }
        bytes
    }

    /// Waits until the client has said something, and reads nothing.
    #[cfg(all(feature = "http", feature = "rustls"))]
    pub(crate) async fn first_byte(&self) -> io::Result<()> {
        if self.unread.any() { Ok(()) } else { K::readable(self.tokio()?).await }
    }

    /// Leaves tokio and the worker's count: a [`Guard`](crate::worker::Guard) keeps the worker alive for what goes on with
    /// the socket. It stays non-blocking, for the master may still share it; dropping it closes it, no more.
    ///
    /// # Errors
    ///
    /// As tokio's, and when bytes are left for [`take_unread`](Self::take_unread). The connection ends then.
    pub fn into_std(mut self) -> io::Result<K::StdStream> {
        if self.unread.any() {
            return Err(unread::left());
        }
        self.take().0.into_std()
    }

    /// Leaves the worker's count, as [`into_std`](Self::into_std) does. Bytes of [`take_unread`](Self::take_unread) that
    /// were not taken are lost.
    ///
    /// # Panics
    ///
    /// Tokio watches a connection from the first time that somebody has to wait for it; this is one. It panics outside of a
    /// tokio runtime, as tokio's `from_std` does, and when the system has no memory for it.
    pub fn into_inner(mut self) -> K::Stream {
        self.take().0.into_tokio().expect(WATCHED)
    }

    /// The worker that counts it.
    pub(crate) fn link(&self) -> Option<&Arc<Link>> {
        self.tie.as_ref().map(Tie::link)
    }

    pub(super) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// The parts of a stream that a worker counts.
    pub(super) fn into_tied(mut self) -> Option<(Io<K>, K::Addr, Tie)> {
        let peer = self.peer.take()?;
        match self.take() {
            (io, Some(tie)) => Some((io, peer, tie)),
            (_, None) => None,
        }
    }

    fn take(&mut self) -> (Io<K>, Option<Tie>) {
        // The callers consume the stream, so that this is the only time.
        let io = self.io.take().expect("taken only by methods that consume the stream");
        (io, self.tie.take())
    }

    pub(super) fn io(&self) -> &Io<K> {
        // Every method that takes it consumes the stream.
        self.io.as_ref().expect("taken only by methods that consume the stream")
    }

    /// Tokio's stream.
    pub(super) fn tokio(&self) -> io::Result<&K::Stream> {
        self.io().tokio()
    }

    fn io_mut(&mut self) -> Pin<&mut Io<K>> {
        // As in `io()`.
        Pin::new(self.io.as_mut().expect("taken only by methods that consume the stream"))
    }

    /// What the system calls one end.
    fn name(&self, ask: impl FnOnce(SockRef<'_>) -> io::Result<SockAddr>) -> io::Result<K::Addr> {
        let name = self.io().with_fd(|socket| ask(SockRef::from(&socket)))?;
        let other = || io::Error::new(io::ErrorKind::InvalidData, "the socket is of another kind than the stream");
        K::addr(&SocketName::from(&name)).ok_or_else(other)
    }

    fn was_read(&self) {
        if let Some(tie) = &self.tie {
            tie.was_read();
        }
    }

    /// Passes the outcome of a read on, and notes that there was one.
    fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        if is_read(&outcome) {
            self.was_read();
        }
        outcome
    }
}

/// What is expected where there is no way to say otherwise.
const WATCHED: &str = "a runtime watches the connection";

/// Whether the application has read from a stream now, or has seen that it cannot.
pub(super) fn is_read<T>(outcome: &io::Result<T>) -> bool {
    !matches!(outcome, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

impl<K: Kind> Drop for Stream<K> {
    fn drop(&mut self) {
        if let (Some(io), Some(tie)) = (&self.io, &self.tie)
            && tie.is_shared()
        {
            // As in `end`.
            let _ = io.with_fd(|socket| Ok(rustix::net::shutdown(socket, Shutdown::Both)?));
        }
    }
}

/// Ends a connection whose last owner in this process goes. The descriptor is closed right after.
pub(super) fn end(io: &impl AsFd, tie: &Tie) {
    if tie.is_shared() {
        // It fails when the client has ended the connection: there is nothing left to end.
        let _ = rustix::net::shutdown(io, Shutdown::Both);
    }
}

impl<K: Kind> AsyncRead for Stream<K> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = match self.unread.read_some(buf) {
            Some(()) => Ok(()),
            None => ready!(self.io_mut().poll_read(cx, buf)),
        };
        self.was_read();
        Poll::Ready(outcome)
    }
}

impl<K: Kind> AsyncWrite for Stream<K> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io_mut().poll_shutdown(cx)
    }
}

/// # Panics
///
/// As [`Stream::into_inner`].
impl<K: Kind> AsFd for Stream<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tokio().expect(WATCHED).as_fd()
    }
}

impl<K: Kind> fmt::Debug for Stream<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("io", &self.io)
            .field("peer", &self.peer)
            .field("tie", &self.tie)
            .finish_non_exhaustive()
    }
}

/// What tokio has as methods of each type and not of a trait.
macro_rules! as_tokio {
    ($kind:ty, $tokio:ty) => {
        impl Stream<$kind> {
            fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
                match self.io().try_bare(|socket| rustix::io::read(socket, &mut *buf)) {
                    Some(read) => read,
                    None => self.tokio()?.try_read(buf),
                }
            }

            fn read_vectored_now(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                match self.io().try_bare(|socket| rustix::io::readv(socket, bufs)) {
                    Some(read) => read,
                    None => self.tokio()?.try_read_vectored(bufs),
                }
            }

            fn read_buf_now(&self, buf: &mut impl BufMut) -> io::Result<usize> {
                let mut first = [0; FIRST_READ];
                let room = buf.remaining_mut().min(FIRST_READ);
                match self.io().try_bare(|socket| rustix::io::read(socket, &mut first[..room])) {
                    Some(read) => read.inspect(|count| buf.put_slice(&first[..*count])),
                    None => self.tokio()?.try_read_buf(buf),
                }
            }

            /// As tokio's.
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                self.unread.ready(interest, self.tokio()?.ready(interest)).await
            }

            /// As tokio's.
            pub async fn readable(&self) -> io::Result<()> {
                if self.unread.any() { Ok(()) } else { self.tokio()?.readable().await }
            }

            /// As tokio's.
            pub async fn writable(&self) -> io::Result<()> {
                self.tokio()?.writable().await
            }

            /// As tokio's.
            pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                if self.unread.any() { Poll::Ready(Ok(())) } else { self.tokio()?.poll_read_ready(cx) }
            }

            /// As tokio's.
            pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.tokio()?.poll_write_ready(cx)
            }

            /// As tokio's.
            pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.note(self.unread.read(buf).map_or_else(|| self.read_now(buf), Ok))
            }

            /// As tokio's.
            pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.note(self.unread.read_vectored(bufs).map_or_else(|| self.read_vectored_now(bufs), Ok))
            }

            /// As tokio's.
            pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
                self.note(self.unread.read_buf(buf).map_or_else(|| self.read_buf_now(buf), Ok))
            }

            /// As tokio's.
            pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                match self.io().try_bare(|socket| write(socket, buf)) {
                    Some(written) => written,
                    None => self.tokio()?.try_write(buf),
                }
            }

            /// As tokio's.
            pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                match self.io().try_bare(|socket| write_vectored(socket, bufs)) {
                    Some(written) => written,
                    None => self.tokio()?.try_write_vectored(bufs),
                }
            }

            /// As tokio's. The worker takes a success for a read. It fails for reads while there are bytes for
            /// [`take_unread`](Stream::take_unread).
            pub fn try_io<R>(&self, interest: Interest, io: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
                self.unread.refuse_direct(interest)?;
                self.note(self.tokio()?.try_io(interest, io))
            }

            /// As tokio's. The worker takes the end for a read. It fails as [`try_io`](Self::try_io).
            pub async fn async_io<R>(&self, interest: Interest, io: impl FnMut() -> io::Result<R>) -> io::Result<R> {
                self.unread.refuse_direct(interest)?;
                self.note(self.tokio()?.async_io(interest, io).await)
            }

            /// As tokio's.
            pub fn take_error(&self) -> io::Result<Option<io::Error>> {
                self.io().with_fd(|socket| SockRef::from(&socket).take_error())
            }
        }

        /// What is read through tokio's stream is not seen by the worker, and comes after the bytes of
        /// [`take_unread`](Stream::take_unread). Panics as [`Stream::into_inner`].
        impl AsRef<$tokio> for Stream<$kind> {
            fn as_ref(&self) -> &$tokio {
                self.tokio().expect(WATCHED)
            }
        }

        /// The stream counts for nothing: take a [`Guard`](crate::worker::Guard) where a drain shall wait for it.
        impl From<$tokio> for Stream<$kind> {
            fn from(io: $tokio) -> Self {
                Self::new(Io::watched(io), None, None, Unread::default())
            }
        }

        /// As [`Stream::into_inner`].
        impl From<Stream<$kind>> for $tokio {
            fn from(stream: Stream<$kind>) -> Self {
                stream.into_inner()
            }
        }
    };
}

as_tokio!(Tcp, tokio::net::TcpStream);
as_tokio!(Unix, tokio::net::UnixStream);
