//! Time in tests: the only place that reads the clock.

use std::time::{Duration, Instant};

/// How long anything may take that has no deadline of its own. On a busy machine most things take a thousandth of it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The pause between two looks at something that tells nobody when it changes.
pub(crate) const PULSE: Duration = Duration::from_millis(5);

#[expect(clippy::disallowed_methods, reason = "the one place of the tests that reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A point in time until which something must have happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn within(time: Duration) -> Self {
        Self(now() + time)
    }

    /// What is left of the time, or nothing.
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(now()).filter(|left| !left.is_zero())
    }
}

/// Waits for something that announces itself nowhere, such as a file or an entry of `/proc`.
#[track_caller]
pub(crate) fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::within(PATIENCE);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(deadline.left().is_some(), "waited in vain for: {what}");
        pulse(PULSE);
    }
}

/// Gives the processor away for a moment.
fn pulse(time: Duration) {
    let time = rustix::event::Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // A signal may end it early, which does no harm.
    let _ = rustix::event::poll(&mut [], Some(&time));
}
