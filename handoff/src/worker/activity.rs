//! What a connection does, where whoever serves it can tell: the board says how many requests are in progress, and how many
//! connections are idle. Of the others nothing is known.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::link::Link;

/// One connection whose requests are counted: idle while none is in progress. Ends on drop, with what is left of its
/// requests. Made by [`Worker::activity`](super::Worker::activity), for a server that can tell.
pub struct Activity {
    /// Nothing where no master looks.
    link: Option<Arc<Link>>,
    /// A connection of HTTP/2 has many at a time.
    requests: AtomicU64,
}

impl Activity {
    /// An idle connection of this worker, or of a process that no master looks at.
    pub(crate) fn new(link: Option<Arc<Link>>) -> Self {
        if let Some(link) = &link {
            link.idle_begins();
        }
        Self { link, requests: AtomicU64::new(0) }
    }

    /// A request begins.
    pub fn request_begins(&self) {
        let is_first = self.requests.fetch_add(1, Ordering::Relaxed) == 0;
        let Some(link) = &self.link else { return };
        if is_first {
            link.idle_ends();
        }
        link.request_begins();
    }

    /// A request has ended. Once for each that began; when none is in progress, nothing happens.
    pub fn request_ends(&self) {
        let ended =
            self.requests.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |requests| requests.checked_sub(1));
        let (Some(link), Ok(before)) = (&self.link, ended) else { return };
        link.requests_end(1);
        if before == 1 {
            link.idle_begins();
        }
    }

    /// Whether no request is in progress.
    #[cfg(feature = "http")]
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    /// The connection is closed now, for it was idle at the soft deadline.
    pub fn lingered(self) {
        if let Some(link) = &self.link {
            link.lingered();
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        let Some(link) = &self.link else { return };
        match *self.requests.get_mut() {
            0 => link.idle_ends(),
            left => link.requests_end(left),
        }
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// The figures behind it.
impl Link {
    /// Notes that a request begins.
    pub(crate) fn request_begins(&self) {
        self.board().requests().fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that so many requests have ended.
    pub(crate) fn requests_end(&self, requests: u64) {
        self.board().requests().fetch_sub(requests, Ordering::Relaxed);
    }

    /// Notes that a connection has no request in progress.
    pub(crate) fn idle_begins(&self) {
        self.board().idle().fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a connection is in a request, or has ended.
    pub(crate) fn idle_ends(&self) {
        self.board().idle().fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes that a connection was closed at the soft deadline.
    pub(crate) fn lingered(&self) {
        self.board().lingered().fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{MasterBoard, WorkerBoard};
    use crate::channel::Channel;

    #[test]
    fn a_connection_is_idle_while_it_has_no_request_and_leaves_nothing_behind() {
        let (_channel, theirs) = Channel::pair().unwrap();
        let (master, page) = MasterBoard::create().unwrap();
        let link = Link::new(Channel::adopt(theirs), WorkerBoard::adopt(page).unwrap()).unwrap();
        let seen = || (master.figures().requests, master.figures().idle);
        let connections = [(); 2].map(|()| Activity::new(Some(Arc::clone(&link))));
        assert_eq!(seen(), (0, 2));
        connections[0].request_begins();
        connections[0].request_begins();
        assert_eq!(seen(), (2, 1));
        connections[0].request_ends();
        assert_eq!(seen(), (1, 1));
        connections[0].request_ends();
        assert_eq!(seen(), (0, 2));
        // One too many.
        connections[0].request_ends();
        assert_eq!(seen(), (0, 2));
        let [first, second] = connections;
        second.request_begins();
        second.request_begins();
        assert_eq!(seen(), (2, 1));
        drop(second);
        assert_eq!(seen(), (0, 1));
        first.lingered();
        assert_eq!((seen(), master.figures().lingered), ((0, 0), 1));
    }
}
