//! What ties a stream to its worker: it counts as active, and its first read is awaited when the worker drains.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ages::Age;
use super::link::Link;
use crate::board::OfferId;
use crate::id::ListenerId;

/// One connection in the worker's count. Ends on drop.
pub(crate) struct Tie {
    link: Arc<Link>,
    /// The listener that it came in by.
    listener: ListenerId,
    /// The offer that it came by; none when this process accepted it itself.
    offer: Option<OfferId>,
    unread: AtomicBool,
    /// Whether others may have a copy, for it was handed over and came back.
    passed: bool,
    age: Age,
}

impl Tie {
    /// Counts a connection. Called while the worker's state is held, so that no drain can pass between.
    pub(crate) fn new(link: &Arc<Link>, listener: ListenerId, offer: Option<OfferId>) -> Self {
        let age = link.connection_begins();
        Self { link: Arc::clone(link), listener, offer, unread: AtomicBool::new(true), passed: false, age }
    }

    /// Takes an offered connection, if it is still to be had. It is counted first: so the master, which reads the words and
    /// then the count, never sees it taken and not counted.
    pub(crate) fn take(link: &Arc<Link>, listener: ListenerId, id: OfferId) -> Option<Self> {
        let age = link.connection_begins();
        if !link.board().take(id) {
            link.connection_never_began(age);
            return None;
        }
        let (link, offer, unread) = (Arc::clone(link), Some(id), AtomicBool::new(true));
        Some(Self { link, listener, offer, unread, passed: false, age })
    }

    /// Notes that the application has read from the stream, or has seen that it cannot.
    #[inline]
    pub(crate) fn was_read(&self) {
        // The load alone is the common case: every read of the stream passes here.
        if self.unread.load(Ordering::Relaxed) && self.unread.swap(false, Ordering::Relaxed) {
            self.link.first_read();
        }
    }

    /// Notes that the connection has come back from a handover.
    pub(super) fn passed(&mut self) {
        self.passed = true;
    }

    /// Whether closing the socket is not enough to end the connection, for somebody else may still have a copy.
    pub(crate) fn is_shared(&self) -> bool {
        self.passed || self.shared_offer().is_some()
    }

    /// The offer, while the master may still have its copy.
    pub(super) fn shared_offer(&self) -> Option<OfferId> {
        self.offer.filter(|id| self.link.board().is_shared(*id))
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(super) fn listener(&self) -> ListenerId {
        self.listener
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.was_read();
        self.link.connection_ends(self.age);
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tie").field("offer", &self.offer).field("unread", &self.unread).finish_non_exhaustive()
    }
}
