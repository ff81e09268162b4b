//! Time: the only place that reads the clock, and the two that let it pass.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time pass, for a measurement that lasts so long or a server that tells nobody when it has come so far.
pub(crate) async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Blocks the thread, as a computation without an `await` does: what a worker does that is *blocked*.
#[expect(clippy::disallowed_methods, reason = "to block is the point here")]
pub(crate) fn block(time: Duration) {
    std::thread::sleep(time);
}
