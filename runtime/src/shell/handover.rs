//! Connections that workers hand over: what comes in is checked, and what comes of it is told.
//!
//! The worker is not trusted. Its descriptor must be a connection of the listener's kind, the client's address is asked of
//! the kernel, and a memfd is passed on unread: whoever takes the connection checks it.
//!
//! Where the master has no descriptor free, a message comes without its own. Without the memfd alone the connection goes back
//! at once, for the worker still has what was in there. Without the socket it is lost, and the worker hears that it has moved,
//! for there is nothing more that it could do; accepting pauses, which gives the next one room. That takes the whole reserve
//! of descriptors that accepting never touches.

use everport_handoff::board::OfferId;
use everport_handoff::channel::Received;
use everport_handoff::id::{ListenerId, WorkerId};
use everport_handoff::message::{self, Data, HandoverOutcome, MAX_HANDOVERS, MAX_INLINE, MAX_PARCEL, Parcel, ToWorker};
use everport_handoff::name::SocketName;
use everport_handoff::offer::Reading;
use everport_handoff::socket;
use tracing::warn;

use super::Shell;
use super::connections::Connection;
use super::link::{Cargo, Order};
use crate::machine::{ConnectionId, Event, HandoverId};

/// What a worker hands over, as it says.
#[derive(Debug)]
pub(super) struct Gift {
    pub(super) id: message::HandoverId,
    pub(super) listener: ListenerId,
    pub(super) peer: SocketName,
    pub(super) offer: Option<OfferId>,
    pub(super) parcel: Parcel,
}

/// The longest name that a client of a unix socket can be bound to.
const MAX_NAME: usize = 108;

impl Gift {
    /// What the protocol does not allow in it.
    fn fault(&self, descriptors: usize) -> Option<String> {
        let length = match &self.parcel {
            Parcel::Nothing => 0,
            Parcel::Unread(Data::Inline(bytes)) | Parcel::State { data: Data::Inline(bytes), .. } => bytes.len(),
            Parcel::Unread(Data::Memfd { length }) | Parcel::State { data: Data::Memfd { length }, .. } => {
                usize::try_from(*length).unwrap_or(usize::MAX)
            }
        };
        let expected = self.parcel.descriptors();
        let longest = if expected > 1 { MAX_PARCEL } else { MAX_INLINE };
        let name = match &self.peer {
            SocketName::Path(path) => path.as_os_str().len(),
            SocketName::Abstract(name) => name.len(),
            SocketName::Inet(_) | SocketName::Unnamed => 0,
        };
        if descriptors != expected {
            Some(format!("it handed a connection over with {descriptors} descriptors, not {expected}"))
        } else if length > longest {
            Some(format!("it handed a connection over with {length} bytes, and {longest} may go that way"))
        } else if name > MAX_NAME {
            Some("it handed over a connection of a client whose name is too long".to_owned())
        } else {
            None
        }
    }
}

impl Shell {
    /// A worker hands a connection over.
    pub(super) fn heed_gift(&mut self, worker: WorkerId, gift: Gift, received: Received<()>) {
        let Received { fds, missing, .. } = received;
        if let Some(fault) = gift.fault(fds.len() + missing) {
            return self.broke(worker, fault);
        }
        let Some(link) = self.links.get_mut(&worker) else { return };
        if !link.handovers.insert(gift.id) {
            return self.broke(worker, "it used a number for two handovers".to_owned());
        }
        if link.handovers.len() > MAX_HANDOVERS {
            return self.broke(worker, format!("it has more than {MAX_HANDOVERS} handovers under way"));
        }
        let mut fds = fds.into_iter();
        let Some(socket) = fds.next() else {
            return self.lose(worker, gift.id);
        };
        let kind = self.listeners.get(gift.listener).map(|held| held.bound.kind());
        let peer = match socket::check_live(&socket, kind) {
            Ok(peer) => peer.unwrap_or(gift.peer),
            Err(error) => return self.broke(worker, format!("it handed over what is no connection: {error}")),
        };
        if missing > 0 {
            self.note(Event::AcceptExhausted);
            self.listeners.note_shortage();
            return self.tell_outcome(worker, gift.id, HandoverOutcome::Returned, Cargo::Descriptor(socket));
        }
        if self.listeners.is_last(&socket) {
            self.note(Event::AcceptExhausted);
        }
        let Some(known) = self.known_by(worker, gift.offer) else { return };
        let memfd = fds.next();
        let connection = match known {
            Some(known) => {
                self.connections.load(known, gift.parcel, memfd);
                known
            }
            None => {
                let listener = gift.listener;
                self.connections.keep(Connection { socket, peer, listener, parcel: gift.parcel, memfd })
            }
        };
        let (handover, listener) = (HandoverId(gift.id.0), gift.listener);
        let key = self.connections.get(connection).and_then(Connection::key);
        self.note(Event::HandedOver { worker, handover, listener, connection, key });
    }

    /// The connection that the worker took by this offer, if the master still has its copy. `None` if the worker did not take
    /// it, and so broke the protocol.
    fn known_by(&mut self, worker: WorkerId, offer: Option<OfferId>) -> Option<Option<ConnectionId>> {
        let Some(offer) = offer else { return Some(None) };
        // So that the machine knows of the taking.
        self.read_board(worker);
        self.pump();
        match self.links.get(&worker).and_then(|link| link.placed(offer)) {
            None => Some(None),
            Some((connection, Reading::Taken)) => Some(Some(connection)),
            Some(_) => {
                self.broke(worker, "it handed over what it was offered and did not take".to_owned());
                None
            }
        }
    }

    /// The socket of a handover did not come through.
    fn lose(&mut self, worker: WorkerId, id: message::HandoverId) {
        if let Some(link) = self.links.get_mut(&worker) {
            link.lost += 1;
        }
        warn!(%worker, "connection lost: the master had no descriptor free to hand it over");
        self.note(Event::AcceptExhausted);
        self.listeners.note_shortage();
        self.tell_outcome(worker, id, HandoverOutcome::Moved, Cargo::None);
    }

    /// A connection that the worker handed over has another owner.
    pub(super) fn tell_moved(&mut self, worker: WorkerId, handover: HandoverId) {
        let id = message::HandoverId(handover.0);
        self.tell_outcome(worker, id, HandoverOutcome::Moved, Cargo::None);
    }

    /// Gives a connection back to the worker that handed it over.
    pub(super) fn return_to(&mut self, worker: WorkerId, handover: HandoverId, connection: ConnectionId) {
        let Some(connection) = self.connections.take(connection) else { return };
        let id = message::HandoverId(handover.0);
        self.tell_outcome(worker, id, HandoverOutcome::Returned, Cargo::Connection(Box::new(connection)));
    }

    fn tell_outcome(&mut self, worker: WorkerId, id: message::HandoverId, outcome: HandoverOutcome, cargo: Cargo) {
        if let Some(link) = self.links.get_mut(&worker) {
            link.handovers.remove(&id);
        }
        self.order(worker, Order { message: ToWorker::HandedOver { id, outcome }, cargo });
        self.keep_undelivered(worker);
    }

    /// Connections that could not be returned, for the worker hears nothing any more, are handed over by it as before: now
    /// they wait for somebody else.
    pub(super) fn keep_undelivered(&mut self, worker: WorkerId) {
        let undelivered = self.links.get_mut(&worker).map(|link| std::mem::take(&mut link.undelivered));
        for (id, connection) in undelivered.into_iter().flatten() {
            self.note(Event::ChannelClosed { worker });
            // For the record of its exit.
            if let Some(link) = self.links.get_mut(&worker) {
                link.handovers.insert(id);
            }
            let (listener, key) = (connection.listener, connection.key());
            let (handover, connection) = (HandoverId(id.0), self.connections.keep(connection));
            self.note(Event::HandedOver { worker, handover, listener, connection, key });
        }
    }
}
