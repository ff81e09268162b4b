//! Live connections that move: to whom, what their giver is told, and what becomes of them whoever dies when.

use std::time::Duration;

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::orders::KILL_GRACE;
use super::super::scheduler::RETURN_AFTER;
use super::super::*;
use super::world::{Client, Mood, PORT, World};

/// After a reload: the workers 1 and 2 drain, 3 and 4 serve. The first has the connections of the clients 1 and 3.
fn draining() -> World {
    let mut world = World::serving();
    world.connect(4);
    world.pass_millis(50);
    world.reload(1);
    world.all_ready();
    world.log.clear();
    world
}

fn owner(world: &World, client: u64) -> Option<u64> {
    let mut owners = world.workers.iter().filter(|(_, process)| process.owned.contains(&Client(client)));
    owners.next().map(|(worker, _)| worker.0)
}

fn outcomes(world: &World) -> Vec<&'static str> {
    let outcome = |action: &Action| match action {
        Action::TellMoved { .. } => Some("moved"),
        Action::Return { .. } => Some("returned"),
        Action::Shutdown { .. } => Some("shut down"),
        _ => None,
    };
    world.log.iter().filter_map(outcome).collect()
}

fn counters(world: &World, worker: u64) -> Counters {
    world.machine.workers().find(|view| view.worker.0 == worker).expect("a worker").counters
}

#[test]
fn connection_of_the_old_generation_moves_to_the_new_one() {
    let mut world = draining();
    world.hand_over(1, 1);
    world.pass_millis(50);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(3), vec!["moved"]));
    assert_eq!((counters(&world, 1).given, counters(&world, 3).received), (1, 1));
    assert!(world.copies.is_empty());
}

#[test]
fn giver_is_told_only_when_the_connection_has_been_taken() {
    let mut world = draining();
    world.set_mood(3, Mood::Blocked);
    world.hand_over(1, 1);
    assert!(outcomes(&world).is_empty());
    world.set_mood(3, Mood::Prompt);
    world.pass_millis(50);
    assert_eq!(outcomes(&world), ["moved"]);
}

/// Else the giver, which may end with its last connection, would hear of it only when the board is read the next time.
#[test]
fn who_takes_what_was_handed_over_rings() {
    let mut world = draining();
    world.set_mood(3, Mood::Blocked);
    let ring = |on| Action::Ring { worker: WorkerId(3), on };
    world.hand_over(1, 1);
    assert!(world.did(&ring(true)));
    world.set_mood(3, Mood::Prompt);
    world.pass_millis(50);
    assert_eq!(outcomes(&world), ["moved"]);
    assert!(world.did(&ring(false)));
}

#[test]
fn connection_of_a_shared_listener_is_offered_like_any_other() {
    let mut world = World::serving();
    let shared = ListenerId(2);
    world.bind(shared, Spread::Shared, true);
    for worker in [1, 2] {
        world.listens(worker, shared);
    }
    world.worker(1).owned.insert(Client(77));
    world.come_in_by(shared, Client(77));
    world.hand_over(1, 77);
    world.pass_millis(50);
    assert_eq!((owner(&world, 77), outcomes(&world)), (Some(2), vec!["moved"]));
    assert!(!world.did(&Action::StartAccepting { listener: shared }), "its workers accept themselves");
    assert_eq!(world.machine.room(shared), 0);
}

#[test]
fn connection_never_goes_back_to_its_giver_as_an_offer() {
    let mut world = World::serving();
    world.connect(1);
    world.pass_millis(50);
    world.set_mood(2, Mood::Blocked);
    world.hand_over(1, 1);
    world.pass_millis(1_000);
    assert_eq!((owner(&world, 1), outcomes(&world)), (None, vec![]), "it waits for the other one");
    world.set_mood(2, Mood::Prompt);
    world.pass_millis(50);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(2), vec!["moved"]));
}

#[test]
fn connection_that_nobody_else_could_take_is_returned_at_once() {
    let mut world = World::serving();
    world.connect(1);
    world.pass_millis(50);
    world.exit(2, 1);
    world.hand_over(1, 1);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
    world.ready(3);
    world.hand_over(1, 1);
    world.pass_millis(50);
    assert_eq!(owner(&world, 1), Some(3), "another time");
}

#[test]
fn connection_that_all_refuse_is_returned() {
    let mut world = draining();
    world.set_mood(3, Mood::Refusing);
    world.set_mood(4, Mood::Refusing);
    world.hand_over(1, 1);
    world.pass_millis(100);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
    assert_eq!(counters(&world, 3).refused + counters(&world, 4).refused, 2);
}

#[test]
fn connection_that_one_refuses_waits_for_the_other_that_hangs_for_now() {
    let mut world = draining();
    world.set_mood(3, Mood::Refusing);
    world.set_mood(4, Mood::Blocked);
    world.connect(8);
    world.hand_over(1, 1);
    world.pass_millis(400);
    assert!(outcomes(&world).is_empty());
    world.set_mood(4, Mood::Prompt);
    world.pass_millis(1_000);
    assert_eq!(owner(&world, 1), Some(4));
}

#[test]
fn connection_that_nobody_takes_in_time_goes_back_to_its_giver() {
    for mood in [Mood::Blocked, Mood::Refusing] {
        let mut world = draining();
        world.set_mood(3, Mood::Blocked);
        world.set_mood(4, mood);
        world.hand_over(1, 1);
        world.pass(RETURN_AFTER - Duration::from_millis(1));
        assert_eq!((owner(&world, 1), outcomes(&world)), (None, vec![]), "{mood:?}");
        world.pass_millis(1);
        assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]), "{mood:?}");
        // They find a revoked offer.
        world.set_mood(3, Mood::Prompt);
        world.set_mood(4, Mood::Prompt);
        world.hand_over(1, 1);
        world.pass_millis(50);
        assert!(owner(&world, 1).is_some_and(|owner| owner > 2), "another time");
    }
}

#[test]
fn connection_waits_no_longer_for_workers_that_are_full_or_for_one_under_hash() {
    let full = Settings { max_connections: Some(2), ..World::settings() };
    let mut world = World::serving_with(full);
    world.connect(4);
    world.pass_millis(50);
    world.dies_slowly = true;
    world.kill(1);
    world.hand_over(1, 1);
    world.pass(RETURN_AFTER);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
    let mut world = draining();
    world.feed(Event::PolicyAsked { listener: PORT, policy: OfferedPolicy::Hash });
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.connect(2 * world.settings.credit + 1);
    world.hand_over(1, 1);
    world.pass(RETURN_AFTER);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
}

#[test]
fn connection_of_a_giver_that_dies_is_not_recalled() {
    let mut world = draining();
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.hand_over(1, 1);
    world.exit(1, 1);
    world.pass(RETURN_AFTER * 2);
    assert_eq!(outcomes(&world), Vec::<&str>::new());
    world.set_mood(4, Mood::Prompt);
    world.pass_millis(50);
    assert_eq!(owner(&world, 1), Some(4));
}

#[test]
fn connection_whose_giver_hears_nothing_more_counts_as_under_way_and_not_as_given_too() {
    let mut world = draining();
    world.dies_slowly = true;
    world.set_mood(3, Mood::Blocked);
    world.hand_over(1, 1);
    world.kill(1);
    world.set_mood(3, Mood::Prompt);
    world.pass_millis(50);
    assert_eq!((owner(&world, 1), counters(&world, 1).given), (Some(3), 0));
}

#[test]
fn connection_goes_on_when_its_taker_dies_hangs_or_drains_before_the_take() {
    for end in ["dies", "hangs", "drains"] {
        let mut world = draining();
        world.set_mood(3, Mood::Blocked);
        world.hand_over(1, 1);
        assert_eq!(world.untaken(3), 1);
        match end {
            "dies" => world.exit(3, 1),
            "hangs" => world.pass_millis(60),
            _ => world.kill(3),
        }
        world.pass_millis(50);
        assert_eq!((owner(&world, 1), outcomes(&world)), (Some(4), vec!["moved"]), "{end}");
    }
}

#[test]
fn connection_on_offer_when_the_master_is_paused_is_returned() {
    let mut world = draining();
    world.set_mood(3, Mood::Blocked);
    world.hand_over(1, 1);
    world.feed(Event::PauseAsked);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
}

#[test]
fn connection_of_a_dead_giver_waits_for_whoever_comes() {
    let mut world = draining();
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.hand_over(1, 1);
    world.exit(1, 1);
    world.exit(3, 1);
    world.exit(4, 1);
    assert_eq!(world.machine.queued(PORT), 1);
    world.all_ready();
    world.pass_millis(50);
    assert!(owner(&world, 1).is_some_and(|owner| owner > 4));
    assert!(outcomes(&world).is_empty(), "there is nobody to tell");
}

#[test]
fn last_words_of_a_dead_giver_count() {
    let mut world = draining();
    world.send_over(1, Client(1));
    world.exit(1, 1);
    world.pass_millis(50);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(3), vec![]));
}

#[test]
fn giver_that_was_killed_or_broke_the_protocol_or_closed_its_channel_gets_nothing_back() {
    let broke = |worker| Event::WorkerBroke { worker, reason: "nonsense".to_owned() };
    let killed = |_| Event::StopAsked { at_once: true };
    let closed = |worker| Event::ChannelClosed { worker };
    for (event, end) in [(broke(WorkerId(1)), "waits"), (closed(WorkerId(1)), "waits"), (killed(WorkerId(1)), "ends")] {
        let mut world = draining();
        world.dies_slowly = true;
        world.set_mood(3, Mood::Blocked);
        world.set_mood(4, Mood::Blocked);
        world.hand_over(1, 1);
        world.feed(event);
        for worker in [3, 4] {
            world.exit(worker, 1);
        }
        match end {
            "waits" => assert_eq!((outcomes(&world), world.machine.queued(PORT)), (vec![], 1)),
            _ => assert_eq!(outcomes(&world), ["shut down"]),
        }
    }
}

#[test]
fn very_connection_that_the_giver_took_by_an_offer_outlives_it() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(60);
    assert_eq!(owner(&world, 1), Some(2));
    assert!(world.copies.contains_key(&ConnectionId(1)), "the first has a revoked copy");
    world.kill(2);
    world.ready(3);
    world.log.clear();
    world.hand_over(2, 1);
    assert!(world.did(&Action::FreeWord { worker: WorkerId(2), connection: ConnectionId(1) }));
    world.pass_millis(50);
    world.exit(2, 1);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(3), vec!["moved"]));
    world.set_mood(1, Mood::Prompt);
    world.pass_millis(50);
    assert!(world.copies.is_empty());
}

#[test]
fn returned_connection_is_its_givers_alone_though_another_has_a_revoked_copy() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.connect(1);
    world.pass_millis(60);
    world.feed(Event::PauseAsked);
    world.hand_over(2, 1);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(2), vec!["returned"]));
    world.feed(Event::ResumeAsked);
    world.set_mood(1, Mood::Prompt);
    world.exit(2, 1);
    assert_eq!(outcomes(&world), ["returned"], "what ends with its owner is not the master's");
}

#[test]
fn stop_returns_what_waits_and_tells_of_no_successor() {
    let mut world = draining();
    let drains = |world: &World, wanted: bool| {
        world.count(|action| matches!(action, Action::Drain { successor, .. } if *successor == wanted))
    };
    world.set_mood(3, Mood::Blocked);
    world.set_mood(4, Mood::Blocked);
    world.hand_over(1, 1);
    world.stop();
    assert_eq!(outcomes(&world), Vec::<&str>::new(), "the last ones may still take it");
    world.pass_millis(1_000);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]));
    assert_eq!((drains(&world, false), drains(&world, true)), (2, 0));
    world.hand_over(1, 3);
    assert_eq!(outcomes(&world), ["returned", "returned"], "the listener is closed");
}

#[test]
fn stop_that_rolls_a_reload_back_tells_nobody_of_a_successor() {
    let mut world = World::serving_with(Settings { probation: Duration::from_secs(60), ..World::settings() });
    world.reload(1);
    world.all_ready();
    world.stop();
    assert_eq!(world.count(|action| matches!(action, Action::Drain { successor: true, .. })), 0);
    assert_eq!(world.count(|action| matches!(action, Action::Drain { successor: false, .. })), 4);
}

#[test]
fn whoever_drains_while_others_stay_has_a_successor() {
    let has_successor = |world: &World, worker: u64| {
        world.log.iter().any(|action| match action {
            Action::Drain { worker: drained, successor, .. } => drained.0 == worker && *successor,
            _ => false,
        })
    };
    let mut world = World::serving();
    world.reload(1);
    world.all_ready();
    assert!(has_successor(&world, 1) && has_successor(&world, 2), "a commit");
    world.feed(Event::WorkerLeaving { worker: WorkerId(3) });
    world.all_ready();
    assert!(has_successor(&world, 3), "one that leaves");
    world.feed(Event::ScaleAsked { to: Scale::To(1) });
    assert!(has_successor(&world, 4), "one too many");
    let mut world = World::serving_with(Settings { probation: Duration::from_secs(60), ..World::settings() });
    world.reload(1);
    world.all_ready();
    world.roll_back(2);
    assert!(has_successor(&world, 3), "a generation that served and was rolled back");
}

#[test]
fn generations_that_drain_at_once_all_move_to_the_newest() {
    let mut world = draining();
    world.reload(2);
    world.all_ready();
    world.log.clear();
    world.hand_over(1, 1);
    world.hand_over(2, 2);
    world.pass_millis(50);
    let owners = [owner(&world, 1), owner(&world, 2)];
    assert!(owners.iter().all(|owner| owner.is_some_and(|owner| owner > 4)), "{owners:?}");
}

#[test]
fn connection_of_a_listener_that_was_removed_is_returned() {
    let mut world = World::serving();
    let old = ListenerId(2);
    world.bind(old, Spread::Offered, false);
    world.listens(1, old);
    world.connect_to(old, 1);
    world.pass_millis(50);
    world.reload(1);
    world.all_ready();
    world.hand_over(1, 1);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned"]), "while it is cleared");
    world.pass_millis(500);
    assert!(!world.is_open(old));
    world.hand_over(1, 1);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(1), vec!["returned", "returned"]));
}

#[test]
fn connections_that_move_do_not_keep_new_ones_out() {
    let mut world = draining();
    world.connect(40);
    world.pass_millis(50);
    world.reload(2);
    world.all_ready();
    for worker in [5, 6] {
        world.set_mood(worker, Mood::Blocked);
    }
    let moving: Vec<_> = [3, 4]
        .into_iter()
        .flat_map(|worker| {
            let owned: Vec<_> =
                world.workers[&WorkerId(worker)].owned.iter().map(|client| (worker, client.0)).collect();
            owned
        })
        .collect();
    assert!(moving.len() > world.settings.queue + 2 * world.settings.credit);
    let room = world.machine.room(PORT);
    for (worker, client) in moving {
        world.hand_over(worker, client);
    }
    assert_eq!(world.machine.room(PORT), room);
    world.connect(world.settings.queue);
    assert_eq!(world.backlog(PORT), 0);
}

#[test]
fn worker_that_an_operator_kills_hands_over_first() {
    let mut world = World::serving();
    world.connect(1);
    world.pass_millis(50);
    world.dies_slowly = true;
    let deadline = world.now + KILL_GRACE;
    world.kill(1);
    assert!(world.did(&Action::Drain { worker: WorkerId(1), deadline, successor: true }));
    world.hand_over(1, 1);
    world.pass(KILL_GRACE);
    assert_eq!((owner(&world, 1), outcomes(&world)), (Some(2), vec!["moved"]));
    assert!(world.did(&Action::Kill { worker: WorkerId(1), why: KillReason::Asked }));
    world.kill(1);
    assert_eq!(world.count(|action| matches!(action, Action::Kill { .. })), 1);
}

#[test]
fn killed_worker_is_replaced_as_after_a_crash_and_at_once() {
    let mut world = World::serving();
    world.kill(2);
    assert!(matches!(world.state(3), Some(WorkerState::Starting { .. })));
    let restarts = |worker: u64| world.machine.workers().find(|view| view.worker.0 == worker).map(|view| view.restarts);
    assert_eq!(restarts(3), Some(1));
}

#[test]
fn killed_worker_that_drains_hangs_or_starts_dies_at_once() {
    let mut world = draining();
    world.dies_slowly = true;
    world.kill(1);
    assert!(world.did(&Action::Kill { worker: WorkerId(1), why: KillReason::Asked }));
    world.reload(2);
    world.kill(5);
    assert!(world.did(&Action::Kill { worker: WorkerId(5), why: KillReason::Asked }));
}

#[test]
fn killed_worker_of_a_generation_that_starts_is_replaced_and_nothing_is_rolled_back() {
    let mut world = World::serving();
    world.reload(1);
    world.ready(3);
    world.kill(3);
    world.kill(4);
    world.all_ready();
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    let active = world.machine.workers().filter(|view| matches!(view.state, WorkerState::Active { .. }));
    assert_eq!(active.map(|view| view.worker.0).collect::<Vec<_>>(), [5, 6]);
}

#[test]
fn worker_that_is_killed_while_the_master_stops_dies_at_once() {
    let mut world = World::blocked();
    world.connect(1);
    world.stop();
    world.kill(1);
    assert!(world.did(&Action::Kill { worker: WorkerId(1), why: KillReason::Asked }));
}
