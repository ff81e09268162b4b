//! The policies of offered listeners, weights, and how many connections a worker may have.

use std::collections::{BTreeMap, HashMap};

use everport_handoff::id::Slot;

use super::super::*;
use super::world::{Mood, PORT, World};

const OFFERED: [OfferedPolicy; 4] =
    [OfferedPolicy::RoundRobin, OfferedPolicy::Least, OfferedPolicy::TwoChoices, OfferedPolicy::Hash];

/// A master with so many workers, all of them active.
pub(super) fn serving(policy: OfferedPolicy, workers: u32) -> World {
    let care = Care { most_workers: 128, ..World::settings().care };
    let settings = Settings { workers, care, ..World::settings() };
    serving_with(policy, settings)
}

pub(super) fn serving_with(policy: OfferedPolicy, settings: Settings) -> World {
    let mut world = World::serving_with(settings);
    world.feed(Event::PolicyAsked { listener: PORT, policy });
    world
}

pub(super) fn weigh(world: &mut World, weights: &[u32]) {
    for (slot, &weight) in (0..).map(Slot).zip(weights) {
        world.feed(Event::WeightAsked { slot, weight });
    }
}

/// Clients connect one after the other, so that every offer has been taken before the next.
pub(super) fn connect_singly(world: &mut World, clients: usize) {
    for _ in 0..clients {
        world.connect(1);
        world.pass_millis(11);
    }
}

/// How many connections each worker has taken in all, by id.
pub(super) fn taken(world: &World) -> Vec<u64> {
    world.workers.values().map(|process| process.taken_in_all).collect()
}

/// Which slot each client gets that connects once.
fn slots_of(world: &mut World, clients: &[u64]) -> HashMap<u64, Slot> {
    let mut slots = HashMap::new();
    for &client in clients {
        world.keys.push_back(Some(client));
        world.log.clear();
        world.connect(1);
        world.pass_millis(60);
        let offered = world.log.iter().rev().find_map(|action| match action {
            Action::Offer { worker, .. } => Some(*worker),
            _ => None,
        });
        slots.insert(client, world.workers[&offered.expect("an offer")].slot);
    }
    slots
}

#[test]
fn turns_follow_the_weights_exactly() {
    let mut world = serving(OfferedPolicy::RoundRobin, 3);
    weigh(&mut world, &[5, 2, 1]);
    connect_singly(&mut world, 8);
    assert_eq!(taken(&world), [5, 2, 1]);
    connect_singly(&mut world, 792);
    assert_eq!(taken(&world), [500, 200, 100]);
}

#[test]
fn turns_of_a_weighty_worker_are_spread_out() {
    let mut world = serving(OfferedPolicy::RoundRobin, 2);
    weigh(&mut world, &[3, 1]);
    connect_singly(&mut world, 400);
    let offers = world.log.iter().filter_map(|action| match action {
        Action::Offer { worker, .. } => Some(worker.0),
        _ => None,
    });
    let offers: Vec<_> = offers.collect();
    assert!(offers.windows(4).all(|four| four.iter().filter(|worker| **worker == 2).count() == 1), "{offers:?}");
}

#[test]
fn weight_zero_gets_nothing_new_under_any_policy_and_comes_back() {
    for policy in OFFERED {
        let mut world = serving(policy, 3);
        weigh(&mut world, &[1, 0, 1]);
        connect_singly(&mut world, 60);
        assert_eq!(taken(&world)[1], 0, "{policy:?}");
        weigh(&mut world, &[1, 1, 1]);
        connect_singly(&mut world, 60);
        assert!(taken(&world)[1] > 5, "{policy:?}: {:?}", taken(&world));
    }
}

#[test]
fn clients_wait_in_the_kernel_while_every_weight_is_zero() {
    let mut world = serving(OfferedPolicy::RoundRobin, 2);
    weigh(&mut world, &[0, 0]);
    world.connect(5);
    assert_eq!((world.backlog(PORT), world.machine.queued(PORT)), (5, 0));
    weigh(&mut world, &[0, 1]);
    assert_eq!(taken(&world), [0, 5]);
}

#[test]
fn weight_lasts_over_crashes_and_reloads() {
    let mut world = serving(OfferedPolicy::RoundRobin, 2);
    weigh(&mut world, &[3, 1]);
    world.reload(1);
    world.all_ready();
    world.exit(3, 1);
    world.pass_millis(200);
    world.all_ready();
    connect_singly(&mut world, 40);
    let views = world.machine.workers().filter(|view| matches!(view.state, WorkerState::Active { .. }));
    let shares: BTreeMap<_, _> = views.map(|view| (view.slot, (view.weight, view.counters.offered))).collect();
    assert_eq!(shares, BTreeMap::from([(Slot(0), (3, 30)), (Slot(1), (1, 10))]));
}

#[test]
fn two_choices_keep_the_busiest_near_the_mean() {
    let mut world = serving(OfferedPolicy::TwoChoices, 16);
    connect_singly(&mut world, 1_600);
    let most = taken(&world).into_iter().max().unwrap();
    // At random, the busiest of 16 would have 120 or more.
    assert!(most <= 106, "{:?}", taken(&world));
}

#[test]
fn two_choices_of_one_worker_are_that_one() {
    let mut world = serving(OfferedPolicy::TwoChoices, 1);
    world.connect(3);
    assert_eq!(taken(&world), [3]);
}

#[test]
fn client_keeps_its_slot_over_reloads_and_respawns() {
    let mut world = serving(OfferedPolicy::Hash, 4);
    let clients: Vec<_> = (0..200).collect();
    let before = slots_of(&mut world, &clients);
    assert_eq!(before, slots_of(&mut world, &clients));
    world.reload(1);
    world.all_ready();
    assert_eq!(before, slots_of(&mut world, &clients), "after a reload");
    let worker = world.machine.workers().map(|view| view.worker).last().unwrap();
    world.exit(worker.0, 1);
    world.pass_millis(200);
    world.all_ready();
    assert_eq!(before, slots_of(&mut world, &clients), "after a crash");
}

#[test]
fn lost_slot_moves_its_own_clients_and_no_others() {
    let mut world = serving(OfferedPolicy::Hash, 8);
    let clients: Vec<_> = (0..800).collect();
    let before = slots_of(&mut world, &clients);
    world.feed(Event::WeightAsked { slot: Slot(3), weight: 0 });
    let after = slots_of(&mut world, &clients);
    let moved: Vec<_> = clients.iter().filter(|client| before[client] != after[client]).collect();
    assert!(moved.iter().all(|client| before[client] == Slot(3)), "somebody else's clients have moved");
    assert_eq!(moved.len(), before.values().filter(|slot| **slot == Slot(3)).count());
    assert!((60..=140).contains(&moved.len()), "{} of 800 had one of 8 slots", moved.len());
    // They go to all the others.
    let mut heirs: Vec<_> = moved.iter().map(|client| after[client]).collect();
    heirs.sort();
    heirs.dedup();
    assert_eq!(heirs.len(), 7);
    world.feed(Event::WeightAsked { slot: Slot(3), weight: 1 });
    assert_eq!(before, slots_of(&mut world, &clients), "and come back");
}

#[test]
fn more_slots_take_clients_from_all_and_move_no_others() {
    let mut world = serving(OfferedPolicy::Hash, 4);
    let clients: Vec<_> = (0..400).collect();
    let before = slots_of(&mut world, &clients);
    world.feed(Event::ScaleAsked { to: Scale::To(5) });
    world.all_ready();
    let after = slots_of(&mut world, &clients);
    let moved: Vec<_> = clients.iter().filter(|client| before[client] != after[client]).collect();
    assert!(moved.iter().all(|client| after[client] == Slot(4)));
    assert!((50..=110).contains(&moved.len()), "{} of 400 moved to one of 5 slots", moved.len());
}

#[test]
fn shares_of_clients_follow_the_weights() {
    let mut world = serving(OfferedPolicy::Hash, 2);
    weigh(&mut world, &[3, 1]);
    let clients: Vec<_> = (0..1_000).collect();
    let first = slots_of(&mut world, &clients).values().filter(|slot| **slot == Slot(0)).count();
    assert!((700..=800).contains(&first), "{first} of 1000");
}

#[test]
fn client_without_an_address_goes_by_turns_under_hash() {
    let mut world = serving(OfferedPolicy::Hash, 4);
    world.keys.extend([None; 40]);
    connect_singly(&mut world, 40);
    assert_eq!(taken(&world), [10; 4]);
}

/// A client whose slot is that of worker 1.
fn client_of_the_first(world: &mut World) -> u64 {
    let clients: Vec<_> = (0..100).collect();
    let slots = slots_of(world, &clients);
    *clients.iter().find(|client| slots[client] == Slot(0)).unwrap()
}

#[test]
fn client_waits_for_its_own_worker_for_a_moment_and_then_passes() {
    let mut world = serving(OfferedPolicy::Hash, 2);
    let client = client_of_the_first(&mut world);
    world.set_mood(1, Mood::Blocked);
    let before = taken(&world);
    world.keys.extend([Some(client); 6]);
    world.connect(6);
    assert_eq!((world.untaken(1), world.machine.queued(PORT)), (4, 2), "its credit is four");
    world.pass_millis(40);
    assert_eq!((world.untaken(1), world.machine.queued(PORT)), (4, 2));
    world.pass_millis(30);
    assert_eq!(world.machine.queued(PORT), 0);
    assert!(taken(&world)[1] >= before[1] + 2);
    world.set_mood(1, Mood::Prompt);
    world.pass_millis(100);
    let before = taken(&world);
    world.keys.push_back(Some(client));
    world.connect(1);
    assert_eq!(taken(&world)[0], before[0] + 1, "it has its worker back");
}

#[test]
fn client_that_waits_gets_its_worker_as_soon_as_that_has_credit() {
    let mut world = serving(OfferedPolicy::Hash, 2);
    let client = client_of_the_first(&mut world);
    world.set_mood(1, Mood::Blocked);
    let before = taken(&world);
    world.keys.extend([Some(client); 6]);
    world.connect(6);
    world.set_mood(1, Mood::Prompt);
    assert_eq!(taken(&world), [before[0] + 6, before[1]]);
}

#[test]
fn waiting_clients_of_one_worker_hold_up_no_others() {
    let mut world = serving(OfferedPolicy::Hash, 2);
    let client = client_of_the_first(&mut world);
    let other = (0..).find(|other| slots_of(&mut world, &[*other])[other] == Slot(1)).unwrap();
    world.set_mood(1, Mood::Blocked);
    let before = taken(&world)[1];
    world.keys.extend([Some(client); 7]);
    world.keys.push_back(Some(other));
    world.connect(8);
    assert_eq!((world.machine.queued(PORT), taken(&world)[1]), (3, before + 1));
}

#[test]
fn policy_changes_while_connections_wait() {
    for (from, to) in OFFERED.into_iter().flat_map(|from| OFFERED.map(|to| (from, to))) {
        let mut world = serving(from, 2);
        world.set_mood(1, Mood::Blocked);
        world.set_mood(2, Mood::Blocked);
        world.connect(12);
        let waiting = world.machine.queued(PORT);
        assert!(waiting > 0);
        world.feed(Event::PolicyAsked { listener: PORT, policy: to });
        assert_eq!((world.machine.policy(PORT), world.machine.queued(PORT)), (Some(to), waiting), "{from:?} {to:?}");
        world.set_mood(1, Mood::Prompt);
        world.set_mood(2, Mood::Prompt);
        world.pass_millis(200);
        assert_eq!(taken(&world).into_iter().sum::<u64>(), 12, "{from:?} {to:?}");
    }
}

#[test]
fn stolen_and_refused_connections_find_another_worker_under_every_policy() {
    for policy in OFFERED {
        let mut world = serving(policy, 3);
        world.set_mood(1, Mood::Blocked);
        world.set_mood(2, Mood::Refusing);
        world.connect(9);
        world.pass_millis(1_000);
        assert_eq!(taken(&world), [0, 0, 9], "{policy:?}");
    }
}

fn limited(policy: OfferedPolicy, shed: bool) -> World {
    serving_with(policy, Settings { max_connections: Some(3), shed, ..World::settings() })
}

#[test]
fn worker_has_no_more_connections_than_it_may_and_the_rest_wait_in_the_kernel() {
    for policy in OFFERED {
        let mut world = limited(policy, false);
        world.connect(10);
        world.pass_millis(500);
        assert_eq!(taken(&world), [3, 3], "{policy:?}");
        assert_eq!((world.backlog(PORT), world.machine.queued(PORT)), (4, 0), "{policy:?}");
        world.end(2, 1);
        assert_eq!((taken(&world), world.backlog(PORT)), (vec![3, 4], 3), "{policy:?}");
        world.end(1, 3);
        assert_eq!((taken(&world), world.backlog(PORT)), (vec![6, 4], 0), "{policy:?}");
    }
}

#[test]
fn offers_that_nobody_took_count_against_the_limit() {
    let mut world = limited(OfferedPolicy::RoundRobin, false);
    world.set_mood(1, Mood::Blocked);
    world.connect(4);
    assert_eq!((world.untaken(1), world.worker(2).active), (2, 2));
    world.connect(4);
    assert_eq!((world.untaken(1), world.worker(2).active, world.backlog(PORT)), (3, 3, 2));
}

#[test]
fn full_worker_steals_nothing() {
    let mut world = limited(OfferedPolicy::RoundRobin, false);
    world.set_mood(1, Mood::Blocked);
    world.connect(6);
    world.pass_millis(300);
    assert_eq!((world.untaken(1), world.worker(2).active), (3, 3));
    world.end(2, 2);
    world.pass_millis(300);
    assert_eq!((world.untaken(1), taken(&world)[1]), (1, 5));
}

#[test]
fn connections_that_no_worker_may_have_are_shed_if_that_is_wanted() {
    let mut world = limited(OfferedPolicy::RoundRobin, true);
    world.connect(10);
    assert_eq!(taken(&world), [3, 3]);
    assert_eq!(world.count(|action| matches!(action, Action::Shed { .. })), 4);
    assert_eq!((world.backlog(PORT), world.machine.queued(PORT)), (0, 0));
    world.end(1, 1);
    world.connect(2);
    assert_eq!(taken(&world), [4, 3]);
    assert_eq!(world.count(|action| matches!(action, Action::Shed { .. })), 5);
}

#[test]
fn nothing_is_shed_while_a_worker_only_lacks_credit() {
    let settings = Settings { max_connections: Some(100), shed: true, ..World::settings() };
    let mut world = serving_with(OfferedPolicy::RoundRobin, settings);
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(30);
    world.pass_millis(40);
    assert_eq!(world.count(|action| matches!(action, Action::Shed { .. })), 0);
}

#[test]
fn limit_is_that_of_the_worker_s_generation() {
    let mut world = limited(OfferedPolicy::RoundRobin, false);
    world.plan.settings.max_connections = None;
    world.connect(10);
    assert_eq!(world.backlog(PORT), 4);
    world.reload(1);
    world.all_ready();
    assert_eq!((world.backlog(PORT), world.worker(3).active + world.worker(4).active), (0, 4));
}

#[test]
fn loads_are_read_once_for_many_connections() {
    let mut world = serving(OfferedPolicy::Least, 4);
    assert!(world.machine.wants_loads(PORT, world.now));
    world.connect(1);
    assert!(!world.machine.wants_loads(PORT, world.now), "one connection later they are as good as new");
    world.connect(3);
    assert!(world.machine.wants_loads(PORT, world.now), "as many connections as workers have come");
    world.connect(1);
    world.pass_millis(10);
    assert!(world.machine.wants_loads(PORT, world.now), "they are old");
    world.feed(Event::PolicyAsked { listener: PORT, policy: OfferedPolicy::RoundRobin });
    assert!(!world.machine.wants_loads(PORT, world.now), "turns do not go by loads");
}

#[test]
fn weight_that_is_taken_back_costs_nothing_more() {
    let mut world = World::serving();
    world.feed(Event::WeightAsked { slot: Slot(0), weight: 3 });
    assert!(world.machine.wants_loads(PORT, world.now));
    world.feed(Event::WeightAsked { slot: Slot(0), weight: 1 });
    assert!(!world.machine.wants_loads(PORT, world.now));
}
