//! How connections are spread over the workers, as far as the outside has a say in it: policies of listeners, weights of
//! slots, and the figures by which the machine decides.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use everport_handoff::id::{ListenerId, Slot, WorkerId};
use everport_handoff::message::ToWorker;
use everport_handoff::socket::Kind;
use tracing::{debug, error, info, warn};

use super::link::{Cargo, Link, Order};
use super::listeners::Listener;
use super::records::is_news;
use super::{Shell, clock};
use crate::config::{Config, Policy};
use crate::control::protocol::{AskedBy, Ordered, Respread, Weighed};
use crate::machine::{ConnectionId, Event, OfferedPolicy, Spread};

/// Why a listener does not get another policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PolicyError {
    #[error("there is no listener {0:?}: see everport status")]
    Unknown(String),
    #[error(
        "listener {name} keeps policy {has}: {wanted} needs a new socket, for the workers hold this one or are to hold it; \
        give it that policy in the configuration and start the master again"
    )]
    NewSocket { name: String, has: Policy, wanted: Policy },
}

/// The machine's name for a policy, if the master offers the connections under it.
pub(super) fn offered(policy: Policy) -> Option<OfferedPolicy> {
    match policy {
        Policy::RoundRobin => Some(OfferedPolicy::RoundRobin),
        Policy::Least => Some(OfferedPolicy::Least),
        Policy::TwoChoices => Some(OfferedPolicy::TwoChoices),
        Policy::Hash => Some(OfferedPolicy::Hash),
        _ => None,
    }
}

impl Shell {
    /// The policy that the listener has now.
    pub(super) fn policy(&self, listener: ListenerId) -> Policy {
        match self.machine.policy(listener) {
            Some(OfferedPolicy::RoundRobin) => Policy::RoundRobin,
            Some(OfferedPolicy::Least) => Policy::Least,
            Some(OfferedPolicy::TwoChoices) => Policy::TwoChoices,
            Some(OfferedPolicy::Hash) => Policy::Hash,
            None => self.listeners.get(listener).map_or(Policy::None, |held| held.policy),
        }
    }

    /// Why workers with these settings cannot have this listener, which keeps its policy. Of UDP nothing is counted.
    pub(super) fn refusal(&self, listener: ListenerId, config: &Config) -> Option<String> {
        let held = self.listeners.get(listener).filter(|held| held.bound.kind() != Kind::Udp)?;
        let (has, problem) = (held.policy, config.refuses(Some(held.policy))?);
        Some(format!("it was bound with policy {has}, and keeps that: {problem}"))
    }

    /// Reads how many connections each worker has, if the machine wants to know before it gets more of them to spread.
    pub(super) fn read_loads(&mut self, listener: ListenerId) {
        if self.machine.wants_loads(listener, clock::now()) {
            let read = |(worker, link): (&WorkerId, &mut Link)| (*worker, link.read_load());
            let loads: Vec<_> = self.links.iter_mut().map(read).collect();
            let mut active = Vec::with_capacity(loads.len());
            for (worker, (moves, load)) in loads {
                self.note_moves(worker, moves);
                active.push((worker, load));
            }
            self.note(Event::LoadsRead { active });
        }
    }

    /// Reads how many connections a worker has that has refused one. It may have filled up with those that it accepts itself.
    pub(super) fn read_load(&mut self, worker: WorkerId) {
        let Some((moves, active)) = self.links.get_mut(&worker).map(Link::read_load) else { return };
        self.note_moves(worker, moves);
        self.note(Event::LoadRead { worker, active });
    }

    /// Has a worker tell when its connections end, or no longer.
    pub(super) fn watch_load(&mut self, worker: WorkerId, on: bool) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        link.watch_load(on);
        if on {
            self.read_board(worker);
        }
    }

    /// Closes a connection that no worker may have.
    pub(super) fn shed(&mut self, connection: ConnectionId) {
        let listener = self.connections.get(connection).map(|connection| connection.listener);
        self.connections.close(connection);
        if let Some(held) = listener.and_then(|listener| self.listeners.get_mut(listener)) {
            held.shed += 1;
            if is_news(&mut held.shedding_said) {
                warn!(listener = held.key, "connections closed: every worker has as many as it may have");
            }
        }
    }

    /// A worker has the socket of one more slot, or has it no longer.
    pub(super) fn lend(&mut self, worker: WorkerId, listener: ListenerId, slot: Slot) {
        let Some(held) = self.listeners.get(listener) else { return };
        let Some(socket) = held.bound.sockets().nth(slot.0 as usize) else { return };
        match socket.try_clone_to_owned() {
            Ok(copy) => {
                let message = ToWorker::Share { listener, socket: slot.0 };
                self.order(worker, Order { message, cargo: Cargo::Descriptor(copy) });
            }
            Err(error) => {
                error!(listener = held.key, %slot, %error, "socket not lent; its clients wait for its worker")
            }
        }
    }

    /// The socket that a worker of this slot gets: that of the listener, or if that is split, of the slot. Sockets that are
    /// missing are added.
    pub(super) fn socket_for(&mut self, listener: ListenerId, slot: Slot) -> io::Result<Option<OwnedFd>> {
        let Some(held) = self.listeners.get_mut(listener) else { return Ok(None) };
        let socket = match held.spread {
            Spread::Offered => return Ok(None),
            Spread::Shared => held.bound.as_fd().try_clone_to_owned(),
            Spread::Split => {
                let index = slot.0 as usize;
                let grown = held.bound.grow(index + 1);
                let copy = held.bound.sockets().nth(index).map(|socket| socket.try_clone_to_owned());
                // As many as there are by now, also if not all could be added.
                let sockets = u32::try_from(held.bound.sockets().count()).unwrap_or(u32::MAX);
                self.note(Event::SocketsAdded { listener, sockets });
                grown.and_then(|()| copy.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())))
            }
        };
        socket.map(Some)
    }

    /// Spreads new connections over the sockets of the first slots.
    pub(super) fn steer(&mut self, listener: ListenerId, over: u32) {
        let Some(held) = self.listeners.get(listener) else { return };
        match held.bound.steer(over) {
            Ok(()) => debug!(listener = held.key, over, "listener steered"),
            Err(error) => error!(listener = held.key, over, %error, "listener not steered"),
        }
    }

    /// Gives the listeners the policies that the settings have now. One that somebody ordered stays, unless the settings
    /// have another one than before.
    pub(super) fn apply_policies(&mut self) {
        let plan = self.plans.active();
        let configured: Vec<_> = plan.configured.iter().zip(&plan.config.listen).collect();
        let mut changes = Vec::new();
        for (id, held) in self.listeners.iter().filter(|(_, held)| held.bound.kind() != Kind::Udp) {
            let named = configured.iter().find(|(configured, _)| **configured == id).map(|(_, address)| *address);
            let wanted = named.unwrap_or(held.bound.address()).policy().unwrap_or(plan.config.policy);
            if wanted != held.policy {
                changes.push((id, wanted));
            }
        }
        for (id, wanted) in changes {
            let Some(held) = self.listeners.get_mut(id) else { continue };
            match offered(wanted) {
                Some(policy) if held.spread == Spread::Offered => {
                    held.policy = wanted;
                    info!(listener = held.key, policy = %wanted, "policy changed");
                    self.note(Event::PolicyAsked { listener: id, policy });
                }
                _ => {
                    let (has, wanted) = (held.policy, wanted);
                    warn!(listener = held.key, %has, %wanted, "listener keeps its policy: the other needs a new socket");
                }
            }
        }
    }

    /// Gives a listener, by its name or its address, another policy; `None` when the master is stopping.
    pub(super) fn set_policy(
        &mut self,
        asked_by: AskedBy,
        name: &str,
        wanted: Policy,
    ) -> Option<Result<Respread, PolicyError>> {
        if self.machine.is_stopping() {
            return None;
        }
        let is_meant = |held: &Listener| held.key == name || held.bound.local().to_string() == name;
        let found = self.listeners.iter().find(|(_, held)| is_meant(held));
        let Some((id, spread, listener)) = found.map(|(id, held)| (id, held.spread, held.key.clone())) else {
            return Some(Err(PolicyError::Unknown(name.to_owned())));
        };
        let before = self.policy(id);
        match offered(wanted) {
            Some(policy) if spread == Spread::Offered => {
                info!(asked_by = asked_by.to_string(), listener, %before, policy = %wanted, "policy asked");
                self.note(Event::PolicyAsked { listener: id, policy });
                self.pump();
            }
            _ if wanted == before => {}
            _ => return Some(Err(PolicyError::NewSocket { name: listener, has: before, wanted })),
        }
        let respread = Respread { listener, before, policy: wanted };
        self.records.ordered(asked_by, Ordered::Policy(respread.clone()));
        Some(Ok(respread))
    }

    /// Gives a slot more or less than the others; `Some(None)` if there is no such slot, `None` when the master is stopping.
    pub(super) fn set_weight(&mut self, asked_by: AskedBy, slot: Slot, weight: u32) -> Option<Option<Weighed>> {
        if self.machine.is_stopping() {
            return None;
        }
        if slot.0 >= self.machine.slots() {
            return Some(None);
        }
        let before = self.machine.weight(slot);
        info!(asked_by = asked_by.to_string(), %slot, before, weight, "weight asked");
        self.note(Event::WeightAsked { slot, weight });
        self.pump();
        let weighed = Weighed { slot, before, weight };
        self.records.ordered(asked_by, Ordered::Weight(weighed));
        Some(Some(weighed))
    }
}
