//! The end of a listener that a reload has removed: whoever waits there is served.

use std::time::Duration;

use everport_handoff::id::{Generation, ListenerId};

use super::super::*;
use super::world::{Mood, PORT, World};

const REMOVED: ListenerId = ListenerId(50);

/// The workers 3 and 4 of the second generation use a listener that the configuration has no more.
fn about_to_be_removed() -> World {
    let mut world = World::serving();
    world.plan.configured.insert(REMOVED, Spread::Offered);
    world.reload(1);
    for worker in [3, 4] {
        world.listens(worker, REMOVED);
        world.ready(worker);
    }
    world.exit(1, 0);
    world.exit(2, 0);
    world.plan.configured.remove(&REMOVED);
    world.log.clear();
    world
}

/// As before, and the third generation has just been committed.
fn clearing() -> World {
    let mut world = about_to_be_removed();
    world.reload(2);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert!(world.did(&Action::ShutOut { listener: REMOVED }));
    world
}

#[test]
fn who_waits_at_a_removed_listener_is_served_before_it_is_closed() {
    let mut world = about_to_be_removed();
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.connect_to(REMOVED, 100);
    assert!(world.backlog(REMOVED) > 0);
    world.reload(2);
    world.all_ready();
    // Nobody new gets in.
    world.connect_to(REMOVED, 100);
    world.pass_millis(300);
    assert!(world.is_open(REMOVED), "somebody waits yet");
    assert!(!matches!(world.state(3), Some(WorkerState::Draining { .. })));
    world.set_mood(3, Mood::Prompt);
    world.set_mood(4, Mood::Prompt);
    world.pass_millis(300);
    assert!(!world.is_open(REMOVED) && world.is_open(PORT));
    assert_eq!(world.taken(3) + world.taken(4), 100);
    for worker in [3, 4] {
        assert!(matches!(world.state(worker), Some(WorkerState::Draining { .. })));
    }
}

#[test]
fn a_calm_listener_is_closed_after_the_round_trip_of_a_client() {
    let mut world = clearing();
    world.pass_millis(190);
    assert!(world.is_open(REMOVED));
    world.pass_millis(20);
    assert!(!world.is_open(REMOVED));
}

#[test]
fn clearing_ends_even_if_nobody_takes_what_waits() {
    let mut world = about_to_be_removed();
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.connect_to(REMOVED, 5);
    world.reload(2);
    world.all_ready();
    world.pass_millis(1_900);
    assert!(world.is_open(REMOVED));
    world.pass_millis(200);
    assert!(!world.is_open(REMOVED));
}

#[test]
fn clearing_ends_when_the_last_who_could_take_anything_has_gone() {
    let mut world = clearing();
    world.exit(3, 1);
    assert!(world.is_open(REMOVED));
    world.exit(4, 1);
    assert!(!world.is_open(REMOVED));
    let old = |view: &WorkerView| view.generation == Generation(2);
    assert_eq!(world.machine.workers().filter(old).count(), 0, "nobody is started in a generation that goes");
}

#[test]
fn the_old_generation_gets_nothing_new_elsewhere_while_it_clears() {
    let mut world = clearing();
    world.connect(10);
    let offered: Vec<_> = world.machine.workers().map(|view| (view.worker.0, view.counters.offered)).collect();
    assert!(matches!(offered[..], [(3, 0), (4, 0), (5, 1..), (6, 1..)]), "{offered:?}");
}

#[test]
fn the_next_reload_waits_until_the_last_one_has_cleared_up() {
    let mut world = clearing();
    world.reload(3);
    assert_eq!(world.machine.reload(), ReloadView::Pending { why: None });
    world.pass_millis(250);
    assert!(matches!(world.machine.reload(), ReloadView::Running { generation: Generation(4), .. }));
}

#[test]
fn a_listener_that_a_new_worker_asks_for_late_is_saved() {
    let mut world = clearing();
    world.listens(5, REMOVED);
    assert!(world.did(&Action::LetIn { listener: REMOVED }));
    world.pass_millis(250);
    assert!(world.is_open(REMOVED));
    assert!(matches!(world.state(3), Some(WorkerState::Draining { .. })));
}

#[test]
fn a_stop_does_not_wait_for_it() {
    let mut world = clearing();
    world.stop();
    assert!(!world.is_open(REMOVED));
    for worker in [3, 4, 5, 6] {
        world.exit(worker, 0);
    }
    assert!(world.finished().is_some());
}

#[test]
fn a_generation_that_was_paused_serves_a_removed_listener_to_its_end() {
    let mut world = about_to_be_removed();
    world.plan.settings.probation = Duration::from_secs(5);
    world.reload(2);
    world.all_ready();
    assert!(matches!(world.state(3), Some(WorkerState::Paused { .. })));
    world.connect_to(REMOVED, 3);
    world.pass_millis(5_100);
    assert_eq!(world.taken(3) + world.taken(4), 3);
    world.pass_millis(300);
    assert!(!world.is_open(REMOVED));
}
