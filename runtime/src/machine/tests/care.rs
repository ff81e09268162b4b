//! How workers are looked after: slots that rest, workers that hang, workers that have served enough, more and fewer of
//! them, and a pause.

use std::time::Duration;

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

use super::super::*;
use super::world::{Mood, PORT, World};

/// As `World::serving`, with workers looked after in this way.
fn serving(care: Care) -> World {
    let mut world = World::with(Settings { care, ..World::settings() });
    world.bind(PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    world.log.clear();
    world
}

fn tame() -> Care {
    World::settings().care
}

fn newest(world: &World) -> u64 {
    world.machine.workers().map(|view| view.worker.0).max().expect("some worker")
}

fn is_active(world: &World, worker: u64) -> bool {
    matches!(world.state(worker), Some(WorkerState::Active { .. }))
}

/// Lets the newest worker crash, and says after how long the next one is started.
fn crash_newest(world: &mut World) -> Duration {
    let (crashed, since) = (newest(world), world.now);
    world.exit(crashed, 1);
    while newest(world) <= crashed {
        world.pass_millis(10);
    }
    world.now - since
}

fn drains(world: &World, id: u64) -> bool {
    world.log.iter().any(|action| matches!(action, Action::Drain { worker, .. } if worker.0 == id))
}

#[test]
fn slot_rests_after_the_limit_says_so_once_and_is_tried_at_a_slow_pace() {
    let mut world = serving(Care { restart_limit: 3, ..tame() });
    let full_pace: Vec<_> = (0..3).map(|_| crash_newest(&mut world)).collect();
    assert!(full_pace.iter().all(|wait| *wait < Duration::from_secs(1)), "{full_pace:?}");
    assert_eq!(world.machine.resting().count(), 0);
    let slow_pace: Vec<_> = (0..5).map(|_| crash_newest(&mut world)).collect();
    let slow = Duration::from_secs(15)..=Duration::from_secs(31);
    assert!(slow_pace.iter().all(|wait| slow.contains(wait)), "{slow_pace:?}");
    let rests: Vec<_> = world.machine.resting().map(|view| (view.slot, view.retry)).collect();
    assert_eq!(rests, [(Slot(1), None)]);
    let said = |action: &Action| matches!(action, Action::SlotRests { slot: Slot(1), .. });
    assert_eq!(world.count(said), 1, "it is said once");
}

#[test]
fn resting_slot_recovers_by_itself() {
    let mut world = serving(Care { restart_limit: 1, ..tame() });
    crash_newest(&mut world);
    crash_newest(&mut world);
    assert_eq!(world.machine.resting().map(|view| view.retry).collect::<Vec<_>>(), [None]);
    world.all_ready();
    world.pass_millis(10_000);
    assert_eq!(world.machine.resting().count(), 0);
    assert!(world.did(&Action::SlotRecovered { generation: Generation(1), slot: Slot(1) }));
    let recovered = newest(&world);
    world.pass_millis(60_000);
    world.exit(recovered, 1);
    assert!(newest(&world) > recovered, "it is trusted again");
}

#[test]
fn limit_of_the_generation_spares_a_slot_that_was_steady() {
    let mut world = serving(Care { restart_limit: 4, ..tame() });
    world.pass_millis(10_000);
    for _ in 0..5 {
        crash_newest(&mut world);
    }
    assert_eq!(world.machine.resting().map(|view| view.slot).collect::<Vec<_>>(), [Slot(1)]);
    world.exit(1, 1);
    assert_eq!(world.machine.resting().count(), 1, "one slot puts another to rest");
    assert!(world.machine.workers().any(|view| view.slot == Slot(0)), "it is replaced at once");
    world.all_ready();
    // But not twice in a row.
    let young = world.machine.workers().find(|view| view.slot == Slot(0)).expect("as above").worker.0;
    world.exit(young, 1);
    assert_eq!(world.machine.resting().count(), 2);
}

#[test]
fn worker_that_answers_every_look_never_hangs() {
    let mut world = serving(Care { hang_timeout: Some(Duration::from_secs(4)), ..tame() });
    world.pass_millis(60_000);
    assert!(world.count(|action| matches!(action, Action::AskBeat { .. })) >= 100);
    assert_eq!(world.count(|action| matches!(action, Action::Abort { .. })), 0);
}

#[test]
fn hung_worker_is_aborted_then_killed_and_loses_its_offers_at_once() {
    let mut world = serving(Care { hang_timeout: Some(Duration::from_secs(4)), ..tame() });
    world.dies_slowly = true;
    world.set_mood(2, Mood::Blocked);
    world.pass_millis(3_999);
    assert!(is_active(&world, 2));
    world.connect(1);
    world.pass_millis(1_001);
    assert!(world.did(&Action::Abort { worker: WorkerId(2) }));
    assert!(matches!(world.state(2), Some(WorkerState::Hung { .. })));
    assert_eq!((world.untaken(2), world.taken(1)), (0, 1));
    assert!(!world.did(&Action::Abort { worker: WorkerId(1) }));
    world.pass_millis(4_999);
    assert!(world.killed(2).is_none());
    world.pass_millis(1);
    assert_eq!(world.killed(2), Some(KillReason::Hung));
    world.exit(2, 134);
    assert_eq!(newest(&world), 3);
}

#[test]
fn master_that_stood_still_condemns_nobody() {
    let mut world = serving(Care { hang_timeout: Some(Duration::from_secs(4)), ..tame() });
    world.set_mood(2, Mood::Blocked);
    world.pass_millis(1_000);
    world.now += Duration::from_secs(3_600);
    world.pass_millis(1);
    assert_eq!(world.count(|action| matches!(action, Action::Abort { .. })), 0);
    world.set_mood(2, Mood::Prompt);
    world.pass_millis(20_000);
    assert_eq!(world.count(|action| matches!(action, Action::Abort { .. })), 0);
}

#[test]
fn worker_that_hangs_before_it_is_activated_fails_its_reload() {
    let mut world = serving(Care { hang_timeout: Some(Duration::from_secs(4)), ..tame() });
    world.reload(1);
    world.ready(3);
    world.set_mood(3, Mood::Blocked);
    world.pass_millis(6_000);
    let hung = Failure::Hung { slot: Slot(0), worker: WorkerId(3) };
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(hung)));
    assert_eq!(world.active_generation(), Some(1));
}

fn recycling(recycle: Limits) -> Care {
    Care { recycle, ..tame() }
}

#[test]
fn worker_with_too_much_memory_is_replaced_by_overlap() {
    let mut world = serving(recycling(Limits { memory: Some(1_000), ..Limits::default() }));
    world.worker(1).memory = 899;
    world.worker(2).memory = 1_101;
    world.pass_millis(2_000);
    assert!(matches!(world.state(2), Some(WorkerState::Leaving { drain_at: None, .. })));
    assert!(is_active(&world, 1), "899 of 1000 is not too much, whatever the jitter");
    // However long its replacement takes, and however often it fails.
    world.exit(3, 1);
    world.pass_millis(25_000);
    assert!(!drains(&world, 2));
    world.all_ready();
    assert!(drains(&world, 2));
    world.exit(2, 0);
    assert!(world.machine.workers().all(|view| is_active(&world, view.worker.0)));
}

#[test]
fn workers_that_are_old_are_replaced_one_after_the_other() {
    let mut world = serving(recycling(Limits { age: Some(Duration::from_secs(100)), ..Limits::default() }));
    world.pass_millis(89_999);
    assert!(is_active(&world, 1) && is_active(&world, 2));
    world.pass_millis(20_001);
    let leaving = |world: &World| [1, 2].iter().filter(|worker| !is_active(world, **worker)).count();
    assert_eq!(leaving(&world), 1, "both are too old, one at a time is replaced");
    world.all_ready();
    assert_eq!(leaving(&world), 1, "the first has not gone yet");
    let first = if is_active(&world, 1) { 2 } else { 1 };
    world.exit(first, 0);
    assert!(!is_active(&world, 3 - first), "then comes the second");
}

#[test]
fn worker_that_has_served_enough_connections_is_replaced() {
    let mut world = serving(recycling(Limits { connections: Some(10), ..Limits::default() }));
    world.connect(8);
    world.pass_millis(1_000);
    assert_eq!(world.count(|action| matches!(action, Action::Recycling { .. })), 0, "8 of 10 at most");
    world.connect(16);
    world.pass_millis(1_000);
    assert_eq!(world.count(|action| matches!(action, Action::Recycling { .. })), 1);
}

#[test]
fn nobody_is_replaced_for_age_while_a_reload_is_under_way() {
    let mut world = serving(recycling(Limits { age: Some(Duration::from_secs(100)), ..Limits::default() }));
    world.pass_millis(89_000);
    world.reload(1);
    world.pass_millis(9_999);
    assert_eq!(world.count(|action| matches!(action, Action::Recycling { .. })), 0);
}

#[test]
fn more_workers_are_started_and_fewer_drain_the_highest_slot() {
    let mut world = World::serving();
    world.feed(Event::ScaleAsked { to: Scale::Up(1) });
    assert!(world.did(&Action::Spawn { worker: WorkerId(3), slot: Slot(2), generation: Generation(1) }));
    world.all_ready();
    assert!(is_active(&world, 3));
    world.feed(Event::ScaleAsked { to: Scale::Down(2) });
    assert!(drains(&world, 2) && drains(&world, 3) && is_active(&world, 1));
    world.exit(2, 0);
    world.exit(3, 0);
    assert_eq!(newest(&world), 1, "nobody follows");
    world.feed(Event::ScaleAsked { to: Scale::To(1) });
    assert_eq!(newest(&world), 1, "what is so already is no change");
    world.reload(1);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    let active = world.machine.workers().filter(|view| view.generation == Generation(2)).count();
    assert_eq!(active, 1, "a reload keeps the number");
}

#[test]
fn number_of_workers_stays_within_its_bounds() {
    let mut world = World::serving();
    world.feed(Event::ScaleAsked { to: Scale::Down(99) });
    assert_eq!(world.machine.slots(), 1);
    world.feed(Event::ScaleAsked { to: Scale::Up(u32::MAX) });
    assert_eq!(world.machine.slots(), 8);
    world.feed(Event::ScaleAsked { to: Scale::To(0) });
    assert_eq!(world.machine.slots(), 1);
}

#[test]
fn scaling_during_a_reload_counts_when_it_has_ended() {
    let mut world = World::serving();
    world.reload(1);
    world.feed(Event::ScaleAsked { to: Scale::To(3) });
    assert_eq!(world.machine.workers().count(), 4);
    world.ready(3);
    world.ready(4);
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert!(world.did(&Action::Spawn { worker: WorkerId(5), slot: Slot(2), generation: Generation(2) }));
}

#[test]
fn listener_of_a_slot_that_is_gone_is_closed() {
    let mut world = World::serving();
    let own = ListenerId(2);
    world.bind(own, Spread::Offered, false);
    world.listens(2, own);
    world.feed(Event::ScaleAsked { to: Scale::To(1) });
    assert!(!world.is_open(own));
    let another = ListenerId(3);
    world.bind(another, Spread::Offered, false);
    world.listens(2, another);
    assert!(!world.is_open(another), "a worker that drains claims nothing");
}

#[test]
fn pause_stops_accepting_and_a_resume_serves_who_waited() {
    let mut world = World::blocked();
    world.connect(3);
    world.feed(Event::PauseAsked);
    assert!(world.did(&Action::Pause { worker: WorkerId(1) }) && world.did(&Action::Pause { worker: WorkerId(2) }));
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    world.connect(4);
    world.pass_millis(60_000);
    assert_eq!((world.taken(1) + world.taken(2), world.backlog(PORT)), (0, 4));
    world.feed(Event::PauseAsked);
    assert_eq!(world.count(|action| matches!(action, Action::Pause { .. })), 2, "twice is once");
    world.feed(Event::ResumeAsked);
    world.pass_millis(50);
    assert_eq!((world.taken(1) + world.taken(2), world.backlog(PORT)), (7, 0));
}

#[test]
fn what_starts_in_a_pause_comes_up_paused() {
    let mut world = World::serving();
    world.feed(Event::PauseAsked);
    world.exit(1, 1);
    world.all_ready();
    assert!(matches!(world.state(3), Some(WorkerState::Paused { .. })));
    world.reload(1);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert!(matches!(world.state(4), Some(WorkerState::Paused { .. })));
    assert!(drains(&world, 2) && drains(&world, 3));
    assert_eq!(world.count(|action| matches!(action, Action::Activate { .. })), 0);
    world.feed(Event::ResumeAsked);
    assert!(is_active(&world, 4) && is_active(&world, 5));
}

#[test]
fn stop_ends_a_pause_with_everything_else() {
    let mut world = World::serving();
    world.feed(Event::PauseAsked);
    world.connect(2);
    world.stop();
    assert!(drains(&world, 1) && drains(&world, 2));
    world.exit(1, 0);
    world.exit(2, 0);
    assert_eq!(world.finished(), Some(&None));
}
