//! What the master says, and how it is obeyed. Called by the driver, and by the watcher once the master is lost.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::link::{Asked, Link, Terms};
use super::orders::Orders;
use super::port::{Inbox, Incoming, Port, decline};
use super::state::{Cause, State};
use crate::channel::{ReceiveError, Received};
use crate::id::ListenerId;
use crate::message::{HandoverId, ListenFailure, Listening, NEWEST, OLDEST, Offer, ToWorker};
use crate::parcel;

/// Whether the channel is still of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Open,
    Closed,
}

/// How far the channel is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// Until as many messages were read as the board says that there are: that saves asking the system once more.
    AllRead,
    /// Until the system says that nothing is left, or that the channel has ended.
    Empty,
}

impl Link {
    /// Reads what is in the channel, and obeys. When the channel has ended, the master is lost.
    pub(super) fn receive(self: &Arc<Self>) -> Channel {
        match self.read_channel(Until::AllRead) {
            Channel::Open => Channel::Open,
            Channel::Closed => {
                self.lose_master();
                Channel::Closed
            }
        }
    }

    /// The master has gone, or makes no sense any more: gives up the shared sockets at once, so that a new master can
    /// bind, takes what is still in the channel, and begins to end. The driver and the watcher may both come here: the
    /// first does it all.
    pub(super) fn lose_master(self: &Arc<Self>) {
        if self.ended.swap(true, Ordering::AcqRel) {
            return;
        }
        // What is in the channel counts, lest the drain be announced before it is read.
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.begin_end(Cause::MasterLost);
        for inbox in self.inboxes() {
            inbox.copy.blank(self.silent.as_fd());
        }
        for asked in self.desk().pending.values() {
            asked.inbox.copy.blank(self.silent.as_fd());
        }
        self.read_channel(Until::Empty);
        self.end_handovers();
        // If the master lives, it shall see that this worker has given it up. It fails if the master has gone.
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        self.picked();
        self.wake_all();
        self.raise_alarm();
        self.settle();
    }

    fn read_channel(self: &Arc<Self>, until: Until) -> Channel {
        let mut count = self.receiving.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match self.channel.receive() {
                Ok(received) => {
                    *count += 1;
                    if let Err(error) = self.obey(received) {
                        tracing::debug!(%error, "the master broke the protocol");
                        return Channel::Closed;
                    }
                    // Whatever is sent after this makes the channel readable once more.
                    if until == Until::AllRead && *count == self.board().messages() {
                        return Channel::Open;
                    }
                }
                Err(ReceiveError::Empty) => return Channel::Open,
                Err(error) => {
                    tracing::debug!(%error, "the master is lost");
                    return Channel::Closed;
                }
            }
        }
    }

    fn obey(self: &Arc<Self>, received: Received<ToWorker>) -> Result<(), Broken> {
        let fds = received.fds;
        match received.message {
            ToWorker::Welcome { version, manual_ready, first_byte_grace, drain_timeout } => {
                if !(OLDEST..=NEWEST).contains(&version) {
                    return Err(Broken::Version(version));
                }
                let terms = Terms { manual_ready, first_byte_grace, drain_timeout };
                self.welcomed(terms, fds);
            }
            ToWorker::Limit { connections } => self.limit_to(connections),
            ToWorker::Listening { request, answer } => {
                self.answered(request, answer, fds)?;
            }
            ToWorker::Offer { offers } => self.offered(offers, fds),
            ToWorker::Activate => self.turn_to(State::Active),
            ToWorker::Pause => {
                self.turn_to(State::Paused);
                for inbox in self.inboxes() {
                    inbox.copy.pause();
                }
                self.give_back_all();
            }
            ToWorker::Drain { successor, grace } => self.drain(Orders { successor, grace }),
            ToWorker::Beat => {
                self.board().beat();
                self.release_revoked();
            }
            ToWorker::HandedOver { id, outcome } => {
                if !self.handed_over(id, outcome, fds.into_iter().next()) {
                    return Err(Broken::Handover(id));
                }
            }
            ToWorker::Tickets { keys } => self.tickets_came(keys),
            ToWorker::Share { listener, socket } => self.lent(listener, socket, fds),
            ToWorker::Unshare { listener, socket } => {
                if let Some(inbox) = self.inbox(listener) {
                    inbox.copy.take_back(socket);
                    inbox.waiters.wake();
                }
            }
        }
        Ok(())
    }

    fn welcomed(&self, terms: Terms, fds: Vec<OwnedFd>) {
        if let Some(bell) = fds.into_iter().next() {
            self.board().set_bell(bell);
        }
        let mut desk = self.desk();
        desk.terms = Some(terms);
        self.send_ready(&mut desk);
        drop(desk);
        self.wake_unready();
    }

    /// Answers a `bind`. The listener is known from here on, for its first offers may be the next message.
    fn answered(
        self: &Arc<Self>,
        request: u32,
        answer: Result<Listening, ListenFailure>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), Broken> {
        let mut desk = self.desk();
        let asked = desk.pending.remove(&request).ok_or(Broken::Answer(request))?;
        let Asked { answer: asker, inbox, index } = asked;
        let answer = match answer {
            Ok(Listening { listener, local, shared }) => {
                desk.listeners.insert(listener, Arc::clone(&inbox));
                let port = Port::new(Arc::clone(self), (listener, shared), local, Arc::clone(&inbox), index);
                // A port that goes nowhere takes the desk's lock when it is dropped: not before the end of this block.
                match (shared, fds.into_iter().next()) {
                    (None, _) => Ok(port),
                    (Some(_), Some(socket)) => {
                        inbox.copy.arrive(socket);
                        Ok(port)
                    }
                    (Some(_), None) => Err((Some(port), no_descriptor_left())),
                }
            }
            Err(failure) => Err((None, to_io_error(failure))),
        };
        drop(desk);
        let refused = answer.is_err();
        // When nobody waits for the answer any more, dropping the port closes the listener again.
        let _ = asker.send(answer.map_err(|(port, error)| {
            drop(port);
            error
        }));
        if refused {
            self.wake_unready();
        }
        self.give_up_if_ending(&inbox);
        Ok(())
    }

    /// What came for a worker that is ending by then is given up like what it had.
    fn give_up_if_ending(&self, inbox: &Inbox) {
        let state = *self.state();
        match state.step() {
            Some(_) if state.is_lost() => inbox.copy.blank(self.silent.as_fd()),
            Some(_) => inbox.copy.drain(),
            None => {}
        }
    }

    /// Another socket of a listener, which nobody else accepts from now. Without its descriptor, or for a listener that was
    /// dropped meanwhile, nothing can be done.
    fn lent(&self, listener: ListenerId, socket: u32, fds: Vec<OwnedFd>) {
        if let (Some(inbox), Some(fd)) = (self.inbox(listener), fds.into_iter().next()) {
            inbox.copy.lend(socket, fd);
            self.give_up_if_ending(&inbox);
            inbox.waiters.wake();
        }
    }

    fn inbox(&self, listener: ListenerId) -> Option<Arc<Inbox>> {
        self.desk().listeners.get(&listener).cloned()
    }

    /// Puts offers into their listeners' queues. Those whose descriptors did not all arrive are refused, and they are the
    /// last; so are those that nobody here can use.
    fn offered(&self, offers: Vec<Offer>, fds: Vec<OwnedFd>) {
        // Whether something in the queues may have been revoked.
        let mut is_doubtful = self.queued.load(Ordering::Relaxed) > 0;
        let mut fds = fds.into_iter();
        for Offer { id, listener, peer, parcel } in offers {
            let has_file = parcel.descriptors() == 2;
            let (socket, file) = (fds.next(), if has_file { fds.next() } else { None });
            let (Some(socket), Some(inbox), true) = (socket, self.inbox(listener), file.is_some() == has_file) else {
                decline(self.board(), id);
                continue;
            };
            let load = match parcel::unpack(parcel, file) {
                Ok(load) => load,
                Err(error) => {
                    tracing::debug!(%error, %listener, "parcel refused");
                    drop(socket);
                    decline(self.board(), id);
                    continue;
                }
            };
            self.queued.fetch_add(1, Ordering::Relaxed);
            match inbox.push(Incoming { id, listener, socket, peer }, load) {
                Ok(()) => inbox.waiters.wake(),
                Err(useless) => self.give_back(vec![useless]),
            }
            is_doubtful |= self.board().is_revoked(id);
        }
        if is_doubtful {
            self.release_revoked();
        }
    }

    /// Closes the copies of revoked connections that lie in the queues, whether the application accepts or not.
    fn release_revoked(&self) {
        for inbox in self.inboxes() {
            self.give_back(inbox.take_revoked(self.board()));
        }
    }

    fn give_back_all(&self) {
        for inbox in self.inboxes() {
            self.give_back(inbox.take_all());
        }
    }

    fn drain(self: &Arc<Self>, orders: Orders) {
        self.order(orders);
        self.begin_end(Cause::Drain);
        for inbox in self.inboxes() {
            inbox.copy.drain();
            self.pass_on_returned(&inbox);
        }
        self.give_back_all();
        self.wake_all();
        self.raise_alarm();
        self.settle();
    }
}

/// What a master never does.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("it agreed to version {0} of the protocol, which this program does not speak")]
    Version(u16),
    #[error("it answered question {0}, which nobody asked")]
    Answer(u32),
    #[error("it answered handover {}, which is not under way", .0.0)]
    Handover(HandoverId),
}

/// The error that a plain bind gives.
fn to_io_error(failure: ListenFailure) -> io::Error {
    tracing::debug!(reason = %failure.reason, "listener refused");
    match failure.errno {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(io::ErrorKind::InvalidInput, failure.reason),
    }
}

fn no_descriptor_left() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error())
}
