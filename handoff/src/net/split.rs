//! The halves of a stream: tokio's halves, with their part in the worker's count.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use super::io::Io;
use super::kind::{Kind, Tcp, Unix};
use super::stream::{Stream, end, is_read};
use super::unread::Unread;
use crate::worker::tie::Tie;

/// The reading half of a stream, borrowed by [`Stream::split`].
#[derive(Debug)]
pub struct ReadHalf<'a, K: Kind> {
    io: K::ReadRef<'a>,
    peer: Option<&'a K::Addr>,
    tie: Option<&'a Tie>,
    unread: &'a Unread,
}

impl<'a, K: Kind> ReadHalf<'a, K> {
    pub(super) fn new(io: K::ReadRef<'a>, peer: Option<&'a K::Addr>, tie: Option<&'a Tie>, unread: &'a Unread) -> Self {
        Self { io, peer, tie, unread }
    }

    fn unread(&self) -> &Unread {
        self.unread
    }

    fn was_read(&self) {
        if let Some(tie) = self.tie {
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

impl<K: Kind> AsyncRead for ReadHalf<'_, K> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = match self.unread.read_some(buf) {
            Some(()) => Ok(()),
            None => ready!(Pin::new(&mut self.io).poll_read(cx, buf)),
        };
        self.was_read();
        Poll::Ready(outcome)
    }
}

/// The reading half of a stream, made by [`Stream::into_split`].
pub struct OwnedReadHalf<K: Kind>(Half<K, K::ReadHalf>);

/// The writing half of a stream, made by [`Stream::into_split`]. Dropping it shuts down writing.
pub struct OwnedWriteHalf<K: Kind>(Half<K, K::WriteHalf>);

/// When two halves are not of one stream: [`OwnedReadHalf::reunite`] gives them back.
#[derive(Debug, thiserror::Error)]
#[error("the two halves are not of one stream")]
pub struct ReuniteError<K: Kind>(pub OwnedReadHalf<K>, pub OwnedWriteHalf<K>);

/// What both halves hold together.
#[derive(Debug)]
struct Whole<K: Kind> {
    peer: Option<K::Addr>,
    tie: Option<Tie>,
    unread: Unread,
}

/// One half. Whichever is dropped last ends the connection.
struct Half<K: Kind, H: AsRef<K::Stream>> {
    /// Nothing only once a method that consumes the half has taken it.
    io: Option<H>,
    whole: Option<Arc<Whole<K>>>,
}

/// Parts a stream.
pub(super) fn owned<K: Kind>(
    io: K::Stream,
    peer: Option<K::Addr>,
    tie: Option<Tie>,
    unread: Unread,
) -> (OwnedReadHalf<K>, OwnedWriteHalf<K>) {
    let (read, write) = K::into_split(io);
    let whole = Arc::new(Whole { peer, tie, unread });
    (OwnedReadHalf(Half::new(read, Arc::clone(&whole))), OwnedWriteHalf(Half::new(write, whole)))
}

impl<K: Kind, H: AsRef<K::Stream>> Half<K, H> {
    fn new(io: H, whole: Arc<Whole<K>>) -> Self {
        Self { io: Some(io), whole: Some(whole) }
    }

    fn io(&self) -> &K::Stream {
        // Every method that takes it consumes the half.
        self.io.as_ref().expect("taken only by methods that consume the half").as_ref()
    }

    fn io_mut(&mut self) -> &mut H {
        // As above.
        self.io.as_mut().expect("taken only by methods that consume the half")
    }

    fn whole(&self) -> &Whole<K> {
        // As above.
        self.whole.as_ref().expect("taken only by methods that consume the half")
    }

    fn unread(&self) -> &Unread {
        &self.whole().unread
    }

    fn was_read(&self) {
        if let Some(tie) = &self.whole().tie {
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

    fn peer_addr(&self) -> io::Result<K::Addr> {
        match &self.whole().peer {
            Some(peer) => Ok(peer.clone()),
            None => K::peer_addr(self.io()),
        }
    }
}

impl<K: Kind, H: AsRef<K::Stream>> Drop for Half<K, H> {
    fn drop(&mut self) {
        let last = self.whole.take().and_then(Arc::into_inner);
        // The socket goes before its place in the count: the process may end when nothing is counted any more.
        if let Some(io) = self.io.take()
            && let Some(Whole { tie: Some(tie), .. }) = &last
        {
            end(io.as_ref(), tie);
        }
    }
}

impl<K: Kind> OwnedReadHalf<K> {
    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    ///
    /// They are not of one stream; the error has both.
    pub fn reunite(mut self, mut other: OwnedWriteHalf<K>) -> Result<Stream<K>, ReuniteError<K>> {
        let same = matches!((&self.0.whole, &other.0.whole), (Some(ours), Some(theirs)) if Arc::ptr_eq(ours, theirs));
        if !same {
            return Err(ReuniteError(self, other));
        }
        drop(other.0.whole.take());
        let whole = self.0.whole.take().and_then(Arc::into_inner);
        let halves = self.0.io.take().zip(other.0.io.take());
        let whole = whole.zip(halves.and_then(|(read, write)| K::reunite(read, write)));
        // Both halves are here and nobody else has any, so that each step above has found what it looked for.
        let (Whole { peer, tie, unread }, io) = whole.expect("the only two halves of one stream");
        Ok(Stream::new(Io::watched(io), peer, tie, unread))
    }

    /// The client's address, as [`Stream::peer_addr`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn peer_addr(&self) -> io::Result<K::Addr> {
        self.0.peer_addr()
    }

    /// The address of this end.
    ///
    /// # Errors
    ///
    /// As tokio's.
    pub fn local_addr(&self) -> io::Result<K::Addr> {
        K::local_addr(self.0.io())
    }

    /// As tokio's.
    ///
    /// # Errors
    ///
    /// As tokio's.
    pub async fn readable(&self) -> io::Result<()> {
        if self.0.unread().any() { Ok(()) } else { K::readable(self.0.io()).await }
    }
}

impl<K: Kind> OwnedWriteHalf<K> {
    /// Puts the two halves of one stream together again.
    ///
    /// # Errors
    ///
    /// They are not of one stream; the error has both.
    pub fn reunite(self, other: OwnedReadHalf<K>) -> Result<Stream<K>, ReuniteError<K>> {
        other.reunite(self)
    }

    /// Drops the half without shutting down writing.
    pub fn forget(mut self) {
        if let Some(io) = self.0.io.take() {
            // When this is the last half, nobody is left who could read or write: the connection ends all the same.
            if let Some(Whole { tie: Some(tie), .. }) = self.0.whole.take().and_then(Arc::into_inner) {
                end(io.as_ref(), &tie);
            }
            K::forget(io);
        }
    }

    /// The client's address, as [`Stream::peer_addr`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn peer_addr(&self) -> io::Result<K::Addr> {
        self.0.peer_addr()
    }

    /// The address of this end.
    ///
    /// # Errors
    ///
    /// As tokio's.
    pub fn local_addr(&self) -> io::Result<K::Addr> {
        K::local_addr(self.0.io())
    }

    /// As tokio's.
    ///
    /// # Errors
    ///
    /// As tokio's.
    pub async fn writable(&self) -> io::Result<()> {
        K::writable(self.0.io()).await
    }
}

impl<K: Kind> AsRef<K::Stream> for OwnedReadHalf<K> {
    fn as_ref(&self) -> &K::Stream {
        self.0.io()
    }
}

impl<K: Kind> AsRef<K::Stream> for OwnedWriteHalf<K> {
    fn as_ref(&self) -> &K::Stream {
        self.0.io()
    }
}

impl<K: Kind> AsyncRead for OwnedReadHalf<K> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let outcome = match self.0.unread().read_some(buf) {
            Some(()) => Ok(()),
            None => ready!(Pin::new(self.0.io_mut()).poll_read(cx, buf)),
        };
        self.0.was_read();
        Poll::Ready(outcome)
    }
}

impl<K: Kind> AsyncWrite for OwnedWriteHalf<K> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.0.io_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self.0.io_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        // All of tokio's sockets do.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.io_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.io_mut()).poll_shutdown(cx)
    }
}

impl<K: Kind> fmt::Debug for OwnedReadHalf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedReadHalf").field(&self.0.io).finish()
    }
}

impl<K: Kind> fmt::Debug for OwnedWriteHalf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedWriteHalf").field(&self.0.io).finish()
    }
}

/// What tokio has as methods of each type and not of a trait.
macro_rules! as_tokio {
    ($kind:ty, $tokio:ty) => {
        impl ReadHalf<'_, $kind> {
            fn tokio(&self) -> &$tokio {
                self.io.as_ref()
            }

            /// The client's address, as [`Stream::peer_addr`].
            pub fn peer_addr(&self) -> io::Result<<$kind as Kind>::Addr> {
                self.peer.map_or_else(|| self.io.peer_addr(), |peer| Ok(peer.clone()))
            }

            /// As tokio's.
            pub fn local_addr(&self) -> io::Result<<$kind as Kind>::Addr> {
                self.io.local_addr()
            }

            /// As tokio's.
            pub async fn readable(&self) -> io::Result<()> {
                if self.unread.any() { Ok(()) } else { self.io.readable().await }
            }
        }

        impl OwnedReadHalf<$kind> {
            fn tokio(&self) -> &$tokio {
                self.0.io()
            }

            fn unread(&self) -> &Unread {
                self.0.unread()
            }

            fn note<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
                self.0.note(outcome)
            }
        }

        as_tokio!(reads: ReadHalf<'_, $kind>);
        as_tokio!(reads: OwnedReadHalf<$kind>);

        impl OwnedWriteHalf<$kind> {
            /// As tokio's.
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                self.0.unread().ready(interest, self.0.io().ready(interest)).await
            }

            /// As tokio's.
            pub fn try_write(&self, buf: &[u8]) -> io::Result<usize> {
                self.0.io().try_write(buf)
            }

            /// As tokio's.
            pub fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
                self.0.io().try_write_vectored(bufs)
            }
        }
    };
    (reads: $half:ty) => {
        impl $half {
            /// As tokio's.
            pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
                self.unread().ready(interest, self.tokio().ready(interest)).await
            }

            /// As tokio's.
            pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
                self.note(self.unread().read(buf).map_or_else(|| self.tokio().try_read(buf), Ok))
            }

            /// As tokio's.
            pub fn try_read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                self.note(self.unread().read_vectored(bufs).map_or_else(|| self.tokio().try_read_vectored(bufs), Ok))
            }

            /// As tokio's.
            pub fn try_read_buf<B: BufMut>(&self, buf: &mut B) -> io::Result<usize> {
                self.note(self.unread().read_buf(buf).map_or_else(|| self.tokio().try_read_buf(buf), Ok))
            }
        }
    };
}

as_tokio!(Tcp, tokio::net::TcpStream);
as_tokio!(Unix, tokio::net::UnixStream);

impl ReadHalf<'_, Tcp> {
    /// As tokio's.
    pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.unread.peek(buf) {
            Some(count) => Ok(count),
            None => self.io.peek(buf).await,
        }
    }
}

impl OwnedReadHalf<Tcp> {
    /// As tokio's.
    pub async fn peek(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.0.unread().peek(buf) {
            Some(count) => Ok(count),
            None => self.0.io().peek(buf).await,
        }
    }
}
