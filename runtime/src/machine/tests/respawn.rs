//! Crashed, hung and leaving workers: who takes their place, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::super::*;
use super::world::World;

/// The rule of respawns once more, by the clock: how early a slot may be filled again, and how often.
#[derive(Debug)]
pub(super) struct Backoff {
    care: Care,
    slots: BTreeMap<(Generation, Slot), History>,
}

#[derive(Debug)]
struct History {
    worker: WorkerId,
    started: Instant,
    failures: u32,
    not_before: Option<Instant>,
    /// When a refill was granted, the last one last, but for those at the slow pace of a slot that rests.
    granted: Vec<Instant>,
    rests: bool,
    /// When there were fewer slots for a while.
    closed: bool,
}

impl Backoff {
    pub(super) fn new(care: Care) -> Self {
        Self { care, slots: BTreeMap::new() }
    }

    fn history(&mut self, generation: Generation, slot: Slot) -> &mut History {
        self.slots.get_mut(&(generation, slot)).expect("a slot that was filled")
    }

    pub(super) fn spawned(&mut self, generation: Generation, slot: Slot, worker: WorkerId, now: Instant) {
        let Care { restart_limit, restart_period, .. } = self.care;
        let history = self.slots.entry((generation, slot)).or_insert_with(|| History {
            worker,
            started: now,
            failures: 0,
            not_before: Some(now),
            granted: Vec::new(),
            rests: false,
            closed: false,
        });
        let not_before = history.not_before.take();
        if !std::mem::take(&mut history.closed) {
            let not_before = not_before.expect("a slot is filled once at a time");
            assert!(now >= not_before, "{slot:?} is filled {:?} too early", not_before - now);
        }
        if let Some(last) = history.granted.last() {
            let recent = history.granted.iter().filter(|at| *last - **at < restart_period).count();
            assert!(recent <= restart_limit as usize, "{slot:?} is filled too often: {recent} times");
        }
        (history.worker, history.started) = (worker, now);
    }

    /// The worker has gone, or leaves: if it filled its slot, that becomes free.
    pub(super) fn ended(&mut self, generation: Generation, slot: Slot, worker: WorkerId, now: Instant) {
        let history = self.history(generation, slot);
        // Where there is no slot any more, nobody counts.
        if history.worker == worker && history.not_before.is_none() && !history.closed {
            if now - history.started >= Duration::from_secs(10) {
                (history.failures, history.rests) = (0, false);
            }
            let wait = [0, 100, 200, 400, 800, 1600, 3200, 6400];
            let wait = wait.get(history.failures as usize).copied().unwrap_or(10_000);
            let wait = if history.rests { 30_000 } else { wait };
            history.not_before = Some(now + Duration::from_millis(wait / 2));
            history.failures += 1;
            if !history.rests {
                history.granted.push(now);
            }
        }
    }

    /// The machine says that the slot rests, for it has just become free.
    pub(super) fn rests(&mut self, generation: Generation, slot: Slot) {
        let history = self.history(generation, slot);
        assert!(!history.rests, "{slot:?} is said to rest twice");
        history.rests = true;
        // A slot that is about to close was not counted.
        let since = history.granted.pop().unwrap_or(history.started);
        history.not_before = Some(since + Duration::from_secs(15));
    }

    pub(super) fn recovers(&mut self, generation: Generation, slot: Slot, now: Instant) {
        let history = self.history(generation, slot);
        assert!(now - history.started >= Duration::from_secs(10), "{slot:?} recovers too early");
        (history.failures, history.rests) = (0, false);
    }

    /// The worker has served enough: its slot is free at once.
    pub(super) fn recycled(&mut self, generation: Generation, slot: Slot, worker: WorkerId, now: Instant) {
        let history = self.history(generation, slot);
        assert_eq!((history.worker, history.not_before), (worker, None), "it fills its slot");
        history.not_before = Some(now);
    }

    /// There are so many slots now: those beyond are filled at once when they come back.
    pub(super) fn closed(&mut self, slots: u32) {
        for (_, history) in self.slots.iter_mut().filter(|((_, slot), _)| slot.0 >= slots) {
            history.closed = true;
        }
    }

    /// The slots of a generation that must be filled.
    pub(super) fn filled(&self, generation: Generation) -> impl Iterator<Item = Slot> {
        let slots = self.slots.iter().filter(move |((of, _), _)| *of == generation);
        slots.filter(|(_, history)| history.not_before.is_none() && !history.closed).map(|((_, slot), _)| *slot)
    }

    pub(super) fn newest(&self) -> Option<Generation> {
        self.slots.keys().map(|(generation, _)| *generation).max()
    }
}

fn spawned(world: &World) -> Vec<u64> {
    let spawn = |action: &Action| match action {
        Action::Spawn { worker, .. } => Some(worker.0),
        _ => None,
    };
    world.log.iter().filter_map(spawn).collect()
}

#[test]
fn crashed_worker_is_replaced_at_once_in_its_slot_and_generation() {
    let mut world = World::serving();
    world.exit(2, 1);
    assert!(world.did(&Action::Spawn { worker: WorkerId(3), slot: Slot(1), generation: Generation(1) }));
    world.ready(3);
    assert!(world.did(&Action::Activate { worker: WorkerId(3) }));
    let restarts: Vec<_> = world.machine.workers().map(|view| (view.worker.0, view.restarts)).collect();
    assert_eq!(restarts, [(1, 0), (3, 1)]);
}

#[test]
fn crash_loop_is_slowed_down_and_a_steady_worker_is_trusted_again() {
    let mut world = World::serving();
    world.exit(2, 1);
    for (worker, wait) in [(3, 100), (4, 200), (5, 400), (6, 800), (7, 1600), (8, 3200), (9, 6400), (10, 10_000)] {
        world.exit(worker, 1);
        world.pass_millis(wait / 2 - 1);
        assert_eq!(spawned(&world).last(), Some(&worker), "{worker} is replaced too early");
        world.pass_millis(wait / 2 + 1);
        assert_eq!(spawned(&world).last(), Some(&(worker + 1)), "{worker} is not replaced in time");
    }
    world.ready(11);
    world.pass_millis(10_000);
    world.exit(11, 1);
    assert_eq!(spawned(&world).last(), Some(&12));
}

#[test]
fn process_that_cannot_be_started_is_tried_again_with_the_same_backoff() {
    let mut world = World::serving();
    world.exit(1, 1);
    world.feed(Event::SpawnFailed { worker: WorkerId(3), reason: "no memory".into() });
    assert_eq!(spawned(&world), [3]);
    world.pass_millis(100);
    assert_eq!(spawned(&world), [3, 4]);
    assert!(!world.did(&Action::Forget { worker: WorkerId(3) }));
}

#[test]
fn replacement_that_never_gets_ready_is_killed_and_replaced() {
    let mut world = World::serving();
    world.exit(1, 1);
    world.pass_millis(10_000);
    assert_eq!(world.killed(3), Some(KillReason::NotReady));
    assert_eq!(spawned(&world), [3, 4]);
    assert_eq!(world.active_generation(), Some(1));
}

#[test]
fn worker_that_breaks_the_protocol_is_killed_and_replaced() {
    let mut world = World::serving();
    world.feed(Event::WorkerBroke { worker: WorkerId(1), reason: "garbage".into() });
    assert_eq!(world.killed(1), Some(KillReason::Broke));
    assert!(world.did(&Action::Forget { worker: WorkerId(1) }));
    assert_eq!(spawned(&world), [3]);
}

#[test]
fn worker_that_closes_its_channel_and_exits_is_replaced_as_any_other() {
    let mut world = World::serving();
    world.feed(Event::ChannelClosed { worker: WorkerId(1) });
    world.exit(1, 3);
    assert!(world.killed(1).is_none());
    assert_eq!(spawned(&world), [3]);
}

#[test]
fn worker_that_closes_its_channel_and_lives_on_is_offered_nothing_and_killed_in_a_second() {
    let mut world = World::serving();
    world.feed(Event::ChannelClosed { worker: WorkerId(1) });
    world.connect(4);
    assert_eq!(world.untaken(1), 0);
    world.pass_millis(999);
    assert!(world.killed(1).is_none());
    world.pass_millis(1);
    assert_eq!(world.killed(1), Some(KillReason::Silent));
    assert_eq!(spawned(&world), [3]);
}

#[test]
fn incompatible_replacement_is_killed_and_the_generation_serves_on() {
    let mut world = World::serving();
    world.exit(1, 1);
    world.feed(Event::WorkerIncompatible { worker: WorkerId(3), reason: "version 9".into() });
    assert_eq!(world.killed(3), Some(KillReason::Incompatible));
    world.pass_millis(100);
    assert_eq!(spawned(&world), [3, 4]);
}

#[test]
fn leaving_worker_serves_until_its_replacement_is_ready() {
    let mut world = World::serving();
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    assert_eq!(spawned(&world), [3]);
    world.connect(2);
    assert_eq!((world.untaken(1), world.count(|action| matches!(action, Action::Drain { .. }))), (0, 0));
    world.pass_millis(50);
    assert_eq!(world.taken(1), 1);
    world.ready(3);
    assert!(matches!(world.state(1), Some(WorkerState::Draining { .. })));
    assert!(matches!(world.state(3), Some(WorkerState::Active { .. })));
    world.feed(Event::WorkerDrained { worker: WorkerId(1) });
    assert!(matches!(world.state(1), Some(WorkerState::Drained { .. })));
    world.exit(1, 0);
    assert_eq!(spawned(&world), [3], "who left by itself is not replaced twice");
}

#[test]
fn leaving_worker_is_drained_when_its_replacement_takes_too_long() {
    let mut world = World::serving();
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    world.pass_millis(10_000);
    assert!(matches!(world.state(1), Some(WorkerState::Draining { .. })));
}

#[test]
fn worker_that_asks_to_leave_while_it_drains_is_not_replaced() {
    let mut world = World::serving();
    world.reload(1);
    world.all_ready();
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    assert_eq!(spawned(&world), [3, 4]);
}

#[test]
fn worker_that_leaves_as_soon_as_it_is_ready_is_replaced_with_backoff() {
    let mut world = World::serving();
    for (worker, wait) in [(1, 0), (3, 100), (4, 200)] {
        world.feed(Event::WorkerLeaving { worker: WorkerId(worker) });
        world.pass_millis(wait);
        world.all_ready();
    }
    assert_eq!(spawned(&world), [3, 4, 5]);
}

#[test]
fn draining_worker_is_killed_at_its_deadline() {
    let mut world = World::serving();
    world.reload(1);
    world.all_ready();
    let deadline = world.now + Duration::from_secs(30);
    assert!(world.did(&Action::Drain { worker: WorkerId(1), deadline, successor: true }));
    world.exit(1, 0);
    world.pass_millis(29_999);
    assert!(world.killed(2).is_none());
    world.pass_millis(1);
    assert_eq!(world.killed(2), Some(KillReason::DrainTimeout));
    assert!(world.killed(1).is_none());
}
