//! What this worker has handed over and whose outcome it does not know yet.
//!
//! Invariants: the tie of a connection lies in the table from before its message is sent until its outcome, so that the
//! worker is not done before; whoever waits hears one outcome; a socket that comes back to nobody is ended.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rustix::net::Shutdown;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, oneshot};

use super::link::{Link, Outgoing};
use super::port::Inbox;
use super::tie::Tie;
use crate::handover::ReturnReason;
use crate::message::{HandoverId, HandoverOutcome, Parcel, ToMaster};
use crate::name::SocketName;

/// One handover whose outcome is not known.
#[derive(Debug)]
pub(super) struct UnderWay {
    tie: Tie,
    giver: Giver,
    /// Its part of the room, free again when this ends.
    _room: OwnedSemaphorePermit,
}

/// Who hears how a handover ended.
#[derive(Debug)]
enum Giver {
    /// The application, which gave it away.
    Application(oneshot::Sender<Outcome>),
    /// Nobody: `accept` of this listener gets what comes back. It is the first to see the connection.
    Nobody { inbox: Weak<Inbox>, peer: SocketName },
}

/// A connection that this process has accepted for another one.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) socket: OwnedFd,
    pub(super) tie: Tie,
    pub(super) peer: SocketName,
}

/// How a handover ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Another worker has taken the connection.
    Moved,
    /// It is this worker's again.
    Returned(Returned, ReturnReason),
    /// Nobody can say.
    Lost,
}

/// A connection that is this worker's again. Dropping it ends the connection.
pub(crate) struct Returned(Option<(OwnedFd, Tie)>);

/// What is handed over: the socket, and what the message says.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) socket: OwnedFd,
    pub(crate) tie: Tie,
    pub(crate) peer: SocketName,
    pub(crate) parcel: Parcel,
    /// The parcel's memory file, if it has one.
    pub(crate) file: Option<OwnedFd>,
}

/// A handover that the channel did not take.
#[derive(Debug)]
pub(super) struct Unsent {
    id: HandoverId,
    socket: Option<OwnedFd>,
    error: io::Error,
}

impl Link {
    /// Room for one more handover. An error when the master is lost.
    pub(crate) async fn handover_room(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        Arc::clone(&self.handover_room).acquire_owned().await
    }

    /// As [`handover_room`](Self::handover_room), at once or not at all.
    pub(super) fn handover_room_now(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.handover_room).try_acquire_owned().ok()
    }

    /// Why nothing can be handed over now, if so.
    pub(crate) fn handover_refusal(&self) -> Option<ReturnReason> {
        let draining = self.state().step().is_some();
        match () {
            () if self.ended.load(Ordering::Acquire) => Some(ReturnReason::MasterLost),
            () if draining && !self.has_successor() => Some(ReturnReason::NoSuccessor),
            () => None,
        }
    }

    /// Sends a connection to the master, or as soon as the channel has room. The outcome always comes, unless it is not
    /// waited for.
    pub(crate) fn hand_over(self: &Arc<Self>, given: Given, room: OwnedSemaphorePermit) -> oneshot::Receiver<Outcome> {
        let (answer, answered) = oneshot::channel();
        self.give(given, Giver::Application(answer), room);
        answered
    }

    /// Passes on what was accepted for another worker. If it comes back, `accept` of this listener gets it.
    pub(super) fn pass_on(self: &Arc<Self>, passed: Passed, inbox: &Weak<Inbox>, room: OwnedSemaphorePermit) {
        let Passed { socket, tie, peer } = passed;
        // This worker's drain need not wait for its first read.
        tie.was_read();
        let giver = Giver::Nobody { inbox: Weak::clone(inbox), peer: peer.clone() };
        self.give(Given { socket, tie, peer, parcel: Parcel::Nothing, file: None }, giver, room);
    }

    /// Passes on once more what came back and nobody has accepted: this worker accepts no more. Without room it ends.
    pub(super) fn pass_on_returned(self: &Arc<Self>, inbox: &Inbox) {
        while let Some((returned, peer)) = inbox.pop_returned() {
            if let Some(room) = self.handover_room_now() {
                let (socket, tie) = returned.into_parts();
                self.pass_on(Passed { socket, tie, peer }, &Weak::new(), room);
            }
        }
    }

    fn give(self: &Arc<Self>, given: Given, giver: Giver, room: OwnedSemaphorePermit) {
        self.drive_if_possible();
        let Given { socket, tie, peer, parcel, file } = given;
        let under_way = UnderWay { tie, giver, _room: room };
        let mut desk = self.desk();
        // Looked at under the desk's lock, which whoever empties the table takes after the end.
        if self.ended.load(Ordering::Acquire) {
            drop(desk);
            return under_way.give_back(socket, ReturnReason::MasterLost);
        }
        desk.last_handover += 1;
        let id = HandoverId(desk.last_handover);
        let (listener, offer) = (under_way.tie.listener(), under_way.tie.shared_offer());
        desk.handovers.insert(id, under_way);
        let message = ToMaster::Handover { id, listener, peer, offer, parcel };
        let fds = [socket].into_iter().chain(file).collect();
        self.send_out(&mut desk, Outgoing { message, fds });
        drop(desk);
        self.return_unsent();
    }

    /// Obeys `HandedOver`. `false`: nobody has handed this over.
    pub(super) fn handed_over(&self, id: HandoverId, outcome: HandoverOutcome, socket: Option<OwnedFd>) -> bool {
        let Some(under_way) = self.desk().handovers.remove(&id) else { return false };
        match (outcome, socket) {
            (HandoverOutcome::Moved, _) => under_way.end(Outcome::Moved),
            (HandoverOutcome::Returned, Some(socket)) => under_way.give_back(socket, ReturnReason::NotTaken),
            (HandoverOutcome::Returned, None) => {
                tracing::debug!(?id, "no room for the descriptor of a returned connection, which ends");
                under_way.end(Outcome::Lost);
            }
        }
        true
    }

    /// The master is lost: what was not sent is the worker's again, what was sent is lost.
    pub(super) fn end_handovers(&self) {
        self.handover_room.close();
        let (handovers, unsent) = {
            let mut desk = self.desk();
            let waiting = std::mem::take(&mut desk.outbox);
            desk.unsent.extend(
                waiting.into_iter().filter_map(|outgoing| Unsent::new(outgoing, io::ErrorKind::BrokenPipe.into())),
            );
            let unsent = std::mem::take(&mut desk.unsent);
            let unsent: Vec<_> =
                unsent.into_iter().map(|unsent| (desk.handovers.remove(&unsent.id), unsent.socket)).collect();
            (std::mem::take(&mut desk.handovers), unsent)
        };
        for (under_way, socket) in unsent {
            if let (Some(under_way), Some(socket)) = (under_way, socket) {
                under_way.give_back(socket, ReturnReason::MasterLost);
            }
        }
        for under_way in handovers.into_values() {
            under_way.end(Outcome::Lost);
        }
    }

    /// Gives back what the channel did not take.
    pub(super) fn return_unsent(&self) {
        let unsent = std::mem::take(&mut self.desk().unsent);
        for Unsent { id, socket, error } in unsent {
            let under_way = self.desk().handovers.remove(&id);
            if let (Some(under_way), Some(socket)) = (under_way, socket) {
                under_way.give_back(socket, ReturnReason::System(error));
            }
        }
    }
}

impl Unsent {
    /// `None` when it is another message.
    pub(super) fn new(outgoing: Outgoing, error: io::Error) -> Option<Self> {
        match outgoing.message {
            ToMaster::Handover { id, .. } => Some(Self { id, socket: outgoing.fds.into_iter().next(), error }),
            _ => None,
        }
    }
}

impl UnderWay {
    // Not under the desk's lock: the tie takes it when it ends.

    fn give_back(self, socket: OwnedFd, reason: ReturnReason) {
        let Self { mut tie, giver, _room } = self;
        tie.passed();
        let link = Arc::clone(tie.link());
        let returned = Returned(Some((socket, tie)));
        match giver {
            // When nobody waits, dropping it ends the connection.
            Giver::Application(answer) => drop(answer.send(Outcome::Returned(returned, reason))),
            Giver::Nobody { inbox, peer } => {
                if let Some(inbox) = inbox.upgrade() {
                    inbox.take_back(returned, peer);
                    link.came_back();
                    let state = *link.state();
                    if state.step().is_some() && !state.takes_offers() {
                        link.pass_on_returned(&inbox);
                    }
                }
            }
        }
    }

    fn end(self, outcome: Outcome) {
        let Self { tie, giver, _room } = self;
        if let Giver::Application(answer) = giver {
            // When nobody waits, nobody must know.
            let _ = answer.send(outcome);
        }
        drop(tie);
    }
}

impl Returned {
    /// The socket, and its place in the count.
    pub(crate) fn into_parts(mut self) -> (OwnedFd, Tie) {
        // This consumes it, so that it is the only time.
        self.0.take().expect("taken only by a method that consumes it")
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if let Some((socket, tie)) = self.0.take() {
            // It fails when the client has ended the connection: there is nothing left to end.
            let _ = rustix::net::shutdown(&socket, Shutdown::Both);
            // The socket goes before its place in the count: the process may end when nothing is counted any more.
            drop(socket);
            drop(tie);
        }
    }
}

impl fmt::Debug for Returned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Returned").field(&self.0).finish()
    }
}
