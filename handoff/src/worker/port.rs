//! One listener as the worker holds it: the offers that wait for `accept` and for its handle of resumed connections, and its
//! copy of a shared socket.

use std::collections::VecDeque;
use std::fmt;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::copy::Shared;
use super::handovers::Returned;
use super::index::Index;
use super::link::Link;
use super::waiters::Waiters;
use crate::board::{OfferId, WorkerBoard};
use crate::handover::{Load, State};
use crate::id::ListenerId;
use crate::message::Sharing;
use crate::name::SocketName;

/// The application's hold on one of the master's listeners. Dropping it tells the master that it is not used any more.
#[derive(Debug)]
pub(crate) struct Port {
    link: Arc<Link>,
    id: ListenerId,
    sharing: Option<Sharing>,
    local: SocketName,
    inbox: Arc<Inbox>,
    _index: Index,
}

/// What comes in for one listener. The link and the application hold it.
pub(crate) struct Inbox {
    queues: Mutex<Queues>,
    /// Those who wait in `accept` or `recv`. They are woken when an offer comes and when the worker's state changes.
    pub(crate) waiters: Waiters,
    /// The worker's copy of the socket, if it is shared.
    pub(crate) copy: Arc<dyn Shared>,
}

/// The offers that nobody took yet.
#[derive(Debug, Default)]
struct Queues {
    /// For `accept`, with what was read of them.
    fresh: VecDeque<(Incoming, Bytes)>,
    /// Those with a state.
    resumed: VecDeque<(Incoming, State)>,
    /// The states that the application knows, while it has a handle for them.
    versions: Option<RangeInclusive<u32>>,
    /// For `accept`: what this process has accepted for others, and nobody could take.
    returned: VecDeque<(Returned, SocketName)>,
    /// Whether the listener was dropped.
    closed: bool,
}

/// An offered connection that nobody took yet.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: OfferId,
    pub(crate) listener: ListenerId,
    pub(crate) socket: OwnedFd,
    pub(crate) peer: SocketName,
}

impl Port {
    pub(crate) fn new(
        link: Arc<Link>,
        (id, sharing): (ListenerId, Option<Sharing>),
        local: SocketName,
        inbox: Arc<Inbox>,
        index: Index,
    ) -> Self {
        Self { link, id, sharing, local, inbox, _index: index }
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

    /// What comes in.
    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// How the worker waits there, if the socket is shared.
    pub(crate) fn sharing(&self) -> Option<Sharing> {
        self.sharing
    }

    /// The listener's id.
    pub(crate) fn id(&self) -> ListenerId {
        self.id
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.link.close_listener(self.id);
    }
}

impl Inbox {
    pub(crate) fn new(copy: Arc<dyn Shared>) -> Self {
        Self { queues: Mutex::default(), waiters: Waiters::default(), copy }
    }

    /// Puts an offer where it belongs, or gives it back: nobody here knows the version of its state, or the listener was
    /// dropped.
    pub(super) fn push(&self, incoming: Incoming, load: Load) -> Result<(), Incoming> {
        let mut queues = self.queues();
        let knows = |version| queues.versions.as_ref().is_some_and(|versions| versions.contains(&version));
        match load {
            _ if queues.closed => return Err(incoming),
            Load::Unread(bytes) => queues.fresh.push_back((incoming, bytes)),
            Load::State(state) if knows(state.version) => queues.resumed.push_back((incoming, state)),
            Load::State(_) => return Err(incoming),
        }
        Ok(())
    }

    /// The oldest offer for `accept`, with what was read of it. It still counts as waiting until [`Link::picked`].
    pub(crate) fn pop(&self) -> Option<(Incoming, Bytes)> {
        self.queues().fresh.pop_front()
    }

    /// The oldest offer with a state, as [`pop`](Self::pop).
    pub(crate) fn pop_resumed(&self) -> Option<(Incoming, State)> {
        self.queues().resumed.pop_front()
    }

    /// Keeps for `accept` what was accepted for others and came back. If the listener was dropped, the connection ends.
    pub(super) fn take_back(&self, returned: Returned, peer: SocketName) {
        let mut queues = self.queues();
        if queues.closed {
            drop(queues);
            return drop(returned);
        }
        queues.returned.push_back((returned, peer));
        drop(queues);
        self.waiters.wake();
    }

    /// How many have come back and wait.
    pub(super) fn returned(&self) -> usize {
        self.queues().returned.len()
    }

    /// What has come back, oldest first.
    pub(super) fn pop_returned(&self) -> Option<(Returned, SocketName)> {
        self.queues().returned.pop_front()
    }

    /// Takes offers with states of these versions from now on. `false`: somebody does already.
    pub(crate) fn resume(&self, versions: RangeInclusive<u32>) -> bool {
        let mut queues = self.queues();
        let free = queues.versions.is_none();
        if free {
            queues.versions = Some(versions);
        }
        free
    }

    /// Takes them no longer, and gives out what waits.
    pub(crate) fn stop_resuming(&self) -> Vec<Incoming> {
        let mut queues = self.queues();
        queues.versions = None;
        drain(&mut queues.resumed).collect()
    }

    /// Removes what the master has revoked.
    pub(super) fn take_revoked(&self, board: &WorkerBoard) -> Vec<Incoming> {
        let mut queues = self.queues();
        let Queues { fresh, resumed, .. } = &mut *queues;
        let mut revoked = remove_revoked(fresh, board);
        revoked.append(&mut remove_revoked(resumed, board));
        revoked
    }

    /// Removes everything.
    pub(super) fn take_all(&self) -> Vec<Incoming> {
        let mut queues = self.queues();
        let Queues { fresh, resumed, .. } = &mut *queues;
        drain(fresh).chain(drain(resumed)).collect()
    }

    /// Removes everything and takes nothing more.
    pub(super) fn close(&self) -> Vec<Incoming> {
        let returned = {
            let mut queues = self.queues();
            queues.closed = true;
            std::mem::take(&mut queues.returned)
        };
        // They end now; not under the lock, for that may go as far as the state.
        drop(returned);
        self.take_all()
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn drain<L>(queue: &mut VecDeque<(Incoming, L)>) -> impl Iterator<Item = Incoming> {
    queue.drain(..).map(|(incoming, _)| incoming)
}

fn remove_revoked<L>(queue: &mut VecDeque<(Incoming, L)>, board: &WorkerBoard) -> Vec<Incoming> {
    if !queue.iter().any(|(incoming, _)| board.is_revoked(incoming.id)) {
        return Vec::new();
    }
    let (mut revoked, rest) = queue.drain(..).partition(|(incoming, _)| board.is_revoked(incoming.id));
    *queue = rest;
    drain::<L>(&mut revoked).collect()
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
        let queues = self.queues();
        f.debug_struct("Inbox")
            .field("fresh", &queues.fresh.len())
            .field("resumed", &queues.resumed.len())
            .field("versions", &queues.versions)
            .finish_non_exhaustive()
    }
}
