//! The sockets of listeners that are split: who has which, and what the kernel was told.

use std::collections::BTreeSet;

use everport_handoff::id::{ListenerId, Slot, WorkerId};

use super::super::super::*;
use super::{Port, World};

/// The sockets of one listener.
#[derive(Debug)]
pub(super) struct Group {
    sockets: u32,
    steered: Option<u32>,
    /// Who has a socket that is not its slot's.
    lent: BTreeSet<(Slot, WorkerId)>,
}

impl Port {
    pub(super) fn new(spread: Spread) -> Self {
        let first = Group { sockets: 1, steered: None, lent: BTreeSet::new() };
        Self { group: (spread == Spread::Split).then_some(first), ..Self::default() }
    }
}

impl World {
    fn group(&mut self, listener: ListenerId) -> &mut Group {
        let port = self.ports.get_mut(&listener).expect("an open listener");
        port.group.as_mut().expect("one that is split")
    }

    /// A worker got the socket of its slot; those that were missing are bound.
    pub(super) fn add_sockets(&mut self, worker: WorkerId, listener: ListenerId) {
        let slot = self.worker(worker.0).slot;
        if let Some(group) = self.ports.get_mut(&listener).and_then(|port| port.group.as_mut()) {
            group.sockets = group.sockets.max(slot.0 + 1);
            // What it had by an earlier answer went with that.
            group.lent.retain(|(_, holder)| *holder != worker);
            self.events.push_back(Event::SocketsAdded { listener, sockets: group.sockets });
        }
    }

    pub(super) fn lend(&mut self, worker: WorkerId, listener: ListenerId, slot: Slot) {
        let process = self.worker(worker.0);
        assert!(process.uses.contains(&listener) && !process.exited, "{worker:?} cannot take it");
        assert_ne!(process.slot, slot, "{worker:?} has that one");
        let group = self.group(listener);
        assert!(slot.0 < group.sockets, "a socket that is not there");
        assert!(group.lent.insert((slot, worker)), "{worker:?} is lent one twice");
    }

    pub(super) fn take_back_socket(&mut self, worker: WorkerId, listener: ListenerId, slot: Slot) {
        assert!(!self.worker(worker.0).exited, "{worker:?} has gone");
        assert!(self.group(listener).lent.remove(&(slot, worker)), "{worker:?} has no such socket");
    }

    pub(super) fn steer(&mut self, listener: ListenerId, over: u32) {
        let group = self.group(listener);
        assert!((1..=group.sockets).contains(&over), "steered to sockets that are not there");
        assert_ne!(group.steered.replace(over), Some(over), "only changes are told");
    }

    /// Over how many sockets new connections are spread, and to whom the sockets of others are lent.
    pub(in crate::machine::tests) fn sockets(&mut self, listener: ListenerId) -> (Option<u32>, Vec<(u32, u64)>) {
        let accepting: BTreeSet<_> = self.accepting_from(listener).into_iter().map(|(worker, _)| worker).collect();
        let group = self.group(listener);
        let lent = group.lent.iter().filter(|(_, worker)| accepting.contains(worker));
        (group.steered, lent.map(|(slot, worker)| (slot.0, worker.0)).collect())
    }

    fn accepting_from(&self, listener: ListenerId) -> Vec<(WorkerId, Slot)> {
        let takes = |view: &WorkerView| matches!(view.state, WorkerState::Active { .. } | WorkerState::Leaving { .. });
        let uses = |view: &WorkerView| self.workers[&view.worker].uses.contains(&listener);
        let accepting = self.machine.workers().filter(|view| takes(view) && uses(view));
        accepting.map(|view| (view.worker, view.slot)).collect()
    }

    /// Somebody accepts from every socket as long as anybody accepts: its own slot's workers, or one other.
    pub(super) fn check_sockets(&self) {
        for (listener, port) in &self.ports {
            let (Some(group), accepting) = (&port.group, self.accepting_from(*listener)) else { continue };
            let Some(highest) = accepting.iter().map(|(_, slot)| slot.0).max() else { continue };
            assert_eq!(group.steered, Some(highest + 1), "{listener:?} is steered elsewhere");
            for slot in (0..group.sockets).map(Slot) {
                let own = accepting.iter().filter(|(_, other)| *other == slot).count();
                let lent = accepting.iter().filter(|(worker, _)| group.lent.contains(&(slot, *worker))).count();
                assert_eq!(lent, usize::from(own == 0), "{listener:?}: who accepts from {slot:?}? {group:?}");
            }
        }
    }
}
