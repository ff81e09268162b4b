//! The IO under hyper: gives back bytes that were read before, tells HTTP/2 by its first bytes, and notes what is read and
//! written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::pulse::Pulse;

/// What a client of HTTP/2 says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection's IO, with the bytes that come before what is still in the socket.
#[derive(Debug)]
pub(super) struct Wire<I> {
    io: I,
    /// Read from the socket, and not by hyper.
    unread: Bytes,
    pulse: Arc<Pulse>,
    /// Whether it is not known yet which HTTP the client speaks: until then hyper gets nothing that may be a preface.
    undecided: bool,
    /// The client has ended its side.
    ended: bool,
    /// This side was ended.
    shut: bool,
}

impl<I> Wire<I> {
    /// A connection that may turn out to be HTTP/2.
    pub(super) fn new(io: I, unread: Bytes, pulse: Arc<Pulse>) -> Self {
        Self { io, unread, pulse, undecided: true, ended: false, shut: false }
    }

    /// A connection whose HTTP is known.
    pub(super) fn decided(io: I, unread: Bytes, pulse: Arc<Pulse>) -> Self {
        Self { undecided: false, ..Self::new(io, unread, pulse) }
    }

    /// The IO and what is to be read before it.
    pub(super) fn into_parts(self) -> (I, Bytes) {
        (self.io, self.unread)
    }

    /// Whether this side was ended and the other was not.
    pub(super) fn is_half_closed(&self) -> bool {
        self.shut && !self.ended
    }
}

impl<I: AsyncRead + Unpin> Wire<I> {
    fn poll_socket(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let length = buf.filled().len() - before;
        match length {
            0 => self.ended = true,
            _ => self.pulse.bytes_came(),
        }
        Poll::Ready(Ok(length))
    }

    /// Reads until it is clear which HTTP it is. `Ready(true)`: what was read went straight to `buf`.
    fn poll_decide(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.unread.starts_with(PREFACE) {
                self.pulse.is_http2();
                // Whoever polls sees it, and takes the connection back.
                return Poll::Pending;
            }
            if self.ended || !PREFACE.starts_with(&self.unread) {
                self.undecided = false;
                return Poll::Ready(Ok(false));
            }
            let before = buf.filled().len();
            let length = ready!(self.poll_socket(cx, buf))?;
            let came = &buf.filled()[before..];
            if self.unread.is_empty() && !may_be_preface(came) {
                self.undecided = false;
                return Poll::Ready(Ok(true));
            }
            let mut held = BytesMut::with_capacity(self.unread.len() + length);
            held.extend_from_slice(&self.unread);
            held.extend_from_slice(came);
            self.unread = held.freeze();
            buf.set_filled(before);
        }
    }
}

fn may_be_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE) || PREFACE.starts_with(bytes)
}

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.undecided && ready!(self.poll_decide(cx, buf))? {
            return Poll::Ready(Ok(()));
        }
        if self.unread.is_empty() {
            return self.poll_socket(cx, buf).map_ok(drop);
        }
        let length = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..length]);
        self.unread.advance(length);
        self.pulse.bytes_came();
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pulse.written();
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pulse.written();
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.pulse.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut = true;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
