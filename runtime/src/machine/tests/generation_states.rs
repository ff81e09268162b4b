//! The table of a generation's states and events in ARCHITECTURE.md, as the machine itself makes it.

use std::time::Duration;

use everport_handoff::id::Generation;

use super::super::*;
use super::is_in_the_architecture;
use super::world::World;

const STATES: [&str; 6] = ["starting", "probation", "active", "paused", "draining", "failed"];

const EVENTS: [&str; 7] = [
    "all are ready",
    "a worker crashes",
    "rollback",
    "probation over",
    "next one all ready",
    "stop",
    "last worker gone",
];

const PROBATION: Duration = Duration::from_secs(5);

/// A world with a generation in this state.
fn world_with(state: &str) -> (World, Generation) {
    let mut world = World::serving_with(Settings { probation: PROBATION, ..World::settings() });
    world.dies_slowly = true;
    if state != "active" {
        world.reload(1);
    }
    match state {
        "probation" | "paused" => world.all_ready(),
        "draining" => {
            world.all_ready();
            world.pass(PROBATION);
        }
        "failed" => world.exit(3, 9),
        _ => {}
    }
    let generation = match state {
        "active" | "paused" | "draining" => Generation(1),
        _ => Generation(2),
    };
    assert_eq!(name(&world, generation), state);
    (world, generation)
}

fn name(world: &World, generation: Generation) -> &'static str {
    match world.machine.generations().find(|(id, _)| *id == generation).map(|(_, state)| state) {
        None => "gone",
        Some(GenerationState::Starting { .. }) => "starting",
        Some(GenerationState::Probation { .. }) => "probation",
        Some(GenerationState::Active { .. }) => "active",
        Some(GenerationState::Paused { .. }) => "paused",
        Some(GenerationState::Draining { .. }) => "draining",
        Some(GenerationState::Failed { .. }) => "failed",
    }
}

/// What becomes of a generation in this state, or nothing.
fn after(state: &str, event: &str) -> &'static str {
    let (mut world, generation) = world_with(state);
    let workers: Vec<_> =
        world.machine.workers().filter(|view| view.generation == generation).map(|view| view.worker.0).collect();
    match event {
        "all are ready" if state == "starting" => world.all_ready(),
        "a worker crashes" if workers.len() > 1 => world.exit(workers[0], 9),
        "rollback" => world.roll_back(9),
        "probation over" => world.pass(PROBATION),
        "next one all ready" => {
            world.reload(9);
            let newest = world.machine.workers().map(|view| view.generation).max();
            if newest > Some(generation) {
                world.all_ready();
            }
        }
        "stop" => world.stop(),
        "last worker gone" if matches!(state, "draining" | "failed") => {
            workers.into_iter().for_each(|worker| world.exit(worker, 0));
        }
        _ => {}
    }
    let name = name(&world, generation);
    if name == state { "" } else { name }
}

#[test]
fn the_table_of_generation_states_in_the_architecture_is_true() {
    is_in_the_architecture("generation", &STATES, &EVENTS, after);
}
