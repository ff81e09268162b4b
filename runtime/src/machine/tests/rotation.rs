//! The keys of TLS session tickets: who gets them, and when they change.

use std::time::Duration;

use everport_handoff::id::WorkerId;

use super::super::*;
use super::world::World;

const ROTATE: Action = Action::RotateTicketKeys;

fn send(worker: u64) -> Action {
    Action::SendTicketKeys { worker: WorkerId(worker) }
}

fn asks(world: &mut World, worker: u64) {
    world.feed(Event::TicketKeysWanted { worker: WorkerId(worker) });
}

/// What happened to keys since the last look, in order.
fn news(world: &mut World) -> Vec<Action> {
    let is_news = |action: &Action| matches!(action, Action::RotateTicketKeys | Action::SendTicketKeys { .. });
    let news = world.log.iter().filter(|action| is_news(action)).cloned().collect();
    world.log.clear();
    news
}

fn period() -> Duration {
    World::settings().ticket_rotation
}

#[test]
fn worker_that_asks_gets_the_keys_now_and_at_every_rotation() {
    let mut world = World::serving();
    asks(&mut world, 1);
    assert_eq!(news(&mut world), [ROTATE, send(1)]);
    for _ in 0..3 {
        world.pass(period() - Duration::from_millis(1));
        assert_eq!(news(&mut world), []);
        world.pass_millis(1);
        assert_eq!(news(&mut world), [ROTATE, send(1)]);
    }
    asks(&mut world, 2);
    assert_eq!(news(&mut world), [send(2)], "those that there are");
}

#[test]
fn worker_that_asks_twice_gets_the_keys_once() {
    let mut world = World::serving();
    asks(&mut world, 1);
    asks(&mut world, 1);
    assert_eq!(news(&mut world), [ROTATE, send(1)]);
    world.pass(period());
    assert_eq!(news(&mut world), [ROTATE, send(1)]);
}

#[test]
fn no_key_is_made_before_somebody_asks() {
    let mut world = World::serving();
    assert_eq!(world.machine.next_deadline(), None);
    world.pass(period() * 3);
    assert_eq!(news(&mut world), []);
}

#[test]
fn next_generation_gets_the_keys_of_this_one_before_it_is_ready() {
    let mut world = World::serving();
    asks(&mut world, 1);
    world.reload(1);
    news(&mut world);
    asks(&mut world, 3);
    assert_eq!(news(&mut world), [send(3)]);
    world.all_ready();
    news(&mut world);
    // The old one drains: it has clients yet.
    world.pass(Duration::from_secs(1));
    asks(&mut world, 2);
    assert_eq!(news(&mut world), [send(2)]);
}

#[test]
fn keys_are_rotated_while_nobody_is_there_to_have_them() {
    let mut world = World::serving();
    asks(&mut world, 1);
    world.exit(1, 1);
    news(&mut world);
    world.pass(period());
    assert_eq!(news(&mut world), [ROTATE]);
}

#[test]
fn worker_that_is_not_trusted_any_more_gets_no_keys() {
    let mut world = World::serving();
    world.dies_slowly = true;
    asks(&mut world, 1);
    world.feed(Event::WorkerBroke { worker: WorkerId(1), reason: "chance".to_owned() });
    news(&mut world);
    world.pass(period());
    assert_eq!(news(&mut world), [ROTATE]);
    asks(&mut world, 1);
    assert_eq!(news(&mut world), []);
}

#[test]
fn deadline_that_comes_late_is_one_rotation() {
    let mut world = World::serving();
    asks(&mut world, 1);
    news(&mut world);
    world.now += period() * 5;
    world.feed(Event::Deadline);
    assert_eq!(news(&mut world), [ROTATE, send(1)]);
    assert_eq!(world.machine.next_deadline(), Some(world.now + period()));
}
