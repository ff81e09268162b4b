//! What `Drain` allows: whether somebody comes after this worker, and until when its connections may be idle.

use std::time::Duration;

use super::link::{Link, Terms};

/// What the master said with `Drain`; the last word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// Whether others may take the connections over.
    pub(super) successor: bool,
    /// After this, connections on which nothing is under way are closed gently.
    pub(super) grace: Duration,
}

impl Orders {
    /// What holds when the master is lost: nobody takes anything over, and who is idle goes when half of the time is over.
    fn without_master(terms: Terms) -> Self {
        Self { successor: false, grace: terms.drain_timeout / 2 }
    }
}

impl Link {
    pub(super) fn order(&self, orders: Orders) {
        self.desk().orders = Some(orders);
    }

    /// What holds while the worker ends.
    pub(super) fn orders(&self) -> Orders {
        let desk = self.desk();
        desk.orders.unwrap_or_else(|| Orders::without_master(desk.terms.unwrap_or_default()))
    }

    /// Whether others may take over what this draining worker has.
    pub(crate) fn has_successor(&self) -> bool {
        self.orders().successor && !self.state().is_lost()
    }

    /// How long after the beginning of the end the soft deadline is.
    #[cfg(feature = "http")]
    pub(crate) fn grace(&self) -> Duration {
        self.orders().grace
    }

    /// The soft deadline has come.
    pub(super) fn soften(&self) {
        self.softened.send_replace(true);
    }
}
