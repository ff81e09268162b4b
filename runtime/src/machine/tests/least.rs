//! Policy `least`: that long-lived connections are level, however they come and whoever is slow.

use everport_handoff::id::{Slot, WorkerId};

use super::super::random::Random;
use super::super::*;
use super::policies::{connect_singly, serving, serving_with, taken, weigh};
use super::world::{Mood, PORT, World};

#[test]
fn least_keeps_the_busiest_within_a_twentieth_of_the_mean() {
    let mut world = serving(OfferedPolicy::Least, 8);
    let mut random = Random::new(5);
    for _ in 0..400 {
        world.connect(1 + random.below(12) as usize);
        // Long-lived connections end at random, and not evenly.
        for worker in 1..=8 {
            let ended = if random.below(8) == 0 { random.below(1 + worker) } else { 0 };
            world.end(worker, ended);
        }
        world.pass_millis(15);
    }
    let active: Vec<_> = world.workers.values().map(|process| process.active).collect();
    let mean = active.iter().sum::<u64>() / 8;
    assert!(mean > 60 && active.iter().all(|active| active.abs_diff(mean) * 20 <= mean), "{active:?}");
}

#[test]
fn least_does_not_herd_within_one_batch() {
    let mut world = serving(OfferedPolicy::Least, 4);
    for worker in 1..=4 {
        world.set_mood(worker, Mood::Blocked);
    }
    world.connect(16);
    assert_eq!([1, 2, 3, 4].map(|worker| world.untaken(worker)), [4; 4]);
}

#[test]
fn least_counts_by_weight() {
    let mut world = serving(OfferedPolicy::Least, 2);
    weigh(&mut world, &[3, 1]);
    connect_singly(&mut world, 400);
    assert_eq!(taken(&world), [300, 100]);
}

#[test]
fn least_gives_a_new_worker_what_the_others_have_too_much() {
    let settings = Settings { workers: 3, credit: 16, ..World::settings() };
    let mut world = serving_with(OfferedPolicy::Least, settings);
    connect_singly(&mut world, 30);
    world.exit(2, 1);
    world.all_ready();
    connect_singly(&mut world, 10);
    assert_eq!(world.worker(4).active, 10);
}

/// Whether no worker has more than a twentieth more than its part of the mean.
fn is_level(world: &World, weights: &[u64]) -> bool {
    let active: Vec<_> = world.workers.values().map(|process| process.active).collect();
    let (all, parts): (u64, u64) = (active.iter().sum(), weights.iter().sum());
    let is_within = |(active, weight): (&u64, &u64)| active * parts * 20 <= all * weight * 21;
    active.iter().zip(weights).all(is_within)
}

/// Clients come all at once, to workers that take one offer each time it is their turn: by chance, and the first has three
/// turns while the others have one.
fn burst(world: &mut World, workers: u64, clients: usize) {
    for worker in 1..=workers {
        world.set_mood(worker, Mood::Blocked);
    }
    let mut random = Random::new(7);
    world.connect(clients);
    for turn in 0..100 * clients {
        if taken(world).into_iter().sum::<u64>() == clients as u64 {
            return;
        }
        let worker = (1 + random.below(workers + 2)).min(workers);
        world.act(WorkerId(workers + 1 - worker), true);
        world.run();
        if turn % 4 == 0 {
            world.pass_millis(1);
        }
    }
    panic!("not everybody is served: {:?}", taken(world));
}

#[test]
fn burst_is_level_although_one_worker_takes_faster() {
    for (workers, clients) in [(2, 100), (4, 200), (8, 800)] {
        let mut world = serving(OfferedPolicy::Least, workers);
        burst(&mut world, workers.into(), clients);
        assert!(is_level(&world, &vec![1; workers as usize]), "{:?}", taken(&world));
        assert_eq!(world.count(|action| matches!(action, Action::Revoke { .. })), 0, "nobody was late");
    }
}

#[test]
fn burst_follows_the_weights() {
    let mut world = serving(OfferedPolicy::Least, 4);
    weigh(&mut world, &[1, 3, 2, 2]);
    burst(&mut world, 4, 800);
    assert!(is_level(&world, &[1, 3, 2, 2]), "{:?}", taken(&world));
}

/// The first has no credit, and less than the other.
fn one_behind() -> World {
    let mut world = serving(OfferedPolicy::Least, 2);
    world.set_mood(1, Mood::Blocked);
    world.connect(10);
    assert_eq!((world.untaken(1), taken(&world)[1], world.machine.queued(PORT)), (4, 5, 1), "its credit is four");
    world
}

#[test]
fn connection_waits_for_the_one_with_the_fewest_and_goes_to_it_as_soon_as_it_can() {
    let mut world = one_behind();
    world.pass_millis(40);
    assert_eq!(world.machine.queued(PORT), 1);
    world.act(WorkerId(1), true);
    world.run();
    assert_eq!((world.machine.queued(PORT), world.untaken(1), taken(&world)), (0, 4, vec![1, 5]));
}

#[test]
fn nobody_waits_for_a_worker_that_hangs_longer_than_it_is_worth() {
    let mut world = one_behind();
    world.pass_millis(51);
    assert_eq!(world.machine.queued(PORT), 0);
    assert_eq!(taken(&world), [0, 10], "what lay before it was stolen");
    world.connect(20);
    assert_eq!((world.machine.queued(PORT), taken(&world)), (0, vec![0, 30]), "it is not waited for again");
}

#[test]
fn nobody_waits_for_a_worker_that_drains_is_full_or_has_gone() {
    let ends: [fn(&mut World); 3] = [
        |world| world.feed(Event::WorkerLeaving { worker: WorkerId(1) }),
        |world| world.exit(1, 1),
        |world| world.feed(Event::WeightAsked { slot: Slot(0), weight: 0 }),
    ];
    for (which, end) in ends.into_iter().enumerate() {
        let mut world = one_behind();
        end(&mut world);
        if which == 0 {
            world.all_ready();
        }
        world.connect(2);
        assert_eq!(world.machine.queued(PORT), 0, "{which}");
    }
    let settings = Settings { max_connections: Some(4), ..World::settings() };
    let mut world = serving_with(OfferedPolicy::Least, settings);
    world.set_mood(1, Mood::Blocked);
    world.connect(8);
    world.end(2, 1);
    world.connect(1);
    assert_eq!((world.machine.queued(PORT), taken(&world)), (0, vec![0, 5]));
}

#[test]
fn connection_that_the_awaited_one_has_refused_does_not_wait_for_it() {
    let mut world = one_behind();
    world.act(WorkerId(1), false);
    world.run();
    // The one that waited has its place; the one that it refused goes to the other at once.
    assert_eq!((world.untaken(1), taken(&world)[1], world.machine.queued(PORT)), (4, 6, 0));
}
