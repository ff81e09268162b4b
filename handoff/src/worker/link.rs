//! A worker's link to its master: what was asked and answered, who is counted, and the worker's state. Everything here is
//! synchronous, so that the driver (in the application's runtime) and the watcher (a thread of its own) can both use it.
//!
//! Invariants: a connection is counted while the state is held (`borrow`), so that a change of state sees it or forbids
//! it. Locks are taken in the order receiving, state, the limit's turn, desk, queue, ages or a place in a line, and nothing
//! is dropped under the desk's lock that takes it again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot, watch};

use super::ages::{Age, Ages};
use super::handovers::{UnderWay, Unsent};
use super::index::{Index, Indices};
use super::limit::Limit;
use super::line::Line;
use super::orders::Orders;
use super::port::{Inbox, Incoming, Port};
use super::state::{Cause, Left, State, Step};
use super::tickets::Tickets;
use crate::address::ListenAddress;
use crate::board::{self, WorkerBoard};
use crate::channel::Channel;
use crate::id::ListenerId;
use crate::message::{HandoverId, MAX_HANDOVERS, NEWEST, OLDEST, ToMaster};
use crate::sys::blank;

/// How many messages may wait for room in the channel before `bind` fails. The master reads its channels at once; what
/// waits comes from an application that binds faster than that.
const MAX_WAITING: usize = 1024;

/// What the master says in `Welcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether only the application itself says that it is ready.
    pub(crate) manual_ready: bool,
    /// How long streams that were never read may hold back `draining()`.
    pub(crate) first_byte_grace: Duration,
    /// How long the worker may finish what it has when the master is lost.
    pub(crate) drain_timeout: Duration,
}

impl Default for Terms {
    /// For a master that is lost before it said anything.
    fn default() -> Self {
        Self { manual_ready: false, first_byte_grace: Duration::from_secs(1), drain_timeout: Duration::from_secs(30) }
    }
}

/// The worker's end of everything between it and its master.
#[derive(Debug)]
pub(crate) struct Link {
    pub(super) channel: Channel,
    board: WorkerBoard,
    pub(crate) state: watch::Sender<State>,
    ages: Ages,
    pub(super) limit: Limit,
    /// Connections that may still come to `accept`: offers that wait in a queue, and, while the channel of a lost master
    /// is read to its end, one for what may be in there.
    pub(super) queued: AtomicUsize,
    pub(super) desk: Mutex<Desk>,
    /// How many messages have been read. Held by the one who reads the channel.
    pub(super) receiving: Mutex<u64>,
    /// Whether the channel is of no use any more, and was, or is being, read to its end. The state says so a moment later.
    pub(super) ended: AtomicBool,
    indices: Arc<Indices>,
    pub(super) tickets: Tickets,
    /// Whether a driver runs.
    pub(super) driving: AtomicBool,
    /// Wakes the driver.
    pub(super) kick: Notify,
    /// Wakes the watcher, an eventfd.
    pub(super) alarm: OwnedFd,
    /// Takes the place of shared sockets when the master is lost.
    pub(super) silent: OwnedFd,
    /// Whether the application has called `draining()`.
    drain_watched: AtomicBool,
    /// Whether the polls of `accept` have nothing more to say: the worker is ready, or says so by hand.
    accept_noted: AtomicBool,
    /// Room for handovers; closed when the master is lost.
    pub(super) handover_room: Arc<Semaphore>,
    /// Whether the soft deadline has come.
    pub(super) softened: watch::Sender<bool>,
}

/// What has been asked, said and answered.
#[derive(Debug, Default)]
pub(super) struct Desk {
    pub(super) terms: Option<Terms>,
    pub(super) readiness: Readiness,
    left: bool,
    last_request: u32,
    pub(super) pending: HashMap<u32, Asked>,
    pub(super) listeners: BTreeMap<ListenerId, Arc<Inbox>>,
    /// What waits for room in the channel.
    pub(super) outbox: VecDeque<Outgoing>,
    /// What `Drain` said.
    pub(super) orders: Option<Orders>,
    pub(super) last_handover: u64,
    pub(super) handovers: HashMap<HandoverId, UnderWay>,
    /// Handovers that the channel did not take; the driver gives them back.
    pub(super) unsent: Vec<Unsent>,
    /// Where the worker waits at shared listeners, once it waits in line.
    line: Option<Arc<Line>>,
}

/// A message that goes out, with its descriptors, which are closed once it is sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) message: ToMaster,
    pub(super) fds: Vec<OwnedFd>,
}

/// How far the worker is with saying that it is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Readiness {
    /// Nothing was said.
    #[default]
    Unsaid,
    /// The worker is ready, and the terms are not known yet.
    Said,
    /// The master knows.
    Sent,
}

/// A `bind` that waits for its answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) answer: oneshot::Sender<io::Result<Port>>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) index: Index,
}

impl Link {
    /// Takes up the worker's ends and says `Hello`.
    pub(crate) fn new(channel: Channel, board: WorkerBoard) -> io::Result<Arc<Self>> {
        let link = Self {
            channel,
            board,
            state: watch::Sender::new(State::Starting),
            ages: Ages::default(),
            limit: Limit::default(),
            queued: AtomicUsize::new(0),
            desk: Mutex::default(),
            receiving: Mutex::default(),
            ended: AtomicBool::new(false),
            indices: Arc::default(),
            tickets: Tickets::default(),
            driving: AtomicBool::new(false),
            kick: Notify::new(),
            alarm: board::bell()?,
            silent: blank::silent()?,
            drain_watched: AtomicBool::new(false),
            accept_noted: AtomicBool::new(false),
            handover_room: Arc::new(Semaphore::new(MAX_HANDOVERS)),
            softened: watch::Sender::new(false),
        };
        let (oldest, newest) = (OLDEST, NEWEST);
        link.send(&mut link.desk(), ToMaster::Hello { oldest, newest });
        Ok(Arc::new(link))
    }

    pub(crate) fn board(&self) -> &WorkerBoard {
        &self.board
    }

    /// The state as it is now. It cannot change while the answer is held.
    pub(crate) fn state(&self) -> watch::Ref<'_, State> {
        self.state.borrow()
    }

    /// What the master said in `Welcome`.
    pub(super) fn terms(&self) -> Terms {
        self.desk().terms.unwrap_or_default()
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The line of this process. The first call opens it.
    pub(crate) fn line(&self) -> io::Result<Arc<Line>> {
        let mut desk = self.desk();
        let line = match &desk.line {
            Some(line) => Arc::clone(line),
            None => Arc::clone(desk.line.insert(Line::open()?)),
        };
        Ok(line)
    }

    // What the application asks for.

    /// Asks the master for a listener. The answer may never come: then the master is lost and the process about to end.
    /// Dropping the receiver gives the listener back.
    pub(crate) fn ask(&self, address: &ListenAddress, inbox: Inbox) -> io::Result<oneshot::Receiver<io::Result<Port>>> {
        // The name by which the master tells listeners apart, but for the index: options do not count.
        let key = address.key(0);
        let inbox = Arc::new(inbox);
        let (answer, answered) = oneshot::channel();
        let mut desk = self.desk();
        // The answer to a `bind` that was cancelled is under way, with its listener: asking again would come too early.
        let cancelled =
            desk.pending.values_mut().filter(|asked| asked.answer.is_closed() && asked.index.address() == key);
        if let Some(asked) = cancelled.min_by_key(|asked| asked.index.number()) {
            (asked.answer, asked.inbox) = (answer, inbox);
            return Ok(answered);
        }
        if desk.outbox.len() >= MAX_WAITING {
            let full = "too many questions to the master wait for room in the channel";
            return Err(io::Error::new(io::ErrorKind::WouldBlock, full));
        }
        desk.last_request = desk.last_request.wrapping_add(1);
        let request = desk.last_request;
        let index = self.indices.lowest(key);
        let listen = ToMaster::Listen { request, address: address.to_string(), index: index.number() };
        desk.pending.insert(request, Asked { answer, inbox, index });
        self.send(&mut desk, listen);
        Ok(answered)
    }

    /// Tells the master that the application has dropped a listener, and gives back what waited there.
    pub(super) fn close_listener(&self, listener: ListenerId) {
        let inbox = {
            let mut desk = self.desk();
            self.send(&mut desk, ToMaster::CloseListener { listener });
            desk.listeners.remove(&listener)
        };
        if let Some(inbox) = inbox {
            self.give_back(inbox.close());
            self.settle();
        }
        self.wake_unready();
    }

    /// Notes that the application wants connections: it is ready, if no `bind` waits for its answer. After the answer those
    /// who wait in `accept` are woken, so that they come here again.
    pub(crate) fn accepts(&self) {
        if self.accept_noted.load(Ordering::Relaxed) {
            return;
        }
        let mut desk = self.desk();
        let Some(terms) = desk.terms else { return };
        if !terms.manual_ready {
            if !desk.pending.is_empty() {
                return;
            }
            self.say_ready(&mut desk);
        }
        self.accept_noted.store(true, Ordering::Relaxed);
    }

    /// Says that the worker is ready, as the application wants it.
    pub(super) fn ready(&self) {
        self.say_ready(&mut self.desk());
    }

    fn say_ready(&self, desk: &mut Desk) {
        if desk.readiness == Readiness::Unsaid {
            desk.readiness = Readiness::Said;
        }
        self.send_ready(desk);
    }

    /// Sends `Ready` if it was said and the master has said its terms.
    pub(super) fn send_ready(&self, desk: &mut Desk) {
        if desk.readiness == Readiness::Said && desk.terms.is_some() {
            desk.readiness = Readiness::Sent;
            self.send(desk, ToMaster::Ready);
        }
    }

    /// Whether those who wait in `accept` may make the worker ready.
    pub(super) fn is_unready(&self) -> bool {
        !self.accept_noted.load(Ordering::Relaxed)
    }

    /// Lets those who wait in `accept` say again that they do, if that may make the worker ready.
    pub(super) fn wake_unready(&self) {
        if self.is_unready() {
            self.wake_all();
        }
    }

    /// Asks the master for a replacement and a drain. Does nothing the second time, or when the worker ends already.
    pub(super) fn leave(&self) {
        if self.state().step().is_some() {
            return;
        }
        let mut desk = self.desk();
        if !std::mem::replace(&mut desk.left, true) {
            self.send(&mut desk, ToMaster::Leave);
        }
    }

    /// Notes that the application watches for the drain, so that its main future ends by itself.
    pub(crate) fn watch_drain(&self) -> watch::Receiver<State> {
        self.drain_watched.store(true, Ordering::Relaxed);
        self.state.subscribe()
    }

    pub(super) fn is_drain_watched(&self) -> bool {
        self.drain_watched.load(Ordering::Relaxed)
    }

    // Who is counted.

    pub(super) fn connection_begins(&self) -> Age {
        self.board.active().fetch_add(1, Ordering::Relaxed);
        self.board.unread().fetch_add(1, Ordering::Relaxed);
        self.ages.begin(&self.board)
    }

    /// Takes back `connection_begins`, while the worker's state is still held: whoever holds it settles afterwards.
    pub(super) fn connection_never_began(&self, age: Age) {
        self.ages.end(age, &self.board);
        self.board.unread().fetch_sub(1, Ordering::Relaxed);
        self.board.active().fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn connection_ends(&self, age: Age) {
        self.ages.end(age, &self.board);
        let left = self.board.count_ended();
        self.make_room(left);
        if left == 0 {
            self.settle();
        }
    }

    pub(super) fn first_read(&self) {
        if self.board.unread().fetch_sub(1, Ordering::Relaxed) == 1 {
            self.settle();
        }
    }

    pub(super) fn guard_begins(&self) {
        self.board.guards().fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn guard_ends(&self) {
        if self.board.guards().fetch_sub(1, Ordering::Relaxed) == 1 {
            self.settle();
        }
    }

    /// Notes that an offer has left its queue and is counted as a connection, or given back.
    pub(crate) fn picked(&self) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives back offers that nobody takes.
    pub(crate) fn give_back(&self, offers: Vec<Incoming>) {
        for offer in offers {
            offer.give_back(&self.board);
            self.picked();
        }
    }

    // How the state moves.

    /// Obeys `Activate` or `Pause`.
    pub(super) fn turn_to(&self, state: State) {
        if self.state.send_if_modified(|current| current.turn_to(state)) {
            self.wake_all();
        }
    }

    /// Begins to end. [`settle`](Self::settle) comes next, when all that was counted by then is known.
    pub(super) fn begin_end(&self, cause: Cause) {
        self.state.send_if_modified(|state| state.end(cause));
    }

    /// Goes as far towards the end as what is left allows.
    ///
    /// The counters are relaxed: whoever brings one to zero looks at the state after that, and whoever changes the state
    /// looks at the counters after that. The state's lock puts one of them before the other.
    pub(crate) fn settle(&self) {
        match *self.state() {
            State::Ending { step: Step::Finished, .. } => {
                // The state goes no further, but a guard that was taken since has ended: the process may, too.
                return self.raise_alarm();
            }
            State::Ending { .. } => {}
            _ => return,
        }
        self.step_on(|state| {
            let left = self.left();
            state.advance(left)
        });
    }

    /// Waits no longer for first reads.
    pub(super) fn announce(&self) {
        self.step_on(State::announce);
        self.settle();
    }

    fn step_on(&self, step: impl FnOnce(&mut State) -> bool) {
        let mut drained = false;
        let changed = self.state.send_if_modified(|state| {
            let changed = step(state);
            // Seen by the one who made the last step, so that the master is told once.
            drained = changed && state.step() == Some(Step::Finished) && !state.is_lost();
            changed
        });
        if !changed {
            return;
        }
        if drained {
            self.send(&mut self.desk(), ToMaster::Drained);
        }
        self.wake_all();
        self.raise_alarm();
    }

    pub(super) fn left(&self) -> Left {
        let some = |counter: &AtomicU64| counter.load(Ordering::Relaxed) > 0;
        let board = &self.board;
        Left {
            unread: some(board.unread()) || self.queued.load(Ordering::Relaxed) > 0,
            work: some(board.active()) || some(board.guards()),
        }
    }

    // How messages and wake-ups go out.

    /// Sends a message, or keeps it until the channel has room.
    pub(super) fn send(&self, desk: &mut Desk, message: ToMaster) {
        self.send_out(desk, Outgoing { message, fds: Vec::new() });
    }

    /// As [`send`](Self::send), with descriptors.
    pub(super) fn send_out(&self, desk: &mut Desk, outgoing: Outgoing) {
        desk.outbox.push_back(outgoing);
        if !self.flush_from(desk) || !desk.unsent.is_empty() {
            self.kick.notify_one();
        }
    }

    /// Sends what waits. `false` when something is left: the channel is full, or the system has no room for a while.
    pub(super) fn flush(&self) -> bool {
        let flushed = self.flush_from(&mut self.desk());
        self.return_unsent();
        flushed
    }

    fn flush_from(&self, desk: &mut Desk) -> bool {
        while let Some(Outgoing { message, fds }) = desk.outbox.front() {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            match self.channel.send(message, &fds) {
                Ok(()) => drop(desk.outbox.pop_front()),
                // The next beat tries again, if the channel's own readiness does not.
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::QuotaExceeded) => {
                    return false;
                }
                // The master has gone: whoever reads the channel, or watches it, learns that as well, and gives back what
                // is kept here.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    desk.outbox.retain(|outgoing| !outgoing.fds.is_empty());
                    return true;
                }
                Err(error) => {
                    tracing::warn!(%error, ?message, "message to the master dropped");
                    let dropped = desk.outbox.pop_front();
                    desk.unsent.extend(dropped.and_then(|dropped| Unsent::new(dropped, error)));
                }
            }
        }
        true
    }

    /// Lets everybody who waits at a listener look again.
    pub(super) fn wake_all(&self) {
        let inboxes: Vec<_> = self.inboxes();
        for inbox in inboxes {
            inbox.waiters.wake();
        }
    }

    pub(super) fn inboxes(&self) -> Vec<Arc<Inbox>> {
        self.desk().listeners.values().cloned().collect()
    }

    /// Looks at the shared listeners again: some other worker may have died with what it was called for.
    pub(super) fn look_again(&self) {
        for inbox in self.inboxes() {
            inbox.copy.look_again();
        }
    }

    /// Makes the watcher look at the state.
    pub(super) fn raise_alarm(&self) {
        // It fails only when the counter is full: then the watcher is awake already.
        let _ = rustix::io::write(&self.alarm, &1_u64.to_ne_bytes());
    }
}
