//! The only clock of the master: the machines are told the time.

use std::time::{Instant, SystemTime};

/// The time by which deadlines are kept.
pub(crate) fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "this is the place where time enters")]
    Instant::now()
}

/// The time that operators read.
pub(crate) fn wall() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "this is the place where time enters")]
    SystemTime::now()
}
