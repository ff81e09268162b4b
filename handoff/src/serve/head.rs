//! When hyper waits for a request's head: seen through the timer that it asks to limit the wait.
//!
//! hyper says nowhere whether it is between two requests. But it asks its timer for a sleep exactly when it begins to wait
//! for a head, which it does only when everything before is over (the response is written, and the request's body was read
//! to its end), and drops that sleep exactly when it has a head. hyper counts the time from there, so that a connection
//! which says nothing would be closed for it; here the time is counted from the first byte of the head
//! ([`connection`](super::connection) does).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

use super::pulse::Pulse;

/// hyper's timer for the heads of one connection.
#[derive(Debug)]
pub(super) struct HeadTimer {
    pulse: Arc<Pulse>,
    /// hyper asks for the time only to say when the sleep shall end, which is not used: it is not worth a look at the clock.
    origin: Instant,
}

/// One wait for a head.
struct Wait {
    pulse: Arc<Pulse>,
}

impl HeadTimer {
    pub(super) fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, origin: tokio::time::Instant::now().into_std() }
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        self.pulse.head_awaited();
        Box::pin(Wait { pulse: Arc::clone(&self.pulse) })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(Duration::ZERO)
    }

    fn now(&self) -> Instant {
        self.origin
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, _: Instant) {
        // The new wait begins before the old one ends, which must not be the last word.
        *sleep = self.sleep(Duration::ZERO);
        self.pulse.head_awaited();
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        match self.pulse.is_head_overdue() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.pulse.head_over();
    }
}
