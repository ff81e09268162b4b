//! What must hold whenever the machine has nothing to do.

use std::collections::BTreeMap;

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::super::super::*;
use super::{Process, Word, World};

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
            if !self.offered_once.contains(connection) && !self.handed_over.contains(connection) {
                *never_offered.entry(*listener).or_insert(0) += 1;
            }
        }
        let queued: usize = self.ports.keys().map(|listener| self.machine.queued(*listener)).sum();
        assert_eq!(queued, waiting, "a connection is lost");
        // Under `hash` the one that passes a queue without room may have to wait.
        let most = self.settings.queue.max(1);
        assert!(never_offered.values().all(|waiting| *waiting <= most), "too many are accepted");
        for (id, process) in &self.workers {
            let used = process.board.values().filter(|word| !matches!(word, Word::Taken { read: true })).count();
            assert!(used <= self.settings.credit, "{id:?} has too much credit");
            assert!(process.board.len() <= self.settings.words, "{id:?} has too many words");
            let is_within = self.limit(process).is_none_or(|limit| process.load() <= limit);
            assert!(is_within, "{id:?} has too many connections");
        }
        self.check_owners();
        self.check_generations();
        self.check_pause();
        self.check_sockets();
        let replaced = |id: &&WorkerId| self.state(id.0).is_some();
        let under_way = self.recycled.iter().filter(replaced).count();
        assert!(under_way <= self.settings.care.recycle_at_once as usize, "too many are recycled at a time");
        assert!(self.machine.slots() <= self.settings.care.most_workers);
    }

    /// How many connections this worker may have.
    pub(super) fn limit(&self, process: &Process) -> Option<u64> {
        self.limits.get(&process.generation).copied().flatten()
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
        let is_recycled = self.recycled.contains(&id) && !self.dismissed.contains(&id);
        if is_recycled && serves && !self.machine.is_stopping() && !self.machine.is_paused() {
            let successor = |view: WorkerView| {
                view.generation >= process.generation
                    && view.slot == process.slot
                    && matches!(view.state, WorkerState::Active { .. })
            };
            assert!(self.machine.workers().any(successor), "{id:?} drains before its replacement serves");
        }
    }

    fn check_generations(&self) {
        let states: Vec<_> = self.machine.generations().collect();
        let find = |wanted: fn(&GenerationState) -> bool| -> Vec<Generation> {
            states.iter().filter(|(_, state)| wanted(state)).map(|(generation, _)| *generation).collect()
        };
        let starting = find(|state| matches!(state, GenerationState::Starting { .. }));
        let serving = find(|state| matches!(state, GenerationState::Active { .. } | GenerationState::Probation { .. }));
        let on_probation = find(|state| matches!(state, GenerationState::Probation { .. }));
        let paused = find(|state| matches!(state, GenerationState::Paused { .. }));
        assert!(starting.len() <= 1, "two generations start: {states:?}");
        assert_eq!(on_probation.len(), paused.len(), "one on probation, the one before it to be resumed: {states:?}");
        let activated = self.backoff.newest() > Some(Generation(1)) || serving.len() == 1;
        if activated && !self.machine.is_stopping() {
            assert_eq!(serving.len(), 1, "no generation, or two, are active: {states:?}");
            self.check_slots(serving[0], starting.first().copied());
            for generation in paused {
                self.check_warm(generation);
            }
        }
        assert!(self.tickets.values().all(|told| *told <= 1), "somebody was told twice");
        self.check_budget();
    }

    /// Whoever could accept has been told to, in each slot by exactly one generation: the one that serves, or in the slots
    /// that a rolling reload has replaced, the one that starts.
    fn check_slots(&self, serving: Generation, starting: Option<Generation>) {
        let rolling = match self.machine.reload() {
            ReloadView::Running { step: StepView::Rolling { slot }, .. } => slot.0,
            _ => 0,
        };
        for view in self.machine.workers() {
            let replaced = view.slot.0 < rolling;
            let (accepts, waits) = match view.generation {
                generation if generation == serving => (!replaced, replaced),
                generation if Some(generation) == starting => (replaced, !replaced),
                _ => continue,
            };
            match view.state {
                WorkerState::Paused { .. } if self.machine.is_paused() => {}
                WorkerState::Ready { .. } | WorkerState::Paused { .. } => {
                    assert!(!accepts, "{view:?} is not activated")
                }
                WorkerState::Active { .. } | WorkerState::Leaving { .. } => assert!(!waits, "{view:?} is too early"),
                _ => {}
            }
        }
    }

    /// The generation that can be resumed takes nothing, and none of it has been given up.
    fn check_warm(&self, paused: Generation) {
        for view in self.machine.workers().filter(|view| view.generation == paused) {
            let takes = matches!(view.state, WorkerState::Active { .. } | WorkerState::Leaving { .. });
            assert!(!takes, "{view:?} is not paused");
        }
        let filled = |slot: Slot| self.machine.workers().any(|view| (view.generation, view.slot) == (paused, slot));
        assert!(self.backoff.filled(paused).all(filled), "{paused:?} has a gap");
    }

    /// The processes that nobody has killed yet have a bound, however often somebody asks for a reload. A stop lets every
    /// generation drain.
    fn check_budget(&self) {
        if self.machine.is_stopping() {
            return;
        }
        let lives = |view: &WorkerView| !matches!(view.state, WorkerState::Killed { .. });
        let on_its_way_out = |state: &GenerationState| {
            matches!(state, GenerationState::Draining { .. } | GenerationState::Failed { .. })
        };
        let generations = self.machine.generations().filter(|(_, state)| on_its_way_out(state));
        let draining = generations
            .filter(|(generation, _)| self.machine.workers().any(|view| view.generation == *generation && lives(&view)))
            .count();
        let most = self.settings.drain_generations.max(1) as usize;
        assert!(draining <= most, "{draining} generations drain, {most} may");
    }
}
