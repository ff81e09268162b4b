//! Policy `rr`, credit, refusals, the doorbell, and who closes which copy when.

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::*;
use super::world::{Mood, PORT, World};

fn offers(world: &World) -> Vec<(u64, u64)> {
    let offer = |action: &Action| match action {
        Action::Offer { worker, connection } => Some((connection.0, worker.0)),
        _ => None,
    };
    world.log.iter().filter_map(offer).collect()
}

#[test]
fn connections_go_to_the_workers_in_turn() {
    let mut world = World::serving();
    world.connect(4);
    assert_eq!(offers(&world), [(1, 1), (2, 2), (3, 1), (4, 2)]);
}

#[test]
fn worker_that_does_not_use_the_listener_is_offered_nothing() {
    let mut world = World::starting();
    world.ready(1);
    world.feed(Event::WorkerReady { worker: WorkerId(2) });
    world.connect(2);
    assert_eq!(offers(&world), [(1, 1), (2, 1)]);
}

#[test]
fn master_closes_its_copy_and_frees_the_word_when_it_learns_of_the_taking() {
    let mut world = World::serving();
    world.connect(1);
    assert!(world.copies.contains_key(&ConnectionId(1)));
    world.pass(world.settings.steal_after);
    let (worker, connection) = (WorkerId(1), ConnectionId(1));
    assert!(world.log.ends_with(&[Action::Close { connection }, Action::FreeWord { worker, connection }]));
}

#[test]
fn deadline_comes_within_steal_after_of_the_oldest_unsettled_offer() {
    let mut world = World::serving();
    assert_eq!(world.machine.next_deadline(), None);
    world.connect(1);
    let due = world.now + world.settings.steal_after;
    assert_eq!(world.machine.next_deadline(), Some(due));
    world.pass_millis(10);
    world.connect(1);
    assert_eq!(world.machine.next_deadline(), Some(due));
    world.pass_millis(40);
    assert_eq!(world.machine.next_deadline(), None, "the second was settled by the same look");
}

#[test]
fn worker_rings_while_its_credit_is_wanted_and_no_longer() {
    let mut world = World::blocked();
    let ring = |on| Action::Ring { worker: WorkerId(1), on };
    world.connect(8);
    assert!(!world.did(&ring(true)), "nobody waits for its credit yet");
    world.connect(1);
    assert!(world.did(&ring(true)));
    world.act(WorkerId(1), true);
    world.run();
    assert_eq!(world.machine.queued(PORT), 0);
    world.act(WorkerId(1), true);
    world.run();
    assert!(world.did(&ring(false)));
}

#[test]
fn offers_of_a_dead_worker_go_first_and_in_their_old_order() {
    let mut world = World::blocked();
    world.connect(10);
    world.log.clear();
    world.exit(2, 1);
    world.ready(3);
    let order: Vec<_> = offers(&world).into_iter().map(|(connection, _)| connection).collect();
    assert_eq!(order[..4], [2, 4, 6, 8], "before the two that were never offered");
}

#[test]
fn connection_taken_by_a_worker_that_died_is_shut_down_if_the_master_still_has_it() {
    let mut world = World::serving();
    world.connect(1);
    world.exit(1, 1);
    assert!(world.did(&Action::Revoke { worker: WorkerId(1), connection: ConnectionId(1) }));
    assert!(world.did(&Action::Shutdown { connection: ConnectionId(1) }));
    assert_eq!(world.log.last(), Some(&Action::Forget { worker: WorkerId(1) }));
}

#[test]
fn connection_whose_owner_dies_ends_although_a_hung_worker_holds_a_revoked_copy() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(60);
    assert!(world.did(&Action::Offer { worker: WorkerId(2), connection: ConnectionId(1) }));
    assert!(!world.did(&Action::Close { connection: ConnectionId(1) }));
    world.exit(2, 1);
    assert!(world.did(&Action::Shutdown { connection: ConnectionId(1) }));
}

#[test]
fn master_keeps_its_copy_until_the_last_revoked_copy_is_released() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(200);
    assert_eq!(world.taken(2), 1);
    assert!(world.copies.contains_key(&ConnectionId(1)));
    world.set_mood(1, Mood::Prompt);
    assert!(world.did(&Action::Close { connection: ConnectionId(1) }));
}

#[test]
fn revoked_copy_of_a_dead_worker_counts_as_released() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(200);
    world.exit(1, 1);
    assert!(world.did(&Action::Close { connection: ConnectionId(1) }));
    assert!(world.did(&Action::Forget { worker: WorkerId(1) }));
}

#[test]
fn words_that_a_worker_took_while_others_hold_copies_do_not_exceed_its_board() {
    let mut world = World::with(Settings { words: 5, ..World::settings() });
    world.bind(PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    world.set_mood(1, Mood::Blocked);
    world.connect(8);
    world.pass_millis(1_000);
    assert_eq!(world.workers[&WorkerId(2)].board.len(), 4, "taken, and kept for the copies of the first");
    world.connect(3);
    world.pass_millis(50);
    assert_eq!(world.taken(2), 11, "one word is left, and they pass through it one by one");
    world.set_mood(1, Mood::Prompt);
    world.pass_millis(100);
    assert!(world.copies.is_empty());
}

#[test]
fn refused_connection_goes_to_another_worker_at_once() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Refusing);
    world.connect(1);
    world.pass_millis(50);
    assert!(world.did(&Action::FreeWord { worker: WorkerId(1), connection: ConnectionId(1) }));
    assert_eq!(offers(&world), [(1, 1), (1, 2)]);
}

#[test]
fn connection_that_all_refuse_is_held_back_and_tried_again() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Refusing);
    world.set_mood(2, Mood::Refusing);
    world.connect(1);
    world.pass_millis(150);
    assert_eq!(offers(&world).len(), 2);
    assert_eq!(world.machine.queued(PORT), 1);
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    world.pass_millis(400);
    assert_eq!((offers(&world).len(), world.machine.queued(PORT)), (3, 0));
}

#[test]
fn held_connection_is_offered_to_a_new_worker_at_once() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Refusing);
    world.set_mood(2, Mood::Refusing);
    world.connect(1);
    world.pass_millis(110);
    world.feed(Event::WorkerLeaving { worker: WorkerId(1) });
    world.ready(3);
    assert_eq!(offers(&world).last(), Some(&(1, 3)));
}

#[test]
fn connection_that_nobody_ever_wants_is_given_up() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Refusing);
    world.set_mood(2, Mood::Refusing);
    world.connect(1);
    world.pass_millis(30_000);
    assert!(!world.did(&Action::Shutdown { connection: ConnectionId(1) }));
    world.pass_millis(30_000);
    assert!(world.did(&Action::Shutdown { connection: ConnectionId(1) }));
    assert!(offers(&world).len() < 300);
}

#[test]
fn full_channel_is_a_worker_without_credit() {
    let mut world = World::serving();
    world.worker(1).full = true;
    world.connect(1);
    world.connect(2);
    assert_eq!(offers(&world), [(1, 1), (1, 2), (2, 2), (3, 2)]);
    world.worker(1).full = false;
    world.connect(1);
    assert_eq!(offers(&world).last(), Some(&(4, 2)), "nothing before it is writable");
    world.pass_millis(50);
    world.feed(Event::ChannelWritable { worker: WorkerId(1) });
    world.connect(2);
    assert_eq!(offers(&world)[5..], [(5, 2), (6, 1)],);
}

#[test]
fn credit_counts_over_all_listeners() {
    let mut world = World::blocked();
    let other = ListenerId(2);
    world.bind(other, Spread::Offered, true);
    world.listens(1, other);
    world.connect_to(other, 3);
    world.connect(20);
    assert_eq!((world.untaken(1), world.untaken(2)), (4, 4));
}

#[test]
fn what_a_worker_that_broke_the_protocol_says_it_took_is_shut_down_when_it_has_gone() {
    let mut world = World::serving();
    world.dies_slowly = true;
    world.connect(1);
    world.feed(Event::WorkerBroke { worker: WorkerId(1), reason: "nonsense on the board".into() });
    let connection = ConnectionId(1);
    assert!(!world.did(&Action::Close { connection }));
    world.feed(Event::WorkerExited { worker: WorkerId(1), exit: Exit::Signal(9) });
    assert!(world.did(&Action::Shutdown { connection }));
}
