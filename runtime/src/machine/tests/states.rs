//! The table of a worker's states and events in ARCHITECTURE.md, as the machine itself makes it.

use std::time::Duration;

use everport_handoff::id::WorkerId;

use super::super::orders::KILL_GRACE;
use super::super::*;
use super::is_in_the_architecture;
use super::world::{Mood, World};

const STATES: [&str; 10] =
    ["starting", "ready", "active", "paused", "leaving", "draining", "drained", "silent", "hung", "killed"];

const EVENTS: [&str; 11] = [
    "`Ready`",
    "`Leave`",
    "`Drained`",
    "channel closed",
    "no beat",
    "pause",
    "resume",
    "generation retired",
    "kill asked",
    "deadline",
    "process exits",
];

/// A world with a worker in this state. The worker belongs to the active generation, if that is possible.
fn world_with(state: &str) -> (World, u64) {
    let care = Care { hang_timeout: Some(Duration::from_secs(4)), ..World::settings().care };
    let mut world = World::with(Settings { care, ..World::settings() });
    world.bind(super::world::PORT, Spread::Offered, true);
    world.feed(Event::Started);
    world.all_ready();
    world.dies_slowly = true;
    let worker = match state {
        "starting" => {
            world.exit(1, 1);
            3
        }
        "ready" => {
            world.reload(1);
            world.ready(3);
            3
        }
        _ => 1,
    };
    match state {
        "paused" => world.feed(Event::PauseAsked),
        "leaving" => world.feed(Event::WorkerLeaving { worker: WorkerId(1) }),
        "draining" | "drained" => {
            world.reload(1);
            world.all_ready();
        }
        "silent" => world.feed(Event::ChannelClosed { worker: WorkerId(1) }),
        "hung" => hang(&mut world, 1),
        "killed" => {
            world.kill(1);
            world.pass(KILL_GRACE);
        }
        _ => {}
    }
    if state == "drained" {
        world.feed(Event::WorkerDrained { worker: WorkerId(1) });
    }
    assert_eq!(name(&world, worker), state);
    (world, worker)
}

fn hang(world: &mut World, worker: u64) {
    world.set_mood(worker, Mood::Blocked);
    world.pass(Duration::from_secs(5));
}

fn name(world: &World, worker: u64) -> &'static str {
    match world.state(worker) {
        None => "gone",
        Some(WorkerState::Starting { .. }) => "starting",
        Some(WorkerState::Ready { .. }) => "ready",
        Some(WorkerState::Active { .. }) => "active",
        Some(WorkerState::Paused { .. }) => "paused",
        Some(WorkerState::Leaving { .. }) => "leaving",
        Some(WorkerState::Draining { .. }) => "draining",
        Some(WorkerState::Drained { .. }) => "drained",
        Some(WorkerState::Silent { .. }) => "silent",
        Some(WorkerState::Hung { .. }) => "hung",
        Some(WorkerState::Killed { .. }) => "killed",
    }
}

/// What becomes of a worker in this state, or nothing.
fn after(state: &str, event: &str) -> &'static str {
    let (mut world, id) = world_with(state);
    let worker = WorkerId(id);
    match event {
        "`Ready`" => world.feed(Event::WorkerReady { worker }),
        "`Leave`" => world.feed(Event::WorkerLeaving { worker }),
        "`Drained`" => world.feed(Event::WorkerDrained { worker }),
        "channel closed" => world.feed(Event::ChannelClosed { worker }),
        // Of these something else is awaited, and that comes sooner.
        "no beat" if !matches!(state, "silent" | "hung" | "killed") => hang(&mut world, id),
        "pause" => world.feed(Event::PauseAsked),
        "resume" => world.feed(Event::ResumeAsked),
        "generation retired" if state == "ready" => world.stop(),
        "generation retired" => {
            world.reload(2);
            let newest = world.machine.workers().map(|view| view.generation).max();
            let started = world.machine.workers().filter(|view| Some(view.generation) == newest);
            for new in started.map(|view| view.worker.0).collect::<Vec<_>>() {
                world.ready(new);
            }
        }
        "kill asked" => world.kill(id),
        "deadline" => {
            if let Some(deadline) = world.state(id).and_then(WorkerState::deadline) {
                world.pass(deadline - world.now);
            }
        }
        "process exits" => world.exit(id, 0),
        _ => {}
    }
    let name = name(&world, id);
    if name == state { "" } else { name }
}

#[test]
fn the_table_of_worker_states_in_the_architecture_is_true() {
    is_in_the_architecture("worker", &STATES, &EVENTS, after);
}
