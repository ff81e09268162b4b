//! What must hold whenever the machine has nothing to do.

use std::collections::BTreeMap;

use everport_handoff::id::{Generation, WorkerId};

use super::super::super::*;
use super::{Word, World};

impl World {
    /// What must hold whenever the machine has nothing to do.
    pub(super) fn check(&self) {
        let on = |connection: &ConnectionId| -> Vec<Word> {
            self.workers.values().filter_map(|process| process.board.get(connection).copied()).collect()
        };
        let mut waiting = 0;
        let mut never_offered = BTreeMap::new();
        for (connection, listener) in &self.copies {
            let words = on(connection);
            let claims = words.iter().filter(|word| !matches!(word, Word::Revoked | Word::Released)).count();
            assert!(claims <= 1, "{connection:?} is with two: {words:?}");
            waiting += 1 - claims;
            if !self.offered_once.contains(connection) {
                *never_offered.entry(*listener).or_insert(0) += 1;
            }
        }
        let queued: usize = self.ports.keys().map(|listener| self.machine.queued(*listener)).sum();
        assert_eq!(queued, waiting, "a connection is lost");
        assert!(never_offered.values().all(|waiting| *waiting <= self.settings.queue), "too many are accepted");
        for (id, process) in &self.workers {
            let used = process.board.values().filter(|word| !matches!(word, Word::Taken { read: true })).count();
            assert!(used <= self.settings.credit, "{id:?} has too much credit");
            assert!(process.board.len() <= self.settings.words, "{id:?} has too many words");
        }
        self.check_generations();
        self.check_pause();
        let replaced = |id: &&WorkerId| self.state(id.0).is_some();
        let under_way = self.recycled.iter().filter(replaced).count();
        assert!(under_way <= self.settings.care.recycle_at_once as usize, "too many are recycled at a time");
        assert!(self.machine.slots() <= self.settings.care.most_workers);
    }

    /// While there is a pause, nobody takes connections, in whatever state the generations are.
    fn check_pause(&self) {
        if !self.machine.is_paused() || self.machine.is_stopping() {
            return;
        }
        let accepting = self.ports.values().any(|port| port.accepting);
        let active = self.machine.workers().find(|view| matches!(view.state, WorkerState::Active { .. }));
        assert!(!accepting && active.is_none(), "somebody takes connections in a pause: {active:?}");
    }

    /// A worker that has served enough drains when another serves in its slot, and not before.
    pub(super) fn check_overlap(&self, id: WorkerId) {
        let process = &self.workers[&id];
        let serves = self.active_generation() == Some(process.generation.0) && process.slot.0 < self.machine.slots();
        if self.recycled.contains(&id) && serves && !self.machine.is_stopping() && !self.machine.is_paused() {
            let successor = |view: WorkerView| {
                (view.generation, view.slot) == (process.generation, process.slot)
                    && matches!(view.state, WorkerState::Active { .. })
            };
            assert!(self.machine.workers().any(successor), "{id:?} drains before its replacement serves");
        }
    }

    fn check_generations(&self) {
        let states: Vec<_> = self.machine.generations().collect();
        let count = |wanted: fn(&GenerationState) -> bool| states.iter().filter(|(_, state)| wanted(state)).count();
        let starting = count(|state| matches!(state, GenerationState::Starting { .. }));
        let active = count(|state| matches!(state, GenerationState::Active { .. }));
        assert!(starting <= 1, "two generations start: {states:?}");
        let activated = self.backoff.newest() > Some(Generation(1)) || active == 1;
        if activated && !self.machine.is_stopping() {
            assert_eq!(active, 1, "no generation, or two, are active: {states:?}");
        }
        assert!(self.tickets.values().all(|told| *told <= 1), "somebody was told twice");
        // Whoever could accept has been told to.
        let serving = Some(self.active_generation()).flatten();
        for view in self.machine.workers().filter(|view| Some(view.generation.0) == serving) {
            assert!(!matches!(view.state, WorkerState::Ready { .. }), "{view:?} is not activated");
        }
    }
}
