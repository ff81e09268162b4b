//! Who uses which listener, and when the master closes one.

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::lifecycle::LINE_FROM;
use super::super::*;
use super::world::{Mood, PORT, World};

/// A listener that a worker asked for.
const ASKED: ListenerId = ListenerId(2);

/// The workers 1 and 2 use `ASKED`.
fn asked() -> World {
    let mut world = World::serving();
    world.bind(ASKED, Spread::Offered, false);
    world.listens(1, ASKED);
    world.listens(2, ASKED);
    world
}

#[test]
fn worker_gets_a_listener_once() {
    let mut world = World::serving();
    let (worker, listener) = (WorkerId(1), PORT);
    world.feed(Event::ListenAsked { worker, request: RequestId(5), listener });
    assert!(world.did(&Action::RefuseListen { worker, request: RequestId(5), listener }));
    world.feed(Event::ListenerClosed { worker, listener });
    world.feed(Event::ListenAsked { worker, request: RequestId(6), listener });
    assert!(world.did(&Action::AnswerListen { worker, request: RequestId(6), listener, sharing: Sharing::Together }));
}

#[test]
fn many_workers_wait_in_line() {
    for (workers, expected) in [(LINE_FROM - 1, Sharing::Together), (LINE_FROM, Sharing::InLine)] {
        let mut world = World::serving_with(Settings { workers, ..World::settings() });
        let (worker, request, listener) = (WorkerId(1), RequestId(7), ASKED);
        world.bind(listener, Spread::Shared, false);
        world.feed(Event::ListenAsked { worker, request, listener });
        assert!(world.did(&Action::AnswerListen { worker, request, listener, sharing: expected }));
    }
}

#[test]
fn worker_that_asks_at_run_time_is_offered_connections() {
    let mut world = asked();
    world.connect_to(ASKED, 2);
    world.pass_millis(50);
    assert_eq!((world.taken(1), world.taken(2)), (1, 1));
}

#[test]
fn listener_is_closed_when_the_last_slot_closes_it() {
    let mut world = asked();
    world.feed(Event::ListenerClosed { worker: WorkerId(1), listener: ASKED });
    assert!(world.is_open(ASKED));
    world.feed(Event::ListenerClosed { worker: WorkerId(2), listener: ASKED });
    assert!(!world.is_open(ASKED));
}

#[test]
fn configured_listener_stays_open_when_nobody_uses_it() {
    let mut world = World::serving();
    for worker in [WorkerId(1), WorkerId(2)] {
        world.feed(Event::ListenerClosed { worker, listener: PORT });
    }
    assert!(world.is_open(PORT));
    assert!(world.did(&Action::StopAccepting { listener: PORT }));
}

#[test]
fn crash_is_no_close() {
    let mut world = asked();
    world.exit(1, 1);
    world.exit(2, 1);
    assert!(world.is_open(ASKED));
    world.listens(3, ASKED);
    world.ready(3);
    assert!(world.is_open(ASKED), "one slot waits for its replacement, one uses it");
}

#[test]
fn listener_is_closed_when_the_replacements_are_ready_without_it() {
    let mut world = asked();
    world.exit(1, 1);
    world.exit(2, 1);
    world.ready(3);
    assert!(world.is_open(ASKED));
    world.ready(4);
    assert!(!world.is_open(ASKED));
}

#[test]
fn leaver_keeps_its_listener_while_it_lives() {
    let mut world = asked();
    world.feed(Event::ListenerClosed { worker: WorkerId(2), listener: ASKED });
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    world.ready(3);
    assert!(world.is_open(ASKED));
    world.exit(1, 0);
    assert!(!world.is_open(ASKED));
}

#[test]
fn listener_that_a_leaver_closes_stays_open_for_its_replacement() {
    let mut world = asked();
    world.feed(Event::ListenerClosed { worker: WorkerId(2), listener: ASKED });
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    world.listens(3, ASKED);
    world.feed(Event::ListenerClosed { worker: WorkerId(1), listener: ASKED });
    assert!(world.is_open(ASKED));
}

#[test]
fn listener_stays_open_over_a_reload_if_the_new_generation_asks_for_it() {
    let mut world = asked();
    world.reload(1);
    world.listens(3, ASKED);
    world.all_ready();
    assert!(world.is_open(ASKED));
}

#[test]
fn listener_is_closed_at_the_commit_of_a_generation_without_it() {
    let mut world = asked();
    world.reload(1);
    world.ready(3);
    assert!(world.is_open(ASKED), "not before");
    world.ready(4);
    world.pass_millis(250);
    assert!(!world.is_open(ASKED));
    assert!(world.is_open(PORT));
}

#[test]
fn listener_that_only_a_failed_generation_asked_for_is_closed() {
    let mut world = World::serving();
    world.reload(1);
    world.bind(ASKED, Spread::Offered, false);
    world.listens(3, ASKED);
    world.exit(4, 1);
    assert!(!world.is_open(ASKED));
}

#[test]
fn listener_bound_for_a_worker_that_has_gone_is_closed() {
    let mut world = World::serving();
    world.bind(ASKED, Spread::Offered, false);
    world.listens(99, ASKED);
    assert!(!world.is_open(ASKED));
}

#[test]
fn connections_queued_on_a_closed_listener_are_shut_down() {
    let mut world = asked();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect_to(ASKED, 10);
    world.feed(Event::ListenerClosed { worker: WorkerId(1), listener: ASKED });
    world.feed(Event::ListenerClosed { worker: WorkerId(2), listener: ASKED });
    assert_eq!(world.count(|action| matches!(action, Action::Shutdown { .. })), 2);
    assert_eq!(world.copies.len(), 8, "what is on offer can still be taken");
}
