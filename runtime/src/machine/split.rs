//! Listeners with a socket, and a queue, for every slot (policy `split`): who accepts from which, and over how many the
//! kernel spreads new connections.
//!
//! The workers of a slot accept from their slot's socket. One whose slot has no worker that accepts is *lent* to the next
//! slot's worker at once, for somebody may wait there. The kernel is steered to the sockets up to that of the highest slot
//! with a worker: a slot that was taken away gets nothing new.
//!
//! Invariants: sockets are only added, and steered to only when they are there. While any worker accepts from such a
//! listener, no socket of it is without one.

use std::collections::BTreeMap;

use everport_handoff::id::{ListenerId, Slot, WorkerId};

use super::{Action, Machine, Spread, WorkerState};

#[derive(Debug, Default)]
pub(super) struct Split {
    groups: BTreeMap<ListenerId, Group>,
}

/// The sockets of one listener.
#[derive(Debug)]
struct Group {
    /// How many there are: those of the slots below this.
    sockets: u32,
    /// How many of them get new connections; nothing while the kernel was not told.
    steered: Option<u32>,
    /// Who has the socket of a slot that is not its own.
    lent: BTreeMap<Slot, WorkerId>,
}

impl Split {
    pub(super) fn open(&mut self, listener: ListenerId, spread: Spread) {
        if spread == Spread::Split {
            let first = Group { sockets: 1, steered: None, lent: BTreeMap::new() };
            self.groups.entry(listener).or_insert(first);
        }
    }

    pub(super) fn is_split(&self, listener: ListenerId) -> bool {
        self.groups.contains_key(&listener)
    }

    pub(super) fn close(&mut self, listener: ListenerId) {
        self.groups.remove(&listener);
    }

    /// The listener has so many sockets now.
    pub(super) fn grown(&mut self, listener: ListenerId, sockets: u32) {
        if let Some(group) = self.groups.get_mut(&listener) {
            group.sockets = group.sockets.max(sockets);
        }
    }
}

impl Group {
    /// Every socket gets somebody. `accepting` has the newest worker of each slot that accepts; `keeps` says who would still
    /// have what was lent to it.
    fn arrange(
        &mut self,
        listener: ListenerId,
        accepting: &BTreeMap<Slot, WorkerId>,
        keeps: impl Fn(WorkerId) -> bool,
        actions: &mut Vec<Action>,
    ) {
        for slot in (0..self.sockets).map(Slot) {
            let wanted = if accepting.contains_key(&slot) { None } else { neighbour(accepting, slot) };
            let before = self.lent.get(&slot).copied();
            if wanted == before {
                continue;
            }
            match wanted {
                Some(worker) => {
                    self.lent.insert(slot, worker);
                    actions.push(Action::Lend { worker, listener, slot });
                }
                None => {
                    self.lent.remove(&slot);
                }
            }
            if let Some(worker) = before.filter(|worker| keeps(*worker)) {
                actions.push(Action::TakeBack { worker, listener, slot });
            }
        }
        let highest = accepting.keys().rfind(|slot| slot.0 < self.sockets);
        if let Some(over) = highest.map(|slot| slot.0 + 1)
            && self.steered != Some(over)
        {
            self.steered = Some(over);
            actions.push(Action::Steer { listener, over });
        }
    }
}

/// The worker of the next slot that has one, around the end.
fn neighbour(accepting: &BTreeMap<Slot, WorkerId>, slot: Slot) -> Option<WorkerId> {
    accepting.range(slot..).chain(accepting.iter()).next().map(|(_, worker)| *worker)
}

impl Machine {
    /// Makes it so for every such listener, after anything that may have changed who accepts.
    pub(super) fn arrange_sockets(&mut self, actions: &mut Vec<Action>) {
        for (&listener, group) in &mut self.split.groups {
            let state = |worker: WorkerId| self.supervision.get(worker).map(|worker| (worker.slot, worker.state));
            let takes = |state| matches!(state, WorkerState::Active { .. } | WorkerState::Leaving { .. });
            let users = self.listeners.users(listener);
            // By age, so that the newest of a slot remains.
            let accepting: BTreeMap<Slot, WorkerId> = users
                .filter_map(|worker| state(worker).filter(|(_, state)| takes(*state)).map(|(slot, _)| (slot, worker)))
                .collect();
            let keeps = |worker| {
                state(worker).is_some_and(|(_, state)| takes(state) || matches!(state, WorkerState::Paused { .. }))
                    && self.listeners.is_user(worker, listener)
            };
            group.arrange(listener, &accepting, keeps, actions);
        }
    }
}
