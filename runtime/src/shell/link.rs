//! The master's side of one worker: channel, board, bell and process, and which connection lies on which word.
//!
//! Invariant: orders reach the worker in the order in which they were given; while one waits for room in the channel, no
//! offer is sent.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use everport_handoff::board::{Figures, MasterBoard, OfferId};
use everport_handoff::bootstrap::{Identity, MasterEnds};
use everport_handoff::channel::Channel;
use everport_handoff::message::{
    Data, HandoverId, HandoverOutcome, MAX_HANDOVERS, MAX_OFFERS, MAX_PACKET, Offer, Parcel, ToWorker,
};
use everport_handoff::offer::Reading;

use super::connections::{Connection, Connections};
use super::process::Process;
use crate::machine::{ConnectionId, Settled};

/// How many orders may wait for room in one worker's channel. A worker that leaves more unread is broken: the master gives
/// a handful in a worker's whole life, the answers to its own questions, and the outcomes of its handovers.
const MAX_WAITING: usize = 64 + MAX_HANDOVERS;

/// What an offer takes in a message at most, beside what is in its parcel.
const OFFER_SIZE: usize = 160;

/// One worker, from the spawn until everything that it held is settled.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) identity: Identity,
    pub(crate) channel: Channel,
    pub(crate) bell: OwnedFd,
    /// Nothing once the process has been reaped.
    pub(crate) process: Option<Process>,
    pub(crate) talk: Talk,
    /// What was told of the worker's life, so that it is told once.
    pub(crate) told: Option<Word>,
    /// The last listener that it asked for and could not have.
    pub(crate) refused: Option<String>,
    /// The copy of the bell that goes to the worker with `Welcome`.
    pub(crate) bell_copy: Option<OwnedFd>,
    /// How many connections it had when it was told to drain.
    pub(crate) active_at_drain: Option<u64>,
    /// What it handed over and has not been told the outcome of.
    pub(crate) handovers: HashSet<HandoverId>,
    /// How many of its connections were lost on the way, for want of descriptors.
    pub(crate) lost: u64,
    /// The connections that could not be returned to it, by its own numbers.
    pub(crate) undelivered: Vec<(HandoverId, Connection)>,
    board: MasterBoard,
    /// Whether the machine wants to know whenever its connections end.
    watched: bool,
    heartbeat: u64,
    offers: BTreeMap<ConnectionId, Placed>,
    /// Whether somebody has it in mind that there are offers that were not settled at the last look.
    noted: bool,
    /// Offers that are on the board but not yet in the channel.
    staged: Vec<ConnectionId>,
    waiting: VecDeque<Order>,
}

/// How far master and worker are in talking. The channel is watched in the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Talk {
    /// Nothing has been heard yet.
    Greeting,
    /// Versions have been agreed.
    Agreed,
    /// The worker has closed its end, or has been heard to the end.
    Closed,
    /// The worker broke the protocol: it is heard no more.
    Broken,
}

impl Talk {
    pub(crate) fn is_heard(self) -> bool {
        matches!(self, Self::Greeting | Self::Agreed)
    }
}

/// What a worker says of its life, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Word {
    Ready,
    Leaving,
    Drained,
}

/// A message that goes to the worker, with at most one descriptor.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) message: ToWorker,
    pub(crate) cargo: Cargo,
}

/// The descriptor of a message.
#[derive(Debug)]
pub(crate) enum Cargo {
    None,
    Descriptor(OwnedFd),
    /// A connection that is returned; it is not lost if the message cannot be sent.
    Connection(Box<Connection>),
}

impl Cargo {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Descriptor(fd) => Some(fd.as_fd()),
            Self::Connection(connection) => Some(connection.socket.as_fd()),
        }
    }
}

impl From<ToWorker> for Order {
    fn from(message: ToWorker) -> Self {
        Self { message, cargo: Cargo::None }
    }
}

/// Whether a channel takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// When everything was sent.
    Enough,
    /// When the worker must read first.
    Full,
    /// When the system has no room for descriptors under way, in any channel: writing would not block, only fail again.
    Starved,
    /// When the worker has closed its end: its process or its channel says so in a moment.
    Closed,
}

impl Room {
    fn after(error: io::Error) -> io::Result<Self> {
        match error.kind() {
            io::ErrorKind::WouldBlock => Ok(Self::Full),
            io::ErrorKind::QuotaExceeded => Ok(Self::Starved),
            io::ErrorKind::BrokenPipe => Ok(Self::Closed),
            _ => Err(error),
        }
    }
}

/// Why an order could not be given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    /// When the worker does not read what it is sent.
    #[error("it leaves more than {MAX_WAITING} messages unread")]
    Unread,
    /// When the system refused to send.
    #[error("send on its channel: {0}")]
    Io(#[from] io::Error),
}

/// What became of the staged offers.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Could not be sent; their words are free again.
    pub(crate) failed: Vec<ConnectionId>,
    /// Cannot be put into a message, for any worker.
    pub(crate) unsayable: Vec<ConnectionId>,
    pub(crate) room: Result<Room, OrderError>,
}

/// An offer on the board, and what was read from its word the last time.
#[derive(Clone, Copy, Debug)]
struct Placed {
    id: OfferId,
    seen: Reading,
}

impl Placed {
    /// What has become of the offer since the last look. A released one is on the board no more.
    fn look(&mut self, board: &mut MasterBoard) -> Option<Move> {
        let reading = board.read(self.id);
        if reading == self.seen || self.seen == Reading::Illegal {
            return None;
        }
        let seen = std::mem::replace(&mut self.seen, reading);
        match (seen, reading) {
            (Reading::Offered, Reading::Taken) => Some(Some(Settled::Taken)),
            (Reading::Offered, Reading::Refused) => Some(Some(Settled::Refused)),
            (Reading::Revoked, Reading::Released) => {
                board.released(self.id);
                Some(Some(Settled::Released))
            }
            _ => {
                self.seen = Reading::Illegal;
                Some(None)
            }
        }
    }
}

/// What the worker, or a revocation, made of an offer; `None` for a move that is not legal. Whoever made that one may have
/// read from the connection.
pub(crate) type Move = Option<Settled>;

impl Link {
    /// `bells`: the master's copy, and the one that goes to the worker.
    pub(crate) fn new(identity: Identity, ends: MasterEnds, bells: [OwnedFd; 2], process: Process) -> Self {
        let [bell, bell_copy] = bells;
        let MasterEnds { channel, board, .. } = ends;
        Self {
            identity,
            channel,
            bell,
            process: Some(process),
            talk: Talk::Greeting,
            told: None,
            refused: None,
            bell_copy: Some(bell_copy),
            active_at_drain: None,
            handovers: HashSet::new(),
            lost: 0,
            undelivered: Vec::new(),
            board,
            watched: false,
            heartbeat: 0,
            offers: BTreeMap::new(),
            noted: false,
            staged: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Gives an order, or keeps it until the channel has room.
    pub(crate) fn order(&mut self, order: Order) -> Result<Room, OrderError> {
        if self.waiting.len() >= MAX_WAITING {
            self.keep(order);
            return Err(OrderError::Unread);
        }
        self.waiting.push_back(order);
        self.send_waiting()
    }

    /// Sends what waits, as far as the channel has room.
    pub(crate) fn send_waiting(&mut self) -> Result<Room, OrderError> {
        while let Some(order) = self.waiting.front() {
            if let Err(error) = self.send(&order.message, order.cargo.fd().as_slice()) {
                let room = Room::after(error)?;
                if room == Room::Closed {
                    self.give_up_waiting();
                }
                return Ok(room);
            }
            self.waiting.pop_front();
        }
        Ok(Room::Enough)
    }

    /// Nothing that waits can be sent any more.
    pub(crate) fn give_up_waiting(&mut self) {
        for order in std::mem::take(&mut self.waiting) {
            self.keep(order);
        }
    }

    /// Keeps what must not be lost of an order that cannot be given.
    fn keep(&mut self, order: Order) {
        if let (ToWorker::HandedOver { id, outcome: HandoverOutcome::Returned }, Cargo::Connection(connection)) =
            (order.message, order.cargo)
        {
            self.undelivered.push((id, *connection));
        }
    }

    /// The connection of this offer, and what was read from its word the last time, if it is on the board.
    pub(crate) fn placed(&self, offer: OfferId) -> Option<(ConnectionId, Reading)> {
        let mut offers = self.offers.iter();
        offers.find(|(_, placed)| placed.id == offer).map(|(connection, placed)| (*connection, placed.seen))
    }

    /// Whether orders wait for room in the channel.
    pub(crate) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Puts an offer on the board; [`send_offers`](Self::send_offers) puts it into the channel. `false` when the board has
    /// no free word.
    ///
    /// # Errors
    ///
    /// The worker wrote on a word that was not its to write.
    pub(crate) fn stage(&mut self, connection: ConnectionId) -> Result<bool, Reading> {
        let Some(id) = self.board.offer()? else { return Ok(false) };
        self.offers.insert(connection, Placed { id, seen: Reading::Offered });
        self.staged.push(connection);
        Ok(true)
    }

    /// Whether [`send_offers`](Self::send_offers) has something to send.
    pub(crate) fn has_staged(&self) -> bool {
        !self.staged.is_empty()
    }

    /// Sends the staged offers, many in one message.
    pub(crate) fn send_offers(&mut self, connections: &Connections) -> Sent {
        let staged = std::mem::take(&mut self.staged);
        let mut rest = &staged[..];
        let (mut most, mut unsayable) = (MAX_OFFERS, Vec::new());
        let mut room = Ok(if self.is_full() { Room::Full } else { Room::Enough });
        while matches!(room, Ok(Room::Enough)) && !rest.is_empty() {
            let (batch, later) = rest.split_at(batch_length(&rest[..rest.len().min(most)], connections));
            match self.send_batch(batch, connections) {
                Ok(()) => rest = later,
                // The message cannot be written, which is no fault of the worker. One by one, the offer at fault is found.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    if let [only] = batch {
                        unsayable.push(*only);
                        rest = later;
                    }
                    most = 1;
                }
                Err(error) => room = Room::after(error).map_err(OrderError::from),
            }
        }
        for connection in rest {
            self.free(*connection);
        }
        Sent { failed: rest.to_vec(), unsayable, room }
    }

    fn send_batch(&self, batch: &[ConnectionId], connections: &Connections) -> io::Result<()> {
        let mut offers = Vec::with_capacity(batch.len());
        let mut fds: Vec<BorrowedFd<'_>> = Vec::with_capacity(batch.len());
        for connection in batch {
            let (Some(placed), Some(held)) = (self.offers.get(connection), connections.get(*connection)) else {
                debug_assert!(false, "a staged offer has a word and a socket");
                continue;
            };
            offers.push(Offer {
                id: placed.id,
                listener: held.listener,
                peer: held.peer.clone(),
                parcel: held.parcel.clone(),
            });
            fds.push(held.socket.as_fd());
            fds.extend(held.memfd.as_ref().map(AsFd::as_fd));
        }
        self.send(&ToWorker::Offer { offers }, &fds)
    }

    /// Everything that goes to the worker is counted on its board first.
    fn send(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.board.count_message();
        let sent = self.channel.send(message, fds);
        if sent.is_err() {
            self.board.uncount_message();
        }
        sent
    }

    /// Frees the word of an offer that was taken, refused or never sent.
    pub(crate) fn free(&mut self, connection: ConnectionId) {
        if let Some(placed) = self.offers.remove(&connection) {
            self.board.free(placed.id);
        }
    }

    /// Withdraws an offer, also after the worker's death. Returns what became of it, in order.
    pub(crate) fn revoke(&mut self, connection: ConnectionId) -> Vec<Move> {
        if let Some(position) = self.staged.iter().position(|staged| *staged == connection) {
            self.staged.remove(position);
            self.free(connection);
            return vec![Some(Settled::Revoked), Some(Settled::Released)];
        }
        let Some(placed) = self.offers.get_mut(&connection) else { return Vec::new() };
        match self.board.revoke(placed.id) {
            Reading::Revoked if placed.seen == Reading::Offered => {
                placed.seen = Reading::Revoked;
                vec![Some(Settled::Revoked)]
            }
            _ => self.look(connection).into_iter().collect(),
        }
    }

    /// What the worker has done on its board since the last look.
    pub(crate) fn read_board(&mut self) -> Vec<(ConnectionId, Move)> {
        let Self { board, offers, .. } = self;
        let moved = offers.iter_mut().filter_map(|(connection, placed)| Some((*connection, placed.look(board)?)));
        let moved: Vec<_> = moved.collect();
        for (connection, how) in &moved {
            if *how == Some(Settled::Released) {
                self.offers.remove(connection);
            }
        }
        moved
    }

    /// Notes that there are unsettled offers. `false`: somebody has that in mind already.
    pub(crate) fn note_unsettled(&mut self) -> bool {
        !std::mem::replace(&mut self.noted, true)
    }

    /// Whether there still are, if that was noted.
    pub(crate) fn is_unsettled(&mut self) -> bool {
        self.noted = self.has_offers();
        self.noted
    }

    /// What the worker has done on its board since the last look, and how many connections it has then: none counts as
    /// untaken and as active. It ends, for the worker can move no word twice without the master.
    pub(crate) fn read_load(&mut self) -> (Vec<(ConnectionId, Move)>, u64) {
        let mut moves = self.read_board();
        loop {
            let active = self.figures().active;
            match self.read_board() {
                later if later.is_empty() => return (moves, active),
                later => moves.extend(later),
            }
        }
    }

    /// Whether a word of its board is not free.
    pub(crate) fn has_offers(&self) -> bool {
        !self.offers.is_empty()
    }

    fn look(&mut self, connection: ConnectionId) -> Option<Move> {
        let how = self.offers.get_mut(&connection)?.look(&mut self.board)?;
        if how == Some(Settled::Released) {
            self.offers.remove(&connection);
        }
        Some(how)
    }

    /// Whether the heartbeat has moved since the last look.
    pub(crate) fn has_beaten(&mut self) -> bool {
        let heartbeat = self.board.figures().heartbeat;
        std::mem::replace(&mut self.heartbeat, heartbeat) != heartbeat
    }

    /// What the worker says of itself.
    pub(crate) fn figures(&self) -> Figures {
        let figures = self.board.figures();
        // They are added up, and a worker may claim anything: no process has more than this of what takes a descriptor.
        let sane = |figure: u64| figure.min(u32::MAX.into());
        let active = sane(figures.active);
        let (guards, requests, lingered) = (sane(figures.guards), sane(figures.requests), sane(figures.lingered));
        let (idle, unread) = (figures.idle.min(active), figures.unread.min(active));
        Figures { active, guards, requests, lingered, idle, unread, ..figures }
    }

    /// How long its oldest connection has lasted, as far as a process that is `uptime` old can say.
    pub(crate) fn oldest(&self, uptime: Duration) -> Option<Duration> {
        let oldest = Some(self.figures().oldest).filter(|oldest| *oldest > 0)?;
        Some(Duration::from_millis(everport_handoff::board::now().saturating_sub(oldest)).min(uptime))
    }

    /// Asks the worker to ring whenever a connection ends, or no longer.
    pub(crate) fn watch_load(&mut self, on: bool) {
        self.watched = on;
        self.board.ask_ring_at_ends(on);
    }

    /// How many connections the worker has, if that is watched. To be read after the offers: a connection counts before its
    /// offer is taken.
    pub(crate) fn watched_load(&self) -> Option<u64> {
        self.watched.then(|| self.figures().active)
    }

    /// Asks the worker to ring at every change, or no longer.
    pub(crate) fn ask_ring(&self, on: bool) {
        self.board.ask_ring(on);
    }
}

/// How many of these offers fit into one message: one at least.
fn batch_length(offers: &[ConnectionId], connections: &Connections) -> usize {
    let mut room = MAX_PACKET;
    let fits = |connection: &&ConnectionId| {
        let inline = match connections.get(**connection).map(|held| &held.parcel) {
            Some(Parcel::Unread(Data::Inline(bytes)) | Parcel::State { data: Data::Inline(bytes), .. }) => bytes.len(),
            _ => 0,
        };
        let left = room.checked_sub(OFFER_SIZE + inline);
        room = left.unwrap_or(room);
        left.is_some()
    };
    offers.iter().take_while(fits).count().max(1)
}
