//! Whole messages: what lets a WebSocket be taken apart at any time without losing a byte.
//!
//! A WebSocket library reads ahead, and drops what it has read when it is taken apart. [`Whole`] lies below it and gives it
//! whole messages only. So whenever the library waits for more there is nothing in it, and what has come of the next message
//! is in here, where it can be taken out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest message, in bytes on the wire. Whoever sends a longer one stays with his worker.
pub(crate) const MAX_MESSAGE: usize = 16 * 1024;

/// How much is read at once.
const CHUNK: usize = 4096;

/// A stream that gives its reader whole WebSocket messages only.
#[derive(Debug)]
pub(crate) struct Whole<T> {
    io: T,
    /// What has come and was not read yet.
    received: Vec<u8>,
    /// How much of that may be read: whole messages.
    released: usize,
    reader: Reader,
}

/// What is known of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    /// It may hold something of a message that it has not got to yet.
    Busy,
    /// It has asked for more: there is nothing in it.
    Waits,
    /// It gets everything as it comes: a message was too long, or the peer has finished.
    Direct,
}

impl<T> Whole<T> {
    /// Reads these bytes first.
    pub(crate) fn new(io: T, unread: impl Into<Vec<u8>>) -> Self {
        Self { io, received: unread.into(), released: 0, reader: Reader::Busy }
    }

    /// Whether it can be taken apart: the reader has nothing in it.
    pub(crate) fn can_part(&self) -> bool {
        self.reader == Reader::Waits
    }

    /// The stream, and what has come of the next message. Nothing is lost if it [can part](Self::can_part).
    pub(crate) fn into_parts(self) -> (T, Bytes) {
        (self.io, self.received.into())
    }
}

impl<T: AsyncRead + Unpin> Whole<T> {
    /// Waits until something may be read, or the peer has finished.
    fn poll_release(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.released == 0 {
            self.released = match first_message(&self.received) {
                _ if self.reader == Reader::Direct => self.received.len(),
                Message::Whole(length) => length,
                Message::Partial => 0,
                Message::TooLong => {
                    self.reader = Reader::Direct;
                    self.received.len()
                }
            };
            if self.released == 0 && !self.poll_fill(cx)?.is_ready() {
                return Poll::Pending;
            } else if self.received.is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        let mut chunk = ReadBuf::new(&mut chunk);
        match Pin::new(&mut self.io).poll_read(cx, &mut chunk) {
            Poll::Ready(Ok(())) if chunk.filled().is_empty() => self.reader = Reader::Direct,
            Poll::Ready(Ok(())) => self.received.extend_from_slice(chunk.filled()),
            Poll::Pending if self.reader == Reader::Busy => {
                self.reader = Reader::Waits;
                return Poll::Pending;
            }
            other => return other,
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Whole<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_release(cx))?;
        let length = self.released.min(buffer.remaining());
        buffer.put_slice(&self.received[..length]);
        self.received.drain(..length);
        self.released -= length;
        if self.reader == Reader::Waits {
            self.reader = Reader::Busy;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Whole<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    /// A whole message of so many bytes: a control frame, or data to its last frame, control frames between included.
    Whole(usize),
    Partial,
    TooLong,
}

fn first_message(bytes: &[u8]) -> Message {
    let mut end = 0;
    while let Some(frame) = Frame::read(&bytes[end..]) {
        let is_last = frame.is_final && (end == 0 || !frame.is_control);
        end = end.saturating_add(frame.length);
        if end > MAX_MESSAGE {
            return Message::TooLong;
        }
        if end > bytes.len() {
            return Message::Partial;
        }
        if is_last {
            return Message::Whole(end);
        }
    }
    // A header is always shorter than what is left to the longest message.
    if bytes.len() > MAX_MESSAGE { Message::TooLong } else { Message::Partial }
}

/// What the header of a frame says (RFC 6455, section 5.2).
struct Frame {
    is_final: bool,
    is_control: bool,
    /// Header and payload.
    length: usize,
}

impl Frame {
    /// Nothing if the header is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let mask = if second & 0x80 == 0 { 0 } else { 4 };
        let (extended, payload) = match second & 0x7f {
            126 => (2, u16::from_be_bytes(*rest.first_chunk()?).into()),
            127 => (8, usize::try_from(u64::from_be_bytes(*rest.first_chunk()?)).unwrap_or(usize::MAX)),
            short => (0, usize::from(short)),
        };
        Some(Self {
            is_final: first & 0x80 != 0,
            is_control: first & 0x08 != 0,
            length: payload.saturating_add(2 + extended + mask),
        })
    }
}

#[cfg(test)]
mod tests;
