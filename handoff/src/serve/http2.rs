//! A connection of HTTP/2. It cannot move, for its state is hyper's: in a drain the client is told to open no more streams
//! here (GOAWAY), and those that are open finish.

use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::{HttpService, Parts, elapsed};
use super::linger::linger;
use super::phase::{Drain, GOAWAY_SPREAD, Phase, changed, random_part};
use super::pulse::Pulse;
use super::request::Counted;
use super::transport::Transport;
use super::wire::Wire;

/// Serves a connection to its end.
pub(super) async fn serve<I: Transport, S: HttpService>(
    parts: Parts<I, S>,
    mut phase: Phase,
    mut drain: Option<Drain>,
) {
    let pulse = Arc::new(Pulse::new(parts.io.activity()));
    let (back, returned) = oneshot::channel();
    let wire = Wire::decided(parts.io, parts.unread, Arc::clone(&pulse));
    let service = Counted::new(parts.service, Arc::clone(&pulse));
    let io = TokioIo::new(Lent { io: Some(wire), back: Some(back) });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    // For WebSockets.
    builder.enable_connect_protocol();
    let mut connection = Box::pin(builder.serve_connection(io, service));
    let mut told = false;
    let mut goaway = drain.map(|_| goaway());
    let mut overdue = false;
    loop {
        let deadline = drain.filter(|_| told && !overdue).map(|drain| drain.deadline);
        tokio::select! {
            biased;
            () = poll_fn(|cx| match poll(connection.as_mut(), cx) {
                Poll::Pending if overdue && pulse.is_silent() => Poll::Ready(()),
                polled => polled,
            }) => break,
            begun = changed(&mut phase) => {
                drain = Some(begun);
                goaway.get_or_insert_with(self::goaway);
            }
            () = elapsed(&mut goaway), if !told => {
                told = true;
                pulse.told_to_go();
                connection.as_mut().graceful_shutdown();
            }
            // A client that does not answer has had its time. One that does ends by itself when its streams have: what is
            // left of a response may wait in hyper for a client that reads slowly, and no request is in progress then.
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => overdue = true,
        }
    }
    drop(connection);
    // The streams that hyper has spawned may hold it a moment longer.
    if let Ok(wire) = returned.await
        && (overdue || wire.is_half_closed())
    {
        linger(wire).await;
    }
}

/// When this connection says GOAWAY.
fn goaway() -> Pin<Box<Sleep>> {
    Box::pin(sleep_until(Instant::now() + random_part(GOAWAY_SPREAD)))
}

/// Polls hyper until the connection ends.
fn poll<E: Display>(connection: Pin<&mut impl Future<Output = Result<(), E>>>, cx: &mut Context<'_>) -> Poll<()> {
    connection.poll(cx).map(|ended| {
        if let Err(error) = ended {
            tracing::trace!(%error, "connection ended");
        }
    })
}

/// An IO that comes back when hyper drops it: a connection of HTTP/2 cannot be taken apart.
struct Lent<I> {
    /// Nothing only while it is dropped.
    io: Option<Wire<I>>,
    back: Option<oneshot::Sender<Wire<I>>>,
}

impl<I: Unpin> Lent<I> {
    fn io(&mut self) -> Pin<&mut Wire<I>> {
        // Only `drop` takes it.
        Pin::new(self.io.as_mut().expect("taken only when it is dropped"))
    }
}

impl<I> Drop for Lent<I> {
    fn drop(&mut self) {
        if let (Some(io), Some(back)) = (self.io.take(), self.back.take()) {
            // Nobody waits for it when the connection's task has ended.
            let _ = back.send(io);
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Lent<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Lent<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(Wire::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
