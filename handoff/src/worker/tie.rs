//! What ties a stream to its worker: it counts as active, and its first read is awaited when the worker drains.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::link::Link;
use crate::board::OfferId;

/// One connection in the worker's count. Ends on drop.
pub(crate) struct Tie {
    link: Arc<Link>,
    /// The offer that it came by; none when this process accepted it itself.
    offer: Option<OfferId>,
    unread: AtomicBool,
}

impl Tie {
    /// Counts a connection. Called while the worker's state is held, so that no drain can pass between.
    pub(crate) fn new(link: &Arc<Link>, offer: Option<OfferId>) -> Self {
        link.connection_begins();
        Self { link: Arc::clone(link), offer, unread: AtomicBool::new(true) }
    }

    /// Takes an offered connection, if it is still to be had. It is counted first: so the master, which reads the words and
    /// then the count, never sees it taken and not counted.
    pub(crate) fn take(link: &Arc<Link>, id: OfferId) -> Option<Self> {
        link.connection_begins();
        let taken = link.board().take(id);
        if !taken {
            link.connection_never_began();
        }
        taken.then(|| Self { link: Arc::clone(link), offer: Some(id), unread: AtomicBool::new(true) })
    }

    /// Notes that the application has read from the stream, or has seen that it cannot.
    pub(crate) fn was_read(&self) {
        // The load alone is the common case: every read of the stream passes here.
        if self.unread.load(Ordering::Relaxed) && self.unread.swap(false, Ordering::Relaxed) {
            self.link.first_read();
        }
    }

    /// Whether closing the socket is not enough to end the connection, for the master may still have its copy.
    pub(crate) fn is_shared(&self) -> bool {
        self.offer.is_some_and(|id| self.link.board().is_shared(id))
    }
}

impl Drop for Tie {
    fn drop(&mut self) {
        self.was_read();
        self.link.connection_ends();
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tie").field("offer", &self.offer).field("unread", &self.unread).finish_non_exhaustive()
    }
}
