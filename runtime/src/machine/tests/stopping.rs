//! The end: gracefully, or at once.

use everport_handoff::id::{Generation, WorkerId};

use super::super::*;
use super::world::{Mood, PORT, World};

#[test]
fn graceful_stop_serves_what_was_accepted_then_closes_the_port_then_drains() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(10);
    world.stop();
    assert!(world.machine.is_stopping());
    assert!(world.did(&Action::StopAccepting { listener: PORT }));
    assert!(world.is_open(PORT));
    assert_eq!(world.count(|action| matches!(action, Action::Drain { .. })), 0);
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    world.pass_millis(60);
    assert_eq!((world.taken(1) + world.taken(2), world.is_open(PORT)), (10, false));
    assert_eq!(world.count(|action| matches!(action, Action::Shutdown { .. })), 0);
    assert_eq!(world.count(|action| matches!(action, Action::Drain { .. })), 2);
    world.exit(1, 0);
    assert_eq!(world.finished(), None);
    world.exit(2, 0);
    assert_eq!(world.finished(), Some(&None));
    assert_eq!(world.machine.next_deadline(), None);
}

#[test]
fn idle_master_drains_as_soon_as_it_is_told_to_stop() {
    let mut world = World::serving();
    world.stop();
    assert_eq!(world.count(|action| matches!(action, Action::Drain { .. })), 2);
}

#[test]
fn graceful_stop_waits_no_longer_than_a_second_for_hung_workers() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(10);
    world.stop();
    world.pass_millis(999);
    assert!(world.is_open(PORT));
    world.pass_millis(1);
    assert!(!world.is_open(PORT));
    assert!(world.copies.is_empty(), "nobody will serve them any more");
    world.pass_millis(30_000);
    assert_eq!(world.finished(), Some(&None), "killed at the drain deadline");
}

#[test]
fn nobody_is_replaced_while_the_master_stops() {
    let mut world = World::serving();
    world.set_mood(2, Mood::Blocked);
    world.connect(2);
    world.stop();
    world.exit(1, 1);
    world.pass_millis(20_000);
    assert_eq!(world.count(|action| matches!(action, Action::Spawn { .. })), 0);
}

#[test]
fn replacement_that_is_not_ready_is_killed_by_a_graceful_stop() {
    let mut world = World::serving();
    world.exit(1, 1);
    world.stop();
    assert_eq!(world.killed(3), Some(KillReason::NotNeeded));
    world.exit(2, 0);
    assert_eq!(world.finished(), Some(&None));
}

#[test]
fn stop_at_once_kills_everybody() {
    let mut world = World::serving();
    world.dies_slowly = true;
    world.feed(Event::StopAsked { at_once: true });
    assert_eq!(world.count(|action| matches!(action, Action::Kill { .. })), 2);
    world.exit(1, 0);
    assert_eq!(world.finished(), None);
    world.exit(2, 0);
    assert_eq!(world.finished(), Some(&None));
}

#[test]
fn stop_at_once_overtakes_a_graceful_one() {
    let mut world = World::serving();
    world.stop();
    world.feed(Event::StopAsked { at_once: true });
    assert_eq!(world.finished(), Some(&None));
}

#[test]
fn second_signal_stops_at_once_and_a_second_command_does_not() {
    let mut world = World::serving();
    world.dies_slowly = true;
    world.feed(Event::StopSignalled);
    world.feed(Event::StopAsked { at_once: false });
    assert!(!world.did(&Action::StopBegan { at_once: true }));
    world.feed(Event::StopSignalled);
    assert!(world.did(&Action::StopBegan { at_once: true }));
    assert_eq!(world.killed(1), Some(KillReason::StoppedAtOnce));
}

#[test]
fn stop_without_a_worker_finishes_immediately() {
    for at_once in [false, true] {
        let mut world = World::with(World::settings());
        world.feed(Event::StopAsked { at_once });
        assert_eq!(world.finished(), Some(&None));
        let mut world = World::with(Settings { workers: 0, ..World::settings() });
        world.feed(Event::Started);
        world.feed(Event::StopAsked { at_once });
        assert_eq!(world.finished(), Some(&None));
    }
}

#[test]
fn stop_while_the_first_generation_starts_is_no_failure() {
    let mut world = World::starting();
    world.stop();
    assert_eq!(world.finished(), Some(&None));
}

#[test]
fn stop_rolls_back_the_running_reload_and_refuses_the_pending_one() {
    let mut world = World::serving();
    world.reload(1);
    world.reload(2);
    world.stop();
    assert_eq!(world.killed(3), Some(KillReason::RolledBack));
    let ended = |generation: u64, ticket: u64| Action::ReloadEnded {
        generation: Generation(generation),
        tickets: vec![Ticket(ticket)],
        outcome: Outcome::RolledBack(Failure::Stopped),
        phases: Phases::default(),
        retired: None,
    };
    assert!(world.did(&ended(2, 1)) && world.did(&ended(3, 2)));
    world.reload(3);
    assert!(world.did(&ended(3, 3)));
}

#[test]
fn worker_that_asks_for_a_listener_while_it_drains_is_answered() {
    let mut world = World::serving();
    world.stop();
    let (listener, worker, request) = (ListenerId(9), WorkerId(1), RequestId(4));
    world.bind(listener, Spread::Shared, false);
    world.feed(Event::ListenAsked { worker, request, listener });
    assert!(world.did(&Action::AnswerListen { worker, request, listener, sharing: Sharing::Together }));
    assert!(!world.is_open(listener), "the master's copy is closed");
}

#[test]
fn failure_of_the_first_generation_is_kept_when_a_stop_follows() {
    let mut world = World::starting();
    world.dies_slowly = true;
    world.exit(1, 3);
    world.feed(Event::StopAsked { at_once: true });
    world.exit(2, 0);
    assert!(matches!(world.finished(), Some(Some(Failure::Exited { .. }))));
}
