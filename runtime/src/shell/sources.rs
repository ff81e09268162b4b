//! From sources to events: what each thing that woke the loop has to say.

use std::io;
use std::os::fd::AsFd;

use everport_handoff::address::ListenAddress;
use everport_handoff::bootstrap::Identity;
use everport_handoff::channel::{ReceiveError, Received};
use everport_handoff::id::{ListenerId, WorkerId};
use everport_handoff::message::{self, ListenFailure, ToMaster, ToWorker};
use rustix::io::Errno;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::handover::Gift;
use super::link::{Cargo, Link, Move, Order, Room, Talk, Word};
use super::listeners::Accept;
use super::poller::{Ready, Source};
use super::process::Process;
use super::records::Answer;
use super::signals::Order as SignalOrder;
use super::spread::offered;
use super::{Shell, orphans};
use crate::config::Policy;
use crate::control::protocol::{AskedBy, Stopping};
use crate::control::request::Request;
use crate::error::{Error, Result};
use crate::machine::{ConnectionId, Event, GenerationState, RequestId, Settled};

/// How many connections one turn accepts from one listener, so that other sources get their turn.
const MAX_ACCEPTS: usize = 64;

/// How many messages one turn reads from one worker.
const MAX_MESSAGES: usize = 64;

/// How many messages are read from a worker that has died: more than a channel holds, but a child of it that keeps the
/// channel open cannot hold the master.
const MAX_LAST_MESSAGES: usize = 4096;

/// How many listeners the master holds at most, so that workers cannot use up its descriptors.
pub(crate) const MAX_LISTENERS: usize = 1024;

impl Shell {
    /// Takes what one source has to say.
    pub(super) fn take(&mut self, ready: Ready) {
        match ready.source {
            Source::Listener(listener) => self.accept(listener),
            Source::Bell(worker) => self.answer_bell(worker),
            Source::Channel(worker) => {
                if ready.writable {
                    self.use_room(worker);
                }
                self.hear(worker, MAX_MESSAGES);
            }
            Source::Process(worker) => {
                self.bury(worker);
                self.bury_foreign(worker);
            }
            Source::Signals => self.obey_signals(),
            Source::Control => self.answer_control(),
            Source::Notices => self.hear_notices(),
        }
    }

    /// Finds or binds the listeners that settings name. After a failure those that were bound belong to nobody, and the
    /// machine closes them.
    pub(super) fn bind_configured(&mut self, addresses: &[ListenAddress], policy: Policy) -> Result<Vec<ListenerId>> {
        let mut configured = Vec::new();
        for address in addresses {
            let listener = match self.listeners.find(address, 0).filter(|found| !configured.contains(found)) {
                Some(found) => found,
                None => {
                    let bound = self.listeners.bind(address, 0, policy).map_err(|failure| Error::Bind {
                        address: address.to_string(),
                        source: io::Error::new(failure.kind(), failure.cause),
                    })?;
                    self.announce(bound, true);
                    bound
                }
            };
            configured.push(listener);
        }
        Ok(configured)
    }

    fn announce(&mut self, listener: ListenerId, configured: bool) {
        let Some(held) = self.listeners.get(listener) else { return };
        info!(listener = held.key, address = %held.bound.local(), "listener bound");
        let (spread, policy) = (held.spread, offered(held.policy));
        self.note(Event::ListenerBound { listener, spread, configured });
        if let Some(policy) = policy {
            self.note(Event::PolicyAsked { listener, policy });
        }
    }

    /// Accepts in batches: first one client, and twice as many each time as long as so many are there. Each batch is on its
    /// way before the next one is looked for; so nobody waits for others that may not come, and where many come they share
    /// messages. It ends with a batch that is not full: whoever comes after that wakes the loop again.
    fn accept(&mut self, listener: ListenerId) {
        let (mut batch, mut left) = (1, MAX_ACCEPTS);
        while left > 0 {
            self.read_loads(listener);
            let most = self.machine.room(listener).min(batch).min(left);
            let accepted = self.accept_batch(listener, most);
            if accepted == 0 {
                return;
            }
            self.pump();
            self.send_offers();
            if accepted < most {
                return;
            }
            self.settle_offers();
            (batch, left) = (batch * 2, left - accepted);
        }
    }

    /// Accepts at most so many connections. Returns how many came.
    fn accept_batch(&mut self, listener: ListenerId, most: usize) -> usize {
        for accepted in 0..most {
            let (connection, exhausted) = match self.listeners.accept(listener) {
                Accept::Connection(connection) => (Some(connection), None),
                Accept::Last(connection) => {
                    (Some(connection), Some(io::Error::other("the last descriptors are kept for workers and control")))
                }
                Accept::Exhausted(error) => (None, Some(error)),
                Accept::Empty => return accepted,
            };
            if let Some(connection) = connection {
                let key = connection.key();
                let connection = self.connections.keep(connection);
                self.note(Event::Accepted { listener, connection, key });
            }
            if let Some(error) = exhausted {
                self.records.exhausted(&error);
                self.note(Event::AcceptExhausted);
                return accepted;
            }
        }
        most
    }

    /// Looks what became of the offers that were not settled yet.
    pub(super) fn settle_offers(&mut self) {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for worker in &unsettled {
            let moves = self.links.get_mut(worker).map(Link::read_board).unwrap_or_default();
            self.note_moves(*worker, moves);
        }
        self.pump();
        unsettled.retain(|worker| self.links.get_mut(worker).is_some_and(Link::is_unsettled));
        unsettled.append(&mut self.unsettled);
        self.unsettled = unsettled;
    }

    fn answer_bell(&mut self, worker: WorkerId) {
        if let Some(link) = self.links.get(&worker) {
            everport_handoff::board::silence(link.bell.as_fd());
            self.read_board(worker);
        }
    }

    /// Reads every board.
    pub(super) fn read_boards(&mut self) {
        let workers: Vec<_> = self.links.keys().copied().collect();
        for worker in workers {
            self.read_board(worker);
        }
    }

    /// Reads one board.
    pub(super) fn read_board(&mut self, worker: WorkerId) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        let has_beaten = link.has_beaten();
        let moves = link.read_board();
        let load = link.watched_load();
        self.note_moves(worker, moves);
        if let Some(active) = load {
            self.note(Event::LoadRead { worker, active });
        }
        if has_beaten {
            self.note(Event::Beat { worker });
        }
    }

    /// Notes what became of offers. A move that is not legal means that the connection may have been read from.
    pub(super) fn note_moves(&mut self, worker: WorkerId, moves: impl IntoIterator<Item = (ConnectionId, Move)>) {
        let mut refused = false;
        for (connection, how) in moves {
            if how.is_none() {
                // First, so that what it says it took is not believed.
                self.broke(worker, "it wrote on its board what no offer allows".to_owned());
            }
            self.note(Event::Settled { worker, connection, how: how.unwrap_or(Settled::Taken) });
            refused |= how == Some(Settled::Refused);
        }
        if refused {
            self.read_load(worker);
        }
    }

    /// Notes that a worker broke the protocol; the first time counts.
    pub(super) fn broke(&mut self, worker: WorkerId, reason: String) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        if link.talk == Talk::Broken {
            return;
        }
        self.stop_listening(worker, Talk::Broken);
        warn!(%worker, reason, "worker broke the protocol");
        self.note(Event::WorkerBroke { worker, reason });
    }

    /// The channel may have room: what waited goes first.
    pub(super) fn use_room(&mut self, worker: WorkerId) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        let room = link.send_waiting();
        if matches!(room, Ok(Room::Enough)) {
            self.want_room(worker, false);
            self.note(Event::ChannelWritable { worker });
        }
        self.heed_room(worker, room);
        self.keep_undelivered(worker);
    }

    /// Wakes the loop when the channel of a worker has room, or no longer.
    pub(super) fn want_room(&self, worker: WorkerId, wanted: bool) {
        let Some(link) = self.links.get(&worker).filter(|link| link.talk.is_heard()) else { return };
        if let Err(error) = self.poller.want_writable(&link.channel, Source::Channel(worker), wanted) {
            debug!(%worker, %error, "channel not watched");
        }
    }

    /// Reads a worker's messages, at most so many.
    fn hear(&mut self, worker: WorkerId, most: usize) {
        for _ in 0..most {
            let Some(link) = self.links.get_mut(&worker).filter(|link| link.talk.is_heard()) else { return };
            match link.channel.receive::<ToMaster>() {
                Ok(received) => {
                    self.heed(worker, received);
                    // The next message may ask for what this one has just given up.
                    self.pump();
                }
                Err(ReceiveError::Empty) => return,
                Err(ReceiveError::Closed) => {
                    self.stop_listening(worker, Talk::Closed);
                    return self.note(Event::ChannelClosed { worker });
                }
                Err(error) => return self.broke(worker, error.to_string()),
            }
        }
    }

    fn stop_listening(&mut self, worker: WorkerId, talk: Talk) {
        if let Some(link) = self.links.get_mut(&worker)
            && std::mem::replace(&mut link.talk, talk).is_heard()
        {
            self.poller.remove(&link.channel);
        }
    }

    fn heed(&mut self, worker: WorkerId, received: Received<ToMaster>) {
        let Some(link) = self.links.get(&worker) else { return };
        let has_descriptors = matches!(received.message, ToMaster::Handover { .. });
        if !has_descriptors && (!received.fds.is_empty() || received.missing > 0) {
            return self.broke(worker, "it sent descriptors with a message that has none".to_owned());
        }
        let agreed = link.talk == Talk::Agreed;
        let Received { message, fds, missing } = received;
        match message {
            ToMaster::Hello { oldest, newest } if !agreed => self.welcome(worker, oldest, newest),
            _ if !agreed => self.broke(worker, "its first message was not Hello".to_owned()),
            ToMaster::Hello { .. } => self.broke(worker, "it said Hello twice".to_owned()),
            ToMaster::Listen { request, address, index } => self.listen(worker, request, &address, index),
            ToMaster::CloseListener { listener } => self.note(Event::ListenerClosed { worker, listener }),
            ToMaster::Ready => self.tell(worker, Word::Ready, Event::WorkerReady { worker }),
            ToMaster::Leave => self.tell(worker, Word::Leaving, Event::WorkerLeaving { worker }),
            ToMaster::Drained => self.tell(worker, Word::Drained, Event::WorkerDrained { worker }),
            ToMaster::WantTickets => self.note(Event::TicketKeysWanted { worker }),
            ToMaster::Handover { id, listener, peer, offer, parcel } => {
                let gift = Gift { id, listener, peer, offer, parcel };
                self.heed_gift(worker, gift, Received { message: (), fds, missing });
            }
        }
    }

    /// Notes what a worker says of its life, and logs it the first time: a worker may say it as often as it likes.
    fn tell(&mut self, worker: WorkerId, word: Word, event: Event) {
        if let Some(link) = self.links.get_mut(&worker)
            && link.told < Some(word)
        {
            link.told = Some(word);
            let Identity { slot, generation, .. } = link.identity;
            match word {
                Word::Ready => info!(%worker, %slot, %generation, "worker ready"),
                Word::Leaving => info!(%worker, %slot, %generation, "worker leaving"),
                Word::Drained => info!(%worker, %slot, %generation, "worker drained"),
            }
        }
        self.note(event);
    }

    fn welcome(&mut self, worker: WorkerId, oldest: u16, newest: u16) {
        let version = newest.min(message::NEWEST);
        if version < oldest.max(message::OLDEST) {
            let reason = format!(
                "the worker speaks versions {oldest} to {newest} of the protocol, this master {} to {}",
                message::OLDEST,
                message::NEWEST
            );
            return self.note(Event::WorkerIncompatible { worker, reason });
        }
        let Some(link) = self.links.get_mut(&worker) else { return };
        let generation = link.identity.generation;
        link.talk = Talk::Agreed;
        let fd = link.bell_copy.take();
        let (message, limit) = self.plans.of(generation).terms(version);
        self.order(worker, Order { message, cargo: fd.map_or(Cargo::None, Cargo::Descriptor) });
        if let Some(limit) = limit {
            self.order(worker, limit.into());
        }
    }

    fn listen(&mut self, worker: WorkerId, request: u32, address: &str, index: u32) {
        match self.find_or_bind(worker, address, index) {
            Ok(listener) => self.note(Event::ListenAsked { worker, request: RequestId(request), listener }),
            Err(failure) => {
                if let Some(link) = self.links.get_mut(&worker)
                    && link.refused.replace(failure.reason.clone()).is_none()
                {
                    warn!(%worker, reason = failure.reason, "listener refused");
                }
                self.order(worker, ToWorker::Listening { request, answer: Err(failure) }.into());
            }
        }
    }

    fn find_or_bind(
        &mut self,
        worker: WorkerId,
        address: &str,
        index: u32,
    ) -> std::result::Result<ListenerId, ListenFailure> {
        let refuse = |reason: String| ListenFailure { errno: None, reason };
        let address: ListenAddress = address.parse().map_err(|error| refuse(format!("{error}")))?;
        if address.host_port().is_some() {
            return Err(refuse(format!("bind {address}: the worker resolves host names, for the master cannot wait")));
        }
        let generation = self.links.get(&worker).map(|link| link.identity.generation);
        let plan = generation.map_or(self.plans.active(), |generation| self.plans.of(generation));
        if let Some(listener) = self.listeners.find(&address, index) {
            return match self.refusal(listener, &plan.config) {
                Some(reason) => Err(refuse(format!("bind {address}: {reason}"))),
                None => Ok(listener),
            };
        }
        if plan.launcher.surroundings().is_other_user() {
            let reason =
                format!("bind {address}: workers of another user may listen where the configuration says only");
            return Err(ListenFailure { errno: Some(Errno::ACCESS.raw_os_error()), reason });
        }
        if self.listeners.len() >= MAX_LISTENERS {
            return Err(refuse(format!("bind {address}: the master holds {MAX_LISTENERS} listeners already")));
        }
        let policy = plan.config.policy;
        if let Some(problem) = plan.config.refuses(address.policy()) {
            return Err(refuse(format!("bind {address}: {problem}")));
        }
        let bound = self.listeners.bind(&address, index, policy);
        let listener =
            bound.map_err(|error| ListenFailure { errno: error.raw_os_error(), reason: error.to_string() })?;
        self.announce(listener, false);
        Ok(listener)
    }

    /// A worker's process has ended: hears its last words, reads its board and tells the machine.
    fn bury(&mut self, worker: WorkerId) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        let Some(process) = &link.process else { return };
        let Some(exit) = process.reap() else { return };
        let pid = process.pid();
        self.poller.remove(process);
        self.poller.remove(&link.bell);
        link.process = None;
        self.hear(worker, MAX_LAST_MESSAGES);
        self.stop_listening(worker, Talk::Closed);
        self.read_board(worker);
        if let Some(link) = self.links.get_mut(&worker) {
            link.give_up_waiting();
        }
        self.keep_undelivered(worker);
        let view = self.machine.workers().find(|view| view.worker == worker);
        if let (Some(link), Some(view)) = (self.links.get(&worker), view) {
            let drains = |(generation, state)| {
                generation == view.generation && matches!(state, GenerationState::Draining { .. })
            };
            let retired = self.machine.generations().any(drains);
            self.records.exited(link, view, pid, exit, retired);
        }
        self.note(Event::WorkerExited { worker, exit });
        // Behind this one others may have waited to be reaped.
        self.reap_orphans();
    }

    /// Reaps the dead that are nobody's, if they come to this process.
    fn reap_orphans(&self) {
        if self.adopts_orphans {
            let linked = self.links.values().filter_map(|link| link.process.as_ref());
            let workers: Vec<i32> = linked.chain(self.foreigners.processes()).map(Process::pid).collect();
            orphans::reap(|pid| workers.contains(&pid));
        }
    }

    fn obey_signals(&mut self) {
        for order in self.signals.orders() {
            match order {
                SignalOrder::Reload(by) => self.reload(by.into(), Answer::Nobody),
                SignalOrder::Stop { signal, at_once } => {
                    info!(signal, "stop asked");
                    self.note(if at_once { Event::StopAsked { at_once } } else { Event::StopSignalled });
                }
                SignalOrder::Scale { by, to } => drop(self.scale(by.into(), to)),
                SignalOrder::Pause { by } => drop(self.set_paused(by.into(), true)),
                SignalOrder::Reopen => self.reopen(None),
                SignalOrder::Unsupported { signal } => warn!(signal, "signal not supported yet"),
            }
            // Before the next one is judged: a second order to stop is another thing than the first.
            self.pump();
        }
        self.reap_orphans();
    }

    fn reload(&mut self, by: AskedBy, answer: Answer) {
        if let Some(ticket) = self.records.asked(by, answer) {
            self.note(Event::ReloadAsked { ticket });
        }
    }

    fn answer_control(&mut self) {
        let Some((_, requests)) = &self.control else { return };
        let requests: Vec<_> = requests.take().collect();
        for request in requests {
            match request {
                // A client that has gone needs no answer.
                Request::Status { answer } => {
                    self.read_boards();
                    self.pump();
                    drop(answer.send(self.status()));
                }
                Request::Reload { client, answer } => {
                    self.reload(client.into(), Answer::Outcome(answer));
                }
                Request::BeginReload { client, answer } => {
                    self.reload(client.into(), Answer::Nobody);
                    self.pump();
                    drop(answer.send(self.begun()));
                }
                Request::Rollback { client, answer } => {
                    let ticket = self.records.asked_to_roll_back(client.into(), answer);
                    self.note(Event::RollbackAsked { ticket });
                }
                Request::Reopen { client, answer } => {
                    info!(pid = client.pid, uid = client.uid, "reopen asked");
                    self.reopen(Some(answer));
                }
                Request::Stop { client, at_once, answer } => {
                    let drain_timeout_ms =
                        u64::try_from(self.plans.active().config.drain_timeout.as_millis()).unwrap_or(u64::MAX);
                    let _ = answer.send(Stopping { at_once, drain_timeout_ms });
                    info!(pid = client.pid, uid = client.uid, "stop asked");
                    self.note(Event::StopAsked { at_once });
                }
                Request::Scale { client, to, answer } => reply(answer, self.scale(client.into(), to)),
                Request::Pause { client, paused, answer } => {
                    reply(answer, self.set_paused(client.into(), paused));
                }
                Request::Policy { client, listener, policy, answer } => {
                    reply(answer, self.set_policy(client.into(), &listener, policy));
                }
                Request::Weight { client, slot, weight, answer } => {
                    reply(answer, self.set_weight(client.into(), slot, weight));
                }
                Request::Kill { client, worker, answer } => {
                    reply(answer, Some(self.kill_worker(client.into(), worker)));
                }
            }
        }
    }
}

/// Answers a client; without an answer it learns that the master is stopping.
fn reply<T>(to: oneshot::Sender<T>, answer: Option<T>) {
    if let Some(answer) = answer {
        // A client that has gone needs no answer.
        let _ = to.send(answer);
    }
}
