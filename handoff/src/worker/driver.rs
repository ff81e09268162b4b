//! The driver: the task that reads the channel, in the application's own runtime, so that its heartbeat says whether that
//! runtime turns. There is one at a time; when its runtime is dropped, the next `bind` or `accept` starts another.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::runtime::Handle;

use super::dispatch::Channel;
use super::link::Link;
use crate::sys::readiness;

impl Link {
    /// Starts the driver on the current runtime, unless one runs or the channel has ended: another would find its end
    /// again, and wake whoever starts the next.
    ///
    /// # Errors
    ///
    /// There is no tokio runtime here, or the system refuses to watch the channel.
    pub(crate) fn drive(self: &Arc<Self>) -> io::Result<()> {
        if self.driving.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire) {
            return Ok(());
        }
        if self.driving.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        // From here on it is dropped on every way out, also with a task that never ran.
        let driving = Driving(Arc::clone(self));
        let runtime = Handle::try_current()
            .map_err(|error| io::Error::other(format!("a worker's listeners need a tokio runtime: {error}")))?;
        // A copy of its own, for the runtime may outlive everything else that knows the channel.
        let channel = self.channel.as_fd().try_clone_to_owned()?;
        let readiness = readiness::watch(channel, Interest::READABLE | Interest::WRITABLE)?;
        runtime.spawn(run(driving, readiness));
        Ok(())
    }

    /// After a `bind`: those who wait in `accept` may make the worker ready now. They are woken by a task, so that they look
    /// when the one who has bound has gone on, perhaps to the next `bind`.
    pub(crate) fn bound(self: &Arc<Self>) {
        if !self.is_unready() {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => {
                let link = Arc::clone(self);
                runtime.spawn(async move { link.wake_unready() });
            }
            Err(_) => self.wake_unready(),
        }
    }

    /// As [`drive`](Self::drive), for a worker that may have no listener at all. Where it fails, the next `bind` or `accept`
    /// tries again and says why.
    pub(super) fn drive_if_possible(self: &Arc<Self>) {
        if let Err(error) = self.drive() {
            tracing::debug!(%error, "channel not read yet");
        }
    }
}

/// Says that a driver runs, until it is dropped.
struct Driving(Arc<Link>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.driving.store(false, Ordering::Release);
        if !self.0.state().is_lost() {
            // Those who wait on another runtime start the next driver there.
            self.0.wake_all();
        }
    }
}

async fn run(driving: Driving, readiness: AsyncFd<OwnedFd>) {
    let link = &driving.0;
    loop {
        // First, lest one be missed that comes while the rest is sent.
        let mut kicked = pin!(link.kick.notified());
        let mut full = !link.flush();
        loop {
            link.board().beat();
            let news = poll_fn(|cx| match kicked.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(News::Kick)),
                Poll::Pending => poll_channel(&readiness, full, cx),
            });
            match news.await {
                Ok(News::Kick) => break,
                Ok(News::Messages(mut ready)) => {
                    if link.receive() == Channel::Closed {
                        return;
                    }
                    ready.clear_ready();
                }
                Ok(News::Room(mut ready)) => {
                    full = !link.flush();
                    if full {
                        ready.clear_ready();
                    }
                }
                Err(error) => return tracing::debug!(%error, "watch the channel"),
            }
        }
    }
}

/// What the driver waits for.
enum News<'a> {
    /// Something is to be sent that was not sent at once.
    Kick,
    /// Something is to be read. To be read to its end before the readiness is forgotten.
    Messages(AsyncFdReadyGuard<'a, OwnedFd>),
    /// The full channel has room.
    Room(AsyncFdReadyGuard<'a, OwnedFd>),
}

fn poll_channel<'a>(channel: &'a AsyncFd<OwnedFd>, full: bool, cx: &mut Context<'_>) -> Poll<io::Result<News<'a>>> {
    if let Poll::Ready(ready) = channel.poll_read_ready(cx) {
        return Poll::Ready(ready.map(News::Messages));
    }
    match full {
        true => channel.poll_write_ready(cx).map_ok(News::Room),
        false => Poll::Pending,
    }
}
