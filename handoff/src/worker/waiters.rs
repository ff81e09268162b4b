//! Who waits at one listener: any number of futures, and the last caller of a poll function, as in tokio's own types.

use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Those who wait for a listener's turn. All are woken and look again, so that one that has been cancelled takes nobody's
/// wake-up along.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    futures: Notify,
    poller: Mutex<Option<Waker>>,
}

impl Waiters {
    /// Resolves at the next [`wake`](Self::wake) after this call. Get it before looking.
    pub(crate) fn woken(&self) -> Notified<'_> {
        self.futures.notified()
    }

    /// Wakes this task at the next [`wake`](Self::wake), instead of an earlier one. Call it before looking.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *poller {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *poller = Some(cx.waker().clone()),
        }
    }

    /// Wakes all.
    pub(crate) fn wake(&self) {
        self.futures.notify_waiters();
        let poller = self
            .poller
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(waker) = poller {
            waker.wake();
        }
    }
}
