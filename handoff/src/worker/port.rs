//! One listener as the worker holds it: the offers that wait for `accept`, and its copy of a shared socket.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::copy::Shared;
use super::index::Index;
use super::link::Link;
use super::waiters::Waiters;
use crate::board::{OfferId, WorkerBoard};
use crate::id::ListenerId;
use crate::name::SocketName;

/// The application's hold on one of the master's listeners. Dropping it tells the master that it is not used any more.
#[derive(Debug)]
pub(crate) struct Port {
    link: Arc<Link>,
    id: ListenerId,
    local: SocketName,
    inbox: Arc<Inbox>,
    _index: Index,
}

/// What comes in for one listener. The link and the application hold it.
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<Incoming>>,
    /// Those who wait in `accept` or `recv`. They are woken when an offer comes and when the worker's state changes.
    pub(crate) waiters: Waiters,
    /// The worker's copy of the socket, if it is shared.
    pub(crate) copy: Arc<dyn Shared>,
}

/// An offered connection that nobody took yet.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: OfferId,
    pub(crate) socket: OwnedFd,
    pub(crate) peer: SocketName,
}

impl Port {
    pub(crate) fn new(
        link: Arc<Link>,
        id: ListenerId,
        local: SocketName,
        inbox: Arc<Inbox>,
        index: Index,
    ) -> Self {
        Self {
            link,
            id,
            local,
            inbox,
            _index: index,
        }
    }

    /// The worker that it belongs to.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The address that it is bound to, also when there is no socket any more.
    pub(crate) fn local(&self) -> &SocketName {
        &self.local
    }

    /// Those who wait here.
    pub(crate) fn waiters(&self) -> &Waiters {
        &self.inbox.waiters
    }

    /// The oldest offer. It still counts as waiting until [`Link::picked`].
    pub(crate) fn pop(&self) -> Option<Incoming> {
        self.inbox.queue().pop_front()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.link.close_listener(self.id);
    }
}

impl Inbox {
    pub(crate) fn new(copy: Arc<dyn Shared>) -> Self {
        Self {
            queue: Mutex::default(),
            waiters: Waiters::default(),
            copy,
        }
    }

    pub(super) fn push(&self, incoming: Incoming) {
        self.queue().push_back(incoming);
    }

    /// Removes what the master has revoked.
    pub(super) fn take_revoked(&self, board: &WorkerBoard) -> Vec<Incoming> {
        let mut queue = self.queue();
        if !queue.iter().any(|incoming| board.is_revoked(incoming.id)) {
            return Vec::new();
        }
        let (revoked, rest) = queue
            .drain(..)
            .partition(|incoming| board.is_revoked(incoming.id));
        *queue = rest;
        Vec::from(revoked)
    }

    /// Removes everything.
    pub(super) fn take_all(&self) -> Vec<Incoming> {
        self.queue().drain(..).collect()
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Incoming>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    /// Closes the copy and tells the board: refused, or released if the master has revoked it.
    pub(super) fn give_back(self, board: &WorkerBoard) {
        drop(self.socket);
        decline(board, self.id);
    }
}

/// Settles an offer of which this worker has no copy (any more).
pub(crate) fn decline(board: &WorkerBoard, id: OfferId) {
    if !board.refuse(id) {
        board.release(id);
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox")
            .field("queue", &self.queue().len())
            .finish_non_exhaustive()
    }
}
