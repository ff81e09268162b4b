//! What a reload finds in the configuration: other settings, and other listeners.

use std::time::Duration;

use everport_handoff::id::{Generation, ListenerId};

use super::super::*;
use super::world::{PORT, World};

const ADDED: ListenerId = ListenerId(50);

fn add(world: &mut World, listener: ListenerId) {
    world.plan.configured.insert(listener, Spread::Offered);
}

#[test]
fn a_reload_starts_as_many_workers_as_the_configuration_says_then() {
    let mut world = World::serving();
    world.plan.settings.workers = 3;
    world.reload(1);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    let new = world.machine.workers().filter(|view| view.generation == Generation(2)).count();
    assert_eq!(new, 3);
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing() {
    let mut world = World::serving();
    world.plan.fails = true;
    world.plan.settings.workers = 3;
    add(&mut world, ADDED);
    world.reload(1);
    let failure = Failure::NotPrepared { reason: "no such key".to_owned() };
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(failure)));
    assert_eq!(world.count(|action| matches!(action, Action::Spawn { .. })), 0);
    assert!(!world.is_open(ADDED) && world.is_open(PORT));
    assert_eq!(world.active_generation(), Some(1));
    // It can be mended.
    world.plan.fails = false;
    world.reload(2);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert!(world.is_open(ADDED));
}

#[test]
fn the_settings_of_a_reload_that_is_rolled_back_are_forgotten() {
    let mut world = World::serving();
    world.plan.settings.ready_timeout = Duration::from_secs(1);
    world.plan.settings.workers = 1;
    add(&mut world, ADDED);
    world.reload(1);
    world.pass_millis(1_000);
    assert!(
        matches!(world.outcome(), Some(Outcome::RolledBack(Failure::NotReady { after, .. })) if after.as_secs() == 1)
    );
    assert!(!world.is_open(ADDED));
    // A replacement in the old generation has the old time.
    world.exit(1, 1);
    world.pass_millis(9_000);
    let starting = world.machine.workers().filter(|view| matches!(view.state, WorkerState::Starting { .. })).count();
    assert_eq!(starting, 1);
}

#[test]
fn a_generation_drains_for_as_long_as_its_own_settings_say() {
    let mut world = World::serving();
    world.plan.settings.drain_timeout = Duration::from_secs(1);
    world.reload(1);
    world.all_ready();
    world.pass_millis(29_000);
    assert!(matches!(world.state(1), Some(WorkerState::Draining { .. })));
    world.reload(2);
    world.all_ready();
    // The workers 3 and 4 of the second generation.
    world.pass_millis(1_000);
    assert_eq!(world.count(|action| matches!(action, Action::Kill { worker, .. } if worker.0 == 3)), 1);
}

#[test]
fn a_listener_is_bound_before_the_first_worker_of_its_generation_starts() {
    let mut world = World::serving();
    add(&mut world, ADDED);
    world.reload(1);
    assert!(world.is_open(ADDED));
    world.all_ready();
    world.reload(2);
    world.all_ready();
    assert!(world.is_open(ADDED), "it is in the configuration still");
}

#[test]
fn a_listener_that_is_gone_from_the_configuration_is_closed_at_the_commit() {
    let mut world = World::serving();
    add(&mut world, ADDED);
    world.reload(1);
    world.all_ready();
    world.plan.configured.remove(&ADDED);
    world.reload(2);
    assert!(world.is_open(ADDED), "the reload may be rolled back yet");
    world.all_ready();
    assert!(!world.is_open(ADDED) && world.is_open(PORT));
}

#[test]
fn a_listener_that_a_worker_asked_for_outlives_its_line_in_the_configuration() {
    let mut world = World::serving();
    add(&mut world, ADDED);
    world.reload(1);
    world.all_ready();
    world.plan.configured.remove(&ADDED);
    world.reload(2);
    world.listens(5, ADDED);
    world.all_ready();
    assert!(world.is_open(ADDED));
}

#[test]
fn a_stop_during_the_preparation_closes_what_was_bound_for_it() {
    let mut world = World::serving();
    add(&mut world, ADDED);
    world.reload(1);
    world.feed(Event::StopAsked { at_once: true });
    assert!(!world.is_open(ADDED));
    assert!(world.finished().is_some());
}
