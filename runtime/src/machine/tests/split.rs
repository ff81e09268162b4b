//! Listeners with a socket for every slot: who accepts from which, and where new connections are steered to.

use everport_handoff::id::ListenerId;

use super::super::*;
use super::world::{PORT, World};

/// A master whose port is split, and whose first workers, 1 to 4, are active in the slots 0 to 3.
fn serving(settings: Settings) -> World {
    let mut world = World::with(Settings { workers: 4, ..settings });
    world.plan.configured.insert(PORT, Spread::Split);
    world.bind(PORT, Spread::Split, true);
    world.feed(Event::Started);
    world.all_ready();
    world
}

fn scale(world: &mut World, to: u32) {
    world.feed(Event::ScaleAsked { to: Scale::To(to) });
}

#[test]
fn steering_is_told_once_when_the_generation_serves_and_never_before_a_socket_is_there() {
    let mut world = World::with(Settings { workers: 2, ..World::settings() });
    world.bind(PORT, Spread::Split, true);
    world.feed(Event::Started);
    world.ready(1);
    assert_eq!(world.sockets(PORT), (None, vec![]), "nobody accepts yet");
    world.ready(2);
    assert_eq!(world.sockets(PORT), (Some(2), vec![]));
    scale(&mut world, 3);
    assert_eq!(world.sockets(PORT), (Some(2), vec![]), "the new slot's worker has not asked yet");
    world.listens(3, PORT);
    // The socket is there: whoever gets into its queue before that worker is ready is served.
    assert_eq!(world.sockets(PORT), (Some(2), vec![(2, 1)]));
    world.ready(3);
    assert_eq!(world.sockets(PORT), (Some(3), vec![]));
}

#[test]
fn the_socket_of_a_slot_without_a_worker_is_lent_to_the_next_one_around_the_end_and_taken_back() {
    let mut world = serving(World::settings());
    world.exit(2, 1);
    assert_eq!(world.sockets(PORT), (Some(4), vec![(1, 3)]));
    world.exit(3, 1);
    assert_eq!(world.sockets(PORT), (Some(4), vec![(1, 4), (2, 4)]), "at once, with what it had been lent");
    world.exit(4, 1);
    assert_eq!(world.sockets(PORT), (Some(1), vec![(1, 1), (2, 1), (3, 1)]));
    world.all_ready();
    assert_eq!(world.sockets(PORT), (Some(4), vec![]));
    let lent = |action: &&Action| matches!(action, Action::Lend { .. });
    let taken_back = |action: &&Action| matches!(action, Action::TakeBack { .. });
    assert_eq!(world.log.iter().filter(lent).count(), 6);
    // Those of the dead went with them.
    assert_eq!(world.log.iter().filter(taken_back).count(), 3);
}

#[test]
fn a_killed_worker_and_one_that_is_silent_are_replaced_before_they_are_gone() {
    let mut world = serving(World::settings());
    world.dies_slowly = true;
    world.kill(2);
    assert_eq!(world.sockets(PORT).1, [(1, 3)]);
    world.feed(Event::ChannelClosed { worker: WorkerId(3) });
    assert_eq!(world.sockets(PORT).1, [(1, 4), (2, 4)]);
}

#[test]
fn fewer_slots_get_new_connections_and_neighbours_serve_what_waits_in_the_others() {
    let mut world = serving(World::settings());
    scale(&mut world, 2);
    assert_eq!(world.sockets(PORT), (Some(2), vec![(2, 1), (3, 1)]));
    scale(&mut world, 4);
    world.all_ready();
    assert_eq!(world.sockets(PORT), (Some(4), vec![]), "the same sockets in the same order");
    assert!(!world.log.iter().any(|action| matches!(action, Action::CloseListener { .. })));
}

#[test]
fn a_reload_lends_nothing_for_both_generations_have_the_sockets_of_their_slots() {
    let mut world = serving(Settings { probation: Duration::from_secs(1), ..World::settings() });
    world.log.clear();
    world.reload(1);
    world.all_ready();
    world.roll_back(2);
    world.reload(3);
    world.all_ready();
    world.pass_millis(1_000);
    assert_eq!(world.sockets(PORT), (Some(4), vec![]));
    let lent = |action: &Action| matches!(action, Action::Lend { .. } | Action::Steer { .. });
    assert!(!world.log.iter().any(lent));
}

#[test]
fn a_pause_leaves_everything_with_the_kernel_and_a_resumption_gives_it_back() {
    let mut world = serving(World::settings());
    world.exit(2, 1);
    world.feed(Event::PauseAsked);
    assert_eq!(world.sockets(PORT), (Some(4), vec![]));
    assert!(world.did(&Action::TakeBack { worker: WorkerId(3), listener: PORT, slot: Slot(1) }));
    world.feed(Event::ResumeAsked);
    assert_eq!(world.sockets(PORT).1, [(1, 3)]);
}

#[test]
fn a_worker_that_closes_the_listener_accepts_from_none_of_its_sockets() {
    let mut world = serving(World::settings());
    let own = ListenerId(7);
    world.bind(own, Spread::Split, false);
    world.listens(1, own);
    world.listens(4, own);
    assert_eq!(world.sockets(own), (Some(4), vec![(1, 4), (2, 4)]));
    world.feed(Event::ListenerClosed { worker: WorkerId(4), listener: own });
    assert_eq!(world.sockets(own), (Some(1), vec![(1, 1), (2, 1), (3, 1)]));
}
