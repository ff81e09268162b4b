//! The reload transaction: ready before active, committed or rolled back, never in between.

use std::time::Duration;

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::super::*;
use super::world::{Mood, PORT, World};

fn position(world: &World, wanted: &Action) -> usize {
    world.log.iter().position(|action| action == wanted).expect("an action that was ordered")
}

fn rolled_back(world: &World) -> &Failure {
    match world.outcome() {
        Some(Outcome::RolledBack(failure)) => failure,
        other => panic!("not rolled back: {other:?}"),
    }
}

#[test]
fn first_generation_is_activated_when_all_its_workers_are_ready() {
    let mut world = World::starting();
    world.ready(1);
    assert_eq!(world.active_generation(), None);
    assert_eq!(world.machine.room(PORT), 0);
    world.ready(2);
    assert_eq!(world.active_generation(), Some(1));
    assert!(world.did(&Action::Activate { worker: WorkerId(1) }));
    assert!(world.did(&Action::Activate { worker: WorkerId(2) }));
    assert!(world.machine.room(PORT) > 0);
}

#[test]
fn failure_of_the_first_generation_ends_the_master_when_all_have_gone() {
    let mut world = World::starting();
    world.dies_slowly = true;
    world.exit(1, 3);
    assert_eq!(world.killed(2), Some(KillReason::RolledBack));
    assert_eq!(world.finished(), None);
    world.exit(2, 0);
    let failure = Failure::Exited { slot: Slot(0), worker: WorkerId(1), exit: Exit::Code(3) };
    assert_eq!(world.finished(), Some(&Some(failure)));
}

#[test]
fn program_that_does_not_exist_ends_the_master_with_the_reason() {
    let mut world = World::with(World::settings());
    world.next_spawn_fails = true;
    world.feed(Event::Started);
    let failure = Failure::SpawnFailed { slot: Slot(0), reason: "no such file".into() };
    assert_eq!(world.finished(), Some(&Some(failure)));
}

#[test]
fn reload_asked_while_the_first_generation_starts_begins_when_that_is_active() {
    let mut world = World::starting();
    world.reload(1);
    assert_eq!(world.machine.reload(), ReloadView::Pending { why: None });
    world.all_ready();
    let generation = Generation(2);
    assert_eq!(world.machine.reload(), ReloadView::Running { generation, step: StepView::Starting, pending: false });
    assert!(world.did(&Action::ReloadStarted { generation, tickets: vec![Ticket(1)] }));
}

#[test]
fn new_generation_is_activated_before_the_old_one_drains() {
    let mut world = World::serving();
    world.reload(7);
    world.pass_millis(5);
    world.ready(3);
    assert_eq!(world.active_generation(), Some(1), "not before all are ready");
    world.ready(4);
    assert_eq!(world.active_generation(), Some(2));
    let deadline = world.now + world.settings.drain_timeout;
    let activated = position(&world, &Action::Activate { worker: WorkerId(4) });
    let drained = position(&world, &Action::Drain { worker: WorkerId(1), deadline, successor: true });
    assert!(activated < drained);
    let ended = Action::ReloadEnded {
        generation: Generation(2),
        tickets: vec![Ticket(7)],
        outcome: Outcome::Committed,
        phases: Phases { starting: Duration::from_millis(5), probation: Duration::ZERO },
        retired: Some(Generation(1)),
    };
    assert!(world.did(&ended));
}

#[test]
fn untaken_offers_of_a_draining_generation_go_to_the_new_one() {
    let mut world = World::serving();
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(10);
    world.reload(1);
    world.all_ready();
    world.pass_millis(100);
    assert_eq!(world.taken(3) + world.taken(4), 10);
    assert!(!world.copies.is_empty(), "the old ones still hold revoked copies");
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    assert!(world.copies.is_empty());
}

#[test]
fn reload_keeps_old_generation_when_new_one_never_gets_ready() {
    let mut world = World::serving();
    world.reload(1);
    world.ready(3);
    world.pass_millis(10_000);
    let after = Duration::from_secs(10);
    assert_eq!(*rolled_back(&world), Failure::NotReady { slot: Slot(1), worker: WorkerId(4), after });
    assert_eq!(world.killed(3), Some(KillReason::RolledBack));
    assert_eq!(world.killed(4), Some(KillReason::NotReady));
    assert_eq!(world.active_generation(), Some(1));
    assert_eq!(world.count(|action| matches!(action, Action::Drain { .. } | Action::Activate { .. })), 0);
    world.connect(2);
    world.pass_millis(50);
    assert_eq!((world.taken(1), world.taken(2)), (1, 1));
}

#[test]
fn reload_is_rolled_back_when_a_new_worker_exits() {
    let mut world = World::serving();
    world.reload(1);
    world.exit(4, 9);
    let exit = Exit::Code(9);
    assert_eq!(*rolled_back(&world), Failure::Exited { slot: Slot(1), worker: WorkerId(4), exit });
}

#[test]
fn reload_is_rolled_back_when_a_ready_worker_exits_before_the_others_are_ready() {
    let mut world = World::serving();
    world.reload(1);
    world.ready(3);
    world.exit(3, 0);
    assert!(matches!(rolled_back(&world), Failure::Exited { worker: WorkerId(3), .. }));
}

#[test]
fn reload_is_rolled_back_when_a_process_cannot_be_started() {
    let mut world = World::serving();
    world.next_spawn_fails = true;
    world.reload(1);
    assert!(matches!(rolled_back(&world), Failure::SpawnFailed { slot: Slot(0), .. }));
    assert_eq!(world.killed(4), Some(KillReason::RolledBack));
    assert_eq!(world.machine.generations().count(), 1);
}

#[test]
fn reload_is_rolled_back_when_a_worker_is_incompatible_or_breaks_the_protocol_or_leaves() {
    let (worker, slot) = (WorkerId(3), Slot(0));
    let reason = || "version 9".to_owned();
    let cases = [
        (
            Event::WorkerIncompatible { worker, reason: reason() },
            Failure::Incompatible { slot, worker, reason: reason() },
        ),
        (Event::WorkerBroke { worker, reason: reason() }, Failure::Broke { slot, worker, reason: reason() }),
        (Event::WorkerLeaving { worker }, Failure::Left { slot, worker }),
    ];
    for (event, failure) in cases {
        let mut world = World::serving();
        world.reload(1);
        world.feed(event);
        assert_eq!(*rolled_back(&world), failure);
        assert_eq!(world.killed(worker.0), Some(KillReason::of(&failure)));
        assert_eq!(world.active_generation(), Some(1));
    }
}

#[test]
fn reload_tells_the_exit_of_a_worker_that_closed_its_channel_before() {
    let mut world = World::serving();
    world.reload(1);
    world.feed(Event::ChannelClosed { worker: WorkerId(3) });
    world.exit(3, 1);
    assert!(matches!(rolled_back(&world), Failure::Exited { worker: WorkerId(3), exit: Exit::Code(1), .. }));
}

#[test]
fn late_words_of_a_generation_that_failed_change_nothing() {
    let mut world = World::serving();
    world.dies_slowly = true;
    world.reload(1);
    world.exit(4, 1);
    world.log.clear();
    world.feed(Event::WorkerReady { worker: WorkerId(3) });
    world.feed(Event::WorkerLeaving { worker: WorkerId(3) });
    world.feed(Event::WorkerReady { worker: WorkerId(99) });
    assert_eq!(world.log, []);
}

#[test]
fn reloads_asked_during_a_reload_become_one_more() {
    let mut world = World::serving();
    for ticket in 1..=4 {
        world.reload(ticket);
    }
    world.all_ready();
    let started = |action: &Action| matches!(action, Action::ReloadStarted { .. });
    assert_eq!(world.count(started), 2);
    let tickets = vec![Ticket(2), Ticket(3), Ticket(4)];
    assert!(world.did(&Action::ReloadStarted { generation: Generation(3), tickets }));
    world.all_ready();
    assert_eq!(world.count(started), 2);
    assert!(world.tickets.values().all(|told| *told == 1));
}

#[test]
fn pending_reload_begins_after_a_rollback_too() {
    let mut world = World::serving();
    world.reload(1);
    world.reload(2);
    world.exit(3, 1);
    assert!(world.did(&Action::ReloadStarted { generation: Generation(3), tickets: vec![Ticket(2)] }));
    world.all_ready();
    assert_eq!(world.active_generation(), Some(3));
}

#[test]
fn crashed_worker_of_the_old_generation_is_replaced_during_a_reload() {
    let mut world = World::serving();
    world.reload(1);
    world.exit(1, 1);
    let respawn = Action::Spawn { worker: WorkerId(5), slot: Slot(0), generation: Generation(1) };
    assert!(world.did(&respawn));
    world.ready(5);
    assert!(world.did(&Action::Activate { worker: WorkerId(5) }));
}

#[test]
fn replacement_that_is_not_ready_at_the_commit_is_killed() {
    let mut world = World::serving();
    world.reload(1);
    world.exit(1, 1);
    world.ready(3);
    world.ready(4);
    assert_eq!(world.killed(5), Some(KillReason::NotNeeded));
    assert!(matches!(world.state(2), Some(WorkerState::Draining { .. })));
    assert_eq!(world.count(|action| matches!(action, Action::Spawn { .. })), 3);
}

#[test]
fn several_old_generations_drain_at_once_and_vanish_with_their_last_worker() {
    let mut world = World::serving();
    for ticket in 1..=3 {
        world.reload(ticket);
        world.all_ready();
    }
    assert_eq!(world.machine.generations().count(), 4);
    for worker in 1..=4 {
        world.exit(worker, 0);
    }
    let left: Vec<_> = world.machine.generations().map(|(generation, _)| generation.0).collect();
    assert_eq!(left, [3, 4]);
}

#[test]
fn status_tells_who_is_in_which_state_since_when() {
    let mut world = World::serving();
    let begin = world.now;
    world.pass_millis(5);
    world.reload(1);
    world.reload(2);
    let generation = Generation(2);
    assert_eq!(world.machine.reload(), ReloadView::Running { generation, step: StepView::Starting, pending: true });
    let workers: Vec<_> = world.machine.workers().map(|view| (view.state.since() - begin).as_millis()).collect();
    assert_eq!(workers, [0, 0, 5, 5]);
    let generations: Vec<_> =
        world.machine.generations().map(|(_, state)| (state.since() - begin).as_millis()).collect();
    assert_eq!(generations, [0, 5]);
    world.connect(3);
    world.pass_millis(50);
    let counters: Vec<_> = world.machine.workers().map(|view| (view.counters.offered, view.counters.taken)).collect();
    assert_eq!(counters, [(2, 2), (1, 1), (0, 0), (0, 0)]);
}
