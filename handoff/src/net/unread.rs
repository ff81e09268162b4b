//! Bytes that another worker has read from a connection and not used: a stream gives them before what the socket has.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{Interest, ReadBuf, Ready};

/// The bytes that are left.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Whether there are any: the common case is that there are none, and every read passes here.
    any: AtomicBool,
    bytes: Mutex<Bytes>,
}

impl Unread {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { any: AtomicBool::new(!bytes.is_empty()), bytes: Mutex::new(bytes) }
    }

    /// Whether any are left.
    #[inline]
    pub(super) fn any(&self) -> bool {
        // Acquire, so that whoever sees none sees them as read before it reads the socket.
        self.any.load(Ordering::Acquire)
    }

    /// All that are left.
    pub(super) fn take(&self) -> Bytes {
        self.with(std::mem::take).unwrap_or_default()
    }

    /// A copy of what is left.
    pub(super) fn get(&self) -> Bytes {
        self.lock().clone()
    }

    /// As `try_read`; `None` when the socket is to be asked.
    pub(super) fn read(&self, buf: &mut [u8]) -> Option<usize> {
        self.with(|bytes| move_into(bytes, buf))
    }

    /// As `try_read_vectored`; `None` as above.
    pub(super) fn read_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> Option<usize> {
        self.with(|bytes| bufs.iter_mut().map(|buf| move_into(bytes, buf)).sum())
    }

    /// As `try_read_buf`: fills what room there is. `None` as above.
    pub(super) fn read_buf(&self, buf: &mut impl BufMut) -> Option<usize> {
        self.with(|bytes| {
            let count = bytes.len().min(buf.chunk_mut().len());
            buf.put_slice(&bytes.split_to(count));
            count
        })
    }

    /// As `poll_read`; `None` as above.
    #[inline]
    pub(super) fn read_some(&self, buf: &mut ReadBuf<'_>) -> Option<()> {
        self.with(|bytes| buf.put_slice(&bytes.split_to(bytes.len().min(buf.remaining()))))
    }

    /// As `peek`; `None` as above.
    pub(super) fn peek(&self, buf: &mut [u8]) -> Option<usize> {
        self.with(|bytes| move_into(&mut bytes.clone(), buf))
    }

    /// As `poll_peek`; `None` as above.
    pub(super) fn peek_some(&self, buf: &mut ReadBuf<'_>) -> Option<usize> {
        self.with(|bytes| {
            let count = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..count]);
            count
        })
    }

    /// As the socket's `ready`, which is never waited for while bytes are left to be read.
    pub(super) async fn ready(
        &self,
        interest: Interest,
        socket: impl Future<Output = io::Result<Ready>>,
    ) -> io::Result<Ready> {
        if !interest.is_readable() || !self.any() {
            return socket.await;
        }
        let mut socket = pin!(socket);
        std::future::poll_fn(|cx| match socket.as_mut().poll(cx) {
            Poll::Ready(ready) => Poll::Ready(ready.map(|ready| ready | Ready::READABLE)),
            Poll::Pending => Poll::Ready(Ok(Ready::READABLE)),
        })
        .await
    }

    /// Refuses what would read the socket while bytes are left that come before.
    pub(super) fn refuse_direct(&self, interest: Interest) -> io::Result<()> {
        match interest.is_readable() && self.any() {
            true => Err(left()),
            false => Ok(()),
        }
    }

    #[inline]
    fn with<T>(&self, read: impl FnOnce(&mut Bytes) -> T) -> Option<T> {
        if !self.any() {
            return None;
        }
        let mut bytes = self.lock();
        // Two may have seen that there are some.
        if bytes.is_empty() {
            return None;
        }
        let read = read(&mut bytes);
        if bytes.is_empty() {
            *bytes = Bytes::new();
            self.any.store(false, Ordering::Release);
        }
        Some(read)
    }

    fn lock(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When bytes would be lost, or overtaken.
pub(super) fn left() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the stream has unread bytes that come before those of the socket")
}

fn move_into(bytes: &mut Bytes, buf: &mut [u8]) -> usize {
    let count = bytes.len().min(buf.len());
    bytes.copy_to_slice(&mut buf[..count]);
    count
}
