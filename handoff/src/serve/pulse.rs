//! What is known of one HTTP connection from outside hyper: what its IO, its timer and its services have seen.
//!
//! Invariant: one task polls all of them, but for the ends of requests, which may come from any. So the words need no order
//! among each other. What every read, write or poll asks is inlined into hyper, which is built with the application.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::worker::Activity;

/// What one connection is at.
#[derive(Debug)]
pub(super) struct Pulse {
    /// hyper waits for a request's head: it has done with all before it, bodies included.
    awaits_head: AtomicBool,
    /// How often hyper has begun to wait for a head.
    heads: AtomicU64,
    /// Bytes came since hyper began to wait for a head.
    head_begun: AtomicBool,
    /// Bytes came since the client was told to go away.
    answered: AtomicBool,
    /// The head takes too long.
    head_overdue: AtomicBool,
    /// Something was written and not flushed.
    unflushed: AtomicBool,
    /// The client speaks HTTP/2; none of its bytes went to HTTP/1.
    http2: AtomicBool,
    /// The next response shall be the last.
    leaving: AtomicBool,
    /// Requests that begin from now on shall be the last.
    leaving_soon: AtomicBool,
    /// Requests between the call of the service and the end of the response's body.
    activity: Activity,
}

impl Pulse {
    pub(super) fn new(activity: Activity) -> Self {
        Self {
            awaits_head: AtomicBool::default(),
            heads: AtomicU64::default(),
            head_begun: AtomicBool::default(),
            answered: AtomicBool::default(),
            head_overdue: AtomicBool::default(),
            unflushed: AtomicBool::default(),
            http2: AtomicBool::default(),
            leaving: AtomicBool::default(),
            leaving_soon: AtomicBool::default(),
            activity,
        }
    }

    /// hyper begins to wait for a head.
    #[inline]
    pub(super) fn head_awaited(&self) {
        self.heads.store(self.heads.load(Relaxed) + 1, Relaxed);
        self.head_begun.store(false, Relaxed);
        // A head that was complete at the last moment leaves its lateness to nobody.
        self.head_overdue.store(false, Relaxed);
        self.awaits_head.store(true, Relaxed);
    }

    /// hyper has a head, or waits no longer.
    #[inline]
    pub(super) fn head_over(&self) {
        self.awaits_head.store(false, Relaxed);
    }

    #[inline]
    pub(super) fn bytes_came(&self) {
        self.head_begun.store(true, Relaxed);
        self.answered.store(true, Relaxed);
    }

    /// A client of HTTP/2 is told to go away now.
    pub(super) fn told_to_go(&self) {
        self.answered.store(false, Relaxed);
    }

    /// The number of the head that has begun and is not complete. A part that came together with the request before it is
    /// not seen.
    #[inline]
    pub(super) fn present_head(&self) -> Option<u64> {
        (self.awaits_head.load(Relaxed) && self.head_begun.load(Relaxed)).then(|| self.heads.load(Relaxed))
    }

    pub(super) fn end_of_head_time(&self) {
        self.head_overdue.store(true, Relaxed);
    }

    #[inline]
    pub(super) fn is_head_overdue(&self) -> bool {
        self.head_overdue.load(Relaxed)
    }

    #[inline]
    pub(super) fn written(&self) {
        self.unflushed.store(true, Relaxed);
    }

    #[inline]
    pub(super) fn flushed(&self) {
        self.unflushed.store(false, Relaxed);
    }

    pub(super) fn is_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    #[inline]
    pub(super) fn speaks_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    /// From now on responses say that they are the last.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Relaxed);
    }

    /// The responses to requests that begin from now on say that they are the last.
    pub(super) fn leave_soon(&self) {
        self.leaving_soon.store(true, Relaxed);
    }

    /// Whether no request is in progress.
    #[inline]
    pub(super) fn is_unused(&self) -> bool {
        self.activity.is_idle()
    }

    /// Whether a client of HTTP/2 that was told to go away has said nothing since, wants nothing, and has what was sent to it.
    pub(super) fn is_silent(&self) -> bool {
        self.is_unused() && !self.answered.load(Relaxed) && !self.unflushed.load(Relaxed)
    }

    /// Whether hyper could be taken apart now and nothing were lost but what its parts have: no request in progress, all
    /// that was written is flushed, and what was read and is no request yet is in the parts.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.is_unused() && self.awaits_head.load(Relaxed) && !self.unflushed.load(Relaxed)
    }
}

/// One request in progress. Ends on drop.
#[derive(Debug)]
pub(super) struct Request {
    pulse: Arc<Pulse>,
    last: bool,
}

impl Request {
    pub(super) fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.activity.request_begins();
        Self { pulse: Arc::clone(pulse), last: pulse.leaving_soon.load(Relaxed) }
    }

    /// Whether its response shall be the last of the connection.
    #[inline]
    pub(super) fn is_last(&self) -> bool {
        self.last || self.pulse.leaving.load(Relaxed)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.pulse.activity.request_ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::{MasterBoard, WorkerBoard};
    use crate::channel::Channel;
    use crate::worker::link::Link;

    #[test]
    fn the_next_head_is_not_overdue_because_the_last_one_nearly_was() {
        let pulse = Pulse::new(Activity::new(None));
        pulse.head_awaited();
        pulse.bytes_came();
        pulse.end_of_head_time();
        assert!(pulse.is_head_overdue());
        // All of it came before anybody looked.
        pulse.head_over();
        pulse.head_awaited();
        assert!(!pulse.is_head_overdue());
    }

    #[test]
    fn the_master_is_told_of_requests_and_of_idle_connections() {
        let (_channel, theirs) = Channel::pair().unwrap();
        let (master, page) = MasterBoard::create().unwrap();
        let link = Link::new(Channel::adopt(theirs), WorkerBoard::adopt(page).unwrap()).unwrap();
        let told = || (master.figures().requests, master.figures().idle);
        let pulse = Arc::new(Pulse::new(Activity::new(Some(link))));
        assert_eq!(told(), (0, 1));
        let requests = [Request::begin(&pulse), Request::begin(&pulse)];
        assert_eq!(told(), (2, 0));
        drop(requests);
        assert_eq!(told(), (0, 1));
        drop(pulse);
        assert_eq!(told(), (0, 0));
    }
}
