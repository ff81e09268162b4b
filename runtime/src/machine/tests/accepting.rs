//! When the master accepts, and when it leaves connections to the kernel's backlog.

use std::time::Duration;

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::*;
use super::world::{Mood, PORT, World};

#[test]
fn worker_without_credit_gets_nothing_and_the_queue_is_bounded() {
    let mut world = World::blocked();
    world.connect(100);
    assert_eq!((world.untaken(1), world.untaken(2)), (4, 4));
    assert_eq!(world.machine.queued(PORT), 8);
    assert_eq!(world.backlog(PORT), 100 - 16);
    assert_eq!(world.machine.room(PORT), 0);
    assert!(world.did(&Action::StopAccepting { listener: PORT }));
}

#[test]
fn everybody_is_served_when_blocked_workers_return() {
    let mut world = World::blocked();
    world.connect(400);
    world.pass_millis(5_000);
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    world.pass_millis(100);
    assert_eq!(world.backlog(PORT), 0);
    assert_eq!(world.taken(1) + world.taken(2), 400);
}

#[test]
fn accepting_starts_again_only_when_the_queue_is_half_empty() {
    let mut world = World::blocked();
    world.connect(100);
    world.log.clear();
    for _ in 0..3 {
        world.act(WorkerId(1), true);
        world.run();
    }
    assert_eq!(world.machine.queued(PORT), 5);
    assert!(!world.did(&Action::StartAccepting { listener: PORT }));
    world.act(WorkerId(1), true);
    world.run();
    assert!(world.did(&Action::StartAccepting { listener: PORT }));
}

#[test]
fn accepting_stops_while_no_worker_is_active_and_what_is_queued_stays_queued() {
    let mut world = World::blocked();
    world.connect(10);
    world.exit(1, 1);
    world.exit(2, 1);
    assert!(world.did(&Action::StopAccepting { listener: PORT }));
    assert_eq!((world.machine.queued(PORT), world.machine.room(PORT)), (10, 0));
    world.connect(1);
    assert_eq!(world.backlog(PORT), 1);
    world.ready(3);
    world.pass_millis(60);
    assert_eq!(world.taken(3), 11);
}

#[test]
fn shared_listener_is_not_accepted_from() {
    let mut world = World::serving();
    let shared = ListenerId(2);
    world.bind(shared, Spread::Shared, true);
    world.listens(1, shared);
    world.connect_to(shared, 1);
    assert_eq!((world.machine.room(shared), world.backlog(shared)), (0, 1));
}

#[test]
fn accepting_pauses_with_backoff_while_descriptors_are_short() {
    let mut world = World::serving();
    for pause in [100, 200, 400, 800, 1000, 1000] {
        world.log.clear();
        world.feed(Event::AcceptExhausted);
        world.feed(Event::AcceptExhausted);
        assert!(world.did(&Action::StopAccepting { listener: PORT }));
        world.pass_millis(pause - 1);
        assert!(!world.did(&Action::StartAccepting { listener: PORT }));
        world.pass_millis(1);
        assert!(world.did(&Action::StartAccepting { listener: PORT }));
    }
    world.connect(1);
    world.feed(Event::AcceptExhausted);
    world.log.clear();
    world.pass(Duration::from_millis(100));
    assert!(world.did(&Action::StartAccepting { listener: PORT }), "a success resets the backoff");
}
