//! What a worker leaves lying goes to another that is alive (DESIGN: rule 6 of the offer word).

use everport_handoff::id::WorkerId;

use super::super::*;
use super::world::{Mood, PORT, World};

/// Three workers, of which the first two are as given.
fn three(first: Mood, second: Mood) -> World {
    let mut world = workers(3);
    world.set_mood(1, first);
    world.set_mood(2, second);
    world
}

fn workers(workers: u32) -> World {
    let mut world = World::with(Settings { workers, ..World::settings() });
    world.bind(PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    world.log.clear();
    world
}

fn owner(world: &World, connection: u64) -> Option<u64> {
    world.log.iter().rev().find_map(|action| match action {
        Action::Offer { worker, connection: offered } if offered.0 == connection => Some(worker.0),
        _ => None,
    })
}

#[test]
fn blocked_worker_loses_its_offer_after_steal_after_to_one_that_beats() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(49);
    assert_eq!(owner(&world, 1), Some(1));
    world.pass_millis(1);
    assert!(world.did(&Action::AskBeat { worker: WorkerId(2) }));
    assert_eq!(owner(&world, 1), Some(2));
    assert_eq!(world.taken(2), 1);
}

#[test]
fn blocked_worker_is_offered_nothing_more_until_it_shows_life() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(60);
    for connection in 2..6 {
        world.connect(1);
        assert_eq!(owner(&world, connection), Some(2));
        world.pass_millis(500);
    }
    world.set_mood(1, Mood::Prompt);
    world.connect(2);
    assert_eq!((owner(&world, 6), owner(&world, 7)), (Some(2), Some(1)));
}

#[test]
fn all_overdue_offers_move_at_once() {
    let mut world = World::with(Settings { credit: 16, queue: 64, ..World::settings() });
    world.bind(PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    world.set_mood(1, Mood::Blocked);
    world.connect(32);
    world.pass_millis(51);
    assert_eq!(world.taken(2), 32);
}

#[test]
fn overdue_offers_are_dealt_out_among_all_that_are_alive() {
    let mut world = three(Mood::Blocked, Mood::Prompt);
    world.connect(12);
    world.pass_millis(50);
    assert_eq!((world.taken(2), world.taken(3)), (6, 6));
}

#[test]
fn busy_worker_gets_overdue_offers_before_new_connections() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(8);
    world.pass_millis(30);
    for _ in 0..3 {
        world.act(WorkerId(2), true);
    }
    world.connect(8);
    world.pass_millis(20);
    // The second took three a moment ago and has one left. Nothing new comes before the overdue ones of the first.
    let overdue: Vec<_> = [1, 3, 5, 7].into_iter().map(|connection| owner(&world, connection)).collect();
    assert_eq!(overdue, [Some(1); 4]);
    for _ in 0..world.untaken(2) {
        world.act(WorkerId(2), true);
        world.run();
    }
    let overdue: Vec<_> = [1, 3, 5, 7].into_iter().map(|connection| owner(&world, connection)).collect();
    assert_eq!(overdue, [Some(2); 4]);
}

#[test]
fn idle_worker_that_hangs_too_is_passed_over() {
    let mut world = three(Mood::Blocked, Mood::Blocked);
    world.connect(1);
    world.pass_millis(50);
    assert_eq!(owner(&world, 1), Some(3));
}

#[test]
fn nothing_is_stolen_while_nobody_is_alive_and_nobody_is_asked_twice_in_a_row() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(1);
    world.pass_millis(900);
    assert_eq!(owner(&world, 1), Some(1));
    assert_eq!(world.count(|action| matches!(action, Action::AskBeat { .. })), 1);
    world.pass_millis(200);
    assert_eq!(world.count(|action| matches!(action, Action::AskBeat { .. })), 2);
    world.set_mood(2, Mood::Prompt);
    assert_eq!((owner(&world, 1), world.untaken(2)), (Some(2), 0));
}

#[test]
fn only_worker_takes_its_overdue_offers_when_it_returns() {
    let mut world = World::serving();
    world.exit(2, 1);
    world.set_mood(1, Mood::Blocked);
    world.connect(3);
    world.pass_millis(2_000);
    assert_eq!(world.count(|action| matches!(action, Action::Revoke { .. })), 0);
    world.set_mood(1, Mood::Prompt);
    assert_eq!(world.copies.len(), 0, "and rings at once");
}

#[test]
fn connection_is_stolen_twice_and_then_waits_for_one_that_takes_something() {
    let mut world = three(Mood::Blocked, Mood::Blocked);
    world.set_mood(3, Mood::Blocked);
    world.connect(1);
    world.pass_millis(50);
    // Each beats, and then hangs with the offer.
    world.feed(Event::Beat { worker: WorkerId(2) });
    assert_eq!(owner(&world, 1), Some(2));
    world.pass_millis(50);
    world.feed(Event::Beat { worker: WorkerId(3) });
    assert_eq!(owner(&world, 1), Some(3));
    world.pass_millis(50);
    assert!(world.did(&Action::Revoke { worker: WorkerId(3), connection: ConnectionId(1) }));
    assert_eq!(world.machine.queued(PORT), 1);
    world.feed(Event::Beat { worker: WorkerId(1) });
    assert_eq!(owner(&world, 1), Some(3), "a beat is not enough now");
    world.connect(1);
    assert_eq!(owner(&world, 2), Some(1), "the others pass");
    // It releases the first, and takes the second.
    for _ in 0..4 {
        world.act(WorkerId(1), true);
        world.run();
    }
    assert_eq!(owner(&world, 1), Some(1));
}

#[test]
fn connection_that_wandered_goes_to_the_next_worker_that_takes_something() {
    let mut world = workers(4);
    for worker in 1..=4 {
        world.set_mood(worker, Mood::Blocked);
    }
    world.connect(1);
    for worker in [2, 3] {
        world.pass_millis(50);
        world.feed(Event::Beat { worker: WorkerId(worker) });
    }
    world.pass_millis(50);
    assert_eq!((owner(&world, 1), world.machine.queued(PORT)), (Some(3), 1));
    world.connect(1);
    assert_eq!(owner(&world, 2), Some(4));
    world.pass_millis(49);
    world.set_mood(4, Mood::Prompt);
    world.pass_millis(1);
    assert_eq!((owner(&world, 1), world.untaken(4)), (Some(4), 0));
}

#[test]
fn connection_that_wandered_is_not_lost_when_all_workers_return() {
    let mut world = three(Mood::Blocked, Mood::Blocked);
    world.set_mood(3, Mood::Blocked);
    world.connect(1);
    for worker in [2, 3] {
        world.pass_millis(50);
        world.feed(Event::Beat { worker: WorkerId(worker) });
    }
    world.pass_millis(5_000);
    for worker in [1, 2, 3] {
        world.set_mood(worker, Mood::Prompt);
    }
    world.pass_millis(100);
    assert!(world.copies.is_empty());
}

#[test]
fn blocked_worker_that_is_killed_after_all_leaves_nothing_hanging() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    for _ in 0..20 {
        world.connect(1);
        world.pass_millis(60);
    }
    assert_eq!(world.taken(2), 20);
    world.exit(1, 1);
    assert!(world.copies.is_empty());
    assert!(world.did(&Action::Forget { worker: WorkerId(1) }));
}

#[test]
fn worker_rings_while_it_holds_a_revoked_copy() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(1_000);
    assert!(world.workers[&WorkerId(1)].rings);
    world.set_mood(1, Mood::Prompt);
    assert!(!world.workers[&WorkerId(1)].rings);
    assert!(!world.workers[&WorkerId(2)].rings);
}

#[test]
fn every_connection_is_served_in_time_by_the_other_while_one_worker_is_blocked() {
    let mut world = World::with(Settings { credit: 16, queue: 64, ..World::settings() });
    world.bind(PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    for clients in 1..400 {
        if clients == 100 {
            world.set_mood(1, Mood::Blocked);
        }
        if clients == 250 {
            world.exit(1, 9);
        }
        world.connect(1);
        world.pass_millis(2);
        let lying = world.copies.len() - world.workers.values().map(|process| process.taken()).sum::<usize>();
        assert!(lying <= 27, "{lying} wait for more than the 50 ms in which 25 came");
    }
    world.pass_millis(50);
    assert!(world.copies.is_empty());
}

#[test]
fn worker_that_has_just_taken_something_is_not_asked_for_a_beat() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(2);
    world.pass_millis(50);
    assert_eq!(owner(&world, 1), Some(2));
    assert_eq!(world.count(|action| matches!(action, Action::AskBeat { .. })), 0);
}
