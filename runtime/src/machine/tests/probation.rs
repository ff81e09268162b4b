//! After the activation: probation, rollback, reloads slot by slot, and the budget of what drains.

use std::time::Duration;

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::super::*;
use super::world::{Mood, World};

const PROBATION: Duration = Duration::from_secs(5);

fn probation() -> Settings {
    Settings { probation: PROBATION, ..World::settings() }
}

fn rolling() -> Settings {
    Settings { workers: 3, strategy: Strategy::Rolling, ..World::settings() }
}

/// The workers 1 and 2 are paused, 3 and 4 serve.
fn on_probation() -> World {
    let mut world = World::serving_with(probation());
    world.reload(1);
    world.all_ready();
    world
}

fn states(world: &World) -> Vec<(u64, &'static str)> {
    let name = |state| match state {
        WorkerState::Starting { .. } => "starting",
        WorkerState::Ready { .. } => "ready",
        WorkerState::Active { .. } => "active",
        WorkerState::Paused { .. } => "paused",
        WorkerState::Draining { .. } => "draining",
        WorkerState::Killed { .. } => "killed",
        _ => "other",
    };
    world.machine.workers().map(|view| (view.worker.0, name(view.state))).collect()
}

fn position(world: &World, wanted: &Action) -> usize {
    world.log.iter().position(|action| action == wanted).expect("an action that was ordered")
}

fn crashed(slot: u32, worker: u64) -> Outcome {
    Outcome::RolledBack(Failure::Crashed { slot: Slot(slot), worker: WorkerId(worker), exit: Exit::Code(9) })
}

#[test]
fn old_generation_is_paused_after_the_new_one_is_activated_and_drains_when_time_is_up() {
    let mut world = on_probation();
    assert_eq!(states(&world), [(1, "paused"), (2, "paused"), (3, "active"), (4, "active")]);
    let pause = position(&world, &Action::Pause { worker: WorkerId(1) });
    assert!(position(&world, &Action::Activate { worker: WorkerId(4) }) < pause);
    assert_eq!(world.outcome(), None, "whoever waits learns the outcome, not the step");
    world.pass(PROBATION - Duration::from_millis(1));
    assert_eq!(world.outcome(), None);
    world.pass_millis(1);
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert_eq!(states(&world), [(1, "draining"), (2, "draining"), (3, "active"), (4, "active")]);
    let phases = Phases { starting: Duration::ZERO, probation: PROBATION };
    let retired = Some(Generation(1));
    let (generation, tickets, outcome) = (Generation(2), vec![Ticket(1)], Outcome::Committed);
    assert!(world.did(&Action::ReloadEnded { generation, tickets, outcome, phases, retired }));
}

#[test]
fn untaken_offers_of_a_paused_generation_go_to_the_new_one_and_back_at_a_rollback() {
    let mut world = World::serving_with(probation());
    world.set_mood(1, Mood::Blocked);
    world.set_mood(2, Mood::Blocked);
    world.connect(4);
    world.reload(1);
    let starting: Vec<_> = world.machine.workers().map(|view| view.worker.0).filter(|id| *id > 2).collect();
    starting.iter().for_each(|id| world.set_mood(*id, Mood::Blocked));
    world.all_ready();
    assert_eq!((world.untaken(1), world.untaken(2), world.untaken(3) + world.untaken(4)), (0, 0, 4));
    world.set_mood(1, Mood::Prompt);
    world.set_mood(2, Mood::Prompt);
    world.roll_back(2);
    world.pass_millis(50);
    assert_eq!((world.untaken(3) + world.untaken(4), world.taken(1) + world.taken(2)), (0, 4));
}

#[test]
fn crash_on_probation_resumes_the_old_generation_before_the_new_one_drains() {
    let mut world = on_probation();
    world.log.clear();
    world.exit(4, 9);
    assert_eq!(world.outcome(), Some(&crashed(1, 4)));
    assert_eq!(states(&world), [(1, "active"), (2, "active"), (3, "draining")]);
    let deadline = world.now + world.settings.drain_timeout;
    let drain = position(&world, &Action::Drain { worker: WorkerId(3), deadline, successor: true });
    assert!(position(&world, &Action::Activate { worker: WorkerId(2) }) < drain);
    assert_eq!(world.count(|action| matches!(action, Action::Spawn { .. })), 0);
    world.connect(2);
    world.pass_millis(50);
    assert_eq!(world.taken(1) + world.taken(2), 2);
    world.exit(3, 0);
    let drained = |action: &Action| matches!(action, Action::GenerationDrained { generation: Generation(2), .. });
    assert_eq!(world.count(drained), 1);
}

#[test]
fn worker_that_breaks_the_protocol_or_goes_silent_on_probation_rolls_back() {
    let mut world = on_probation();
    world.feed(Event::WorkerBroke { worker: WorkerId(3), reason: "chance".into() });
    assert!(matches!(world.outcome(), Some(Outcome::RolledBack(Failure::Broke { .. }))));
    let mut world = on_probation();
    world.feed(Event::ChannelClosed { worker: WorkerId(3) });
    world.exit(3, 9);
    assert_eq!(world.outcome(), Some(&crashed(0, 3)));
}

#[test]
fn worker_that_leaves_on_probation_is_replaced_and_nothing_is_rolled_back() {
    let mut world = on_probation();
    world.feed(Event::WorkerLeaving { worker: WorkerId(3) });
    world.ready(5);
    assert_eq!(states(&world)[2..], [(3, "draining"), (4, "active"), (5, "active")]);
    world.exit(3, 0);
    assert_eq!(world.outcome(), None);
    world.pass(PROBATION);
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
}

#[test]
fn replacement_that_does_not_start_on_probation_rolls_back() {
    let mut world = on_probation();
    world.feed(Event::WorkerLeaving { worker: WorkerId(3) });
    world.exit(5, 9);
    let failure = Failure::Exited { slot: Slot(0), worker: WorkerId(5), exit: Exit::Code(9) };
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(failure)));
}

#[test]
fn paused_worker_that_dies_or_leaves_is_replaced_so_that_every_slot_can_be_resumed() {
    let mut world = on_probation();
    world.exit(1, 9);
    world.feed(Event::WorkerLeaving { worker: WorkerId(2) });
    world.all_ready();
    assert_eq!(states(&world), [(2, "draining"), (3, "active"), (4, "active"), (5, "ready"), (6, "ready")]);
    world.roll_back(2);
    assert_eq!(states(&world)[3..], [(5, "active"), (6, "active")]);
}

#[test]
fn reload_asked_for_on_probation_waits_for_its_end() {
    let mut world = on_probation();
    world.reload(2);
    let started = |world: &World| world.count(|action| matches!(action, Action::ReloadStarted { .. }));
    let step = StepView::Probation { until: world.now + PROBATION };
    let running = ReloadView::Running { generation: Generation(2), step, pending: true };
    assert_eq!((started(&world), world.machine.reload()), (1, running));
    world.pass(PROBATION);
    assert_eq!(started(&world), 2);
}

#[test]
fn rollback_answers_whoever_asked_for_it_and_for_the_reload() {
    let mut world = on_probation();
    world.roll_back(2);
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(Failure::Asked { ticket: Ticket(2) })));
    assert_eq!(world.tickets.values().copied().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(states(&world)[..2], [(1, "active"), (2, "active")]);
    world.roll_back(3);
    assert!(world.did(&Action::NothingToRollBack { ticket: Ticket(3) }));
}

#[test]
fn rollback_kills_a_generation_that_has_not_served_and_gives_up_a_reload_that_waits() {
    let mut world = World::serving();
    world.reload(1);
    world.roll_back(2);
    assert_eq!(states(&world), [(1, "active"), (2, "active")]);
    assert_eq!(world.killed(3), Some(KillReason::RolledBack));
    let mut world = World::serving_with(Settings { drain_generations: 1, ..World::settings() });
    world.reload(1);
    world.all_ready();
    world.reload(2);
    world.roll_back(3);
    assert_eq!((world.machine.reload(), world.tickets[&Ticket(2)]), (ReloadView::None, 1));
}

#[test]
fn stop_on_probation_ends_both_generations() {
    let mut world = on_probation();
    world.stop();
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(Failure::Stopped)));
    assert!(states(&world).iter().all(|(_, state)| *state == "draining"), "{:?}", states(&world));
    (1..=4).for_each(|worker| world.exit(worker, 0));
    assert_eq!(world.finished(), Some(&None));
}

#[test]
fn rolling_reload_replaces_slot_by_slot_and_drains_when_all_are_replaced() {
    let mut world = World::serving_with(rolling());
    world.reload(1);
    assert_eq!(states(&world)[3..], [(4, "starting")]);
    world.ready(4);
    let old = [(1, "paused"), (2, "active"), (3, "active")];
    assert_eq!(states(&world), [&old[..], &[(4, "active"), (5, "starting")]].concat());
    assert!(
        position(&world, &Action::Activate { worker: WorkerId(4) })
            < position(&world, &Action::Pause { worker: WorkerId(1) })
    );
    world.ready(5);
    assert_eq!(world.outcome(), None);
    world.ready(6);
    assert_eq!(world.outcome(), Some(&Outcome::Committed));
    assert!(states(&world)[..3].iter().all(|(_, state)| *state == "draining"));
    assert!(states(&world)[3..].iter().all(|(_, state)| *state == "active"));
}

#[test]
fn rolling_reload_is_rolled_back_by_a_failure_at_every_step() {
    for ready in 0..=2 {
        for victim in 4..=4 + ready {
            let mut world = World::serving_with(rolling());
            world.reload(1);
            (4..4 + ready).for_each(|worker| world.ready(worker));
            world.exit(victim, 9);
            let case = format!("{ready} are ready and {victim} crashes");
            assert!(matches!(world.outcome(), Some(Outcome::RolledBack(_))), "{case}");
            let old: Vec<_> = states(&world).into_iter().filter(|(id, _)| *id <= 3).collect();
            assert_eq!(old, [(1, "active"), (2, "active"), (3, "active")], "{case}");
            let new: Vec<_> = states(&world).into_iter().filter(|(id, _)| *id > 3).map(|(_, state)| state).collect();
            assert!(new.iter().all(|state| *state == "draining"), "{case}: {new:?}");
            world.connect(3);
            world.pass_millis(50);
            assert_eq!(world.taken(1) + world.taken(2) + world.taken(3), 3, "{case}");
        }
    }
}

#[test]
fn rolling_reload_ends_in_probation_of_the_whole_generation() {
    let mut world = World::serving_with(Settings { probation: PROBATION, ..rolling() });
    world.reload(1);
    (4..=6).for_each(|worker| world.ready(worker));
    assert_eq!(world.outcome(), None);
    world.exit(6, 9);
    assert_eq!(world.outcome(), Some(&crashed(2, 6)));
    assert_eq!(states(&world)[..3], [(1, "active"), (2, "active"), (3, "active")]);
}

#[test]
fn worker_of_the_old_generation_that_crashes_in_a_rolling_reload_is_replaced_for_its_slot() {
    let mut world = World::serving_with(rolling());
    world.reload(1);
    world.ready(4);
    world.exit(1, 9);
    world.exit(2, 9);
    world.ready(6);
    world.ready(7);
    let expected = [(3, "active"), (4, "active"), (5, "starting"), (6, "ready"), (7, "active")];
    assert_eq!(states(&world), expected, "slot 0 has been replaced, slot 1 has not");
    world.exit(5, 9);
    assert_eq!(states(&world)[2..], [(6, "active"), (7, "active")]);
}

#[test]
fn full_budget_delays_a_reload_until_a_generation_has_ended() {
    let mut world = World::serving_with(Settings { drain_generations: 2, ..World::settings() });
    for ticket in 1..=2 {
        world.reload(ticket);
        world.all_ready();
    }
    world.reload(3);
    world.reload(4);
    let why = Delay::Generations { draining: 2 };
    assert_eq!(world.machine.reload(), ReloadView::Pending { why: Some(why) });
    assert_eq!(world.count(|action| *action == Action::ReloadDelayed { why }), 1, "it is said once");
    world.exit(1, 0);
    assert_eq!(world.count(|action| matches!(action, Action::ReloadStarted { .. })), 2);
    world.exit(2, 0);
    let tickets = vec![Ticket(3), Ticket(4)];
    assert!(world.did(&Action::ReloadStarted { generation: Generation(4), tickets }));
}

#[test]
fn full_budget_delays_a_reload_no_longer_than_the_deadline_of_what_drains_and_cuts_nothing_before() {
    let mut world = World::serving_with(Settings { drain_generations: 1, ..World::settings() });
    world.reload(1);
    world.all_ready();
    world.reload(2);
    world.pass(world.settings.drain_timeout - Duration::from_millis(1));
    let kill = |action: &Action| matches!(action, Action::Kill { .. });
    assert_eq!((world.count(kill), world.machine.generations().count()), (0, 2));
    world.pass_millis(1);
    assert_eq!(world.count(kill), 2);
    assert!(world.did(&Action::ReloadStarted { generation: Generation(3), tickets: vec![Ticket(2)] }));
}

#[test]
fn storm_of_reloads_leaves_the_newest_generation_and_a_bounded_number_of_processes() {
    let mut world = World::serving();
    let mut most = 0;
    for ticket in 1..=100 {
        world.reload(ticket);
        world.pass_millis(100);
        world.all_ready();
        most = most.max(world.machine.workers().count());
    }
    // Four that drain, the active one, and one that starts.
    assert!(most <= 2 * (4 + 1 + 1), "{most} processes");
    for _ in 0..80 {
        world.pass_millis(1_000);
        world.all_ready();
    }
    let left: Vec<_> = world.machine.generations().map(|(generation, _)| generation.0).collect();
    assert_eq!((left, world.machine.reload()), (vec![world.machine.next_generation().0 - 1], ReloadView::None));
    assert!(world.tickets.values().all(|told| *told == 1));
}

#[test]
fn generation_that_drains_for_too_long_delays_a_reload() {
    let age = Duration::from_secs(3);
    let mut world = World::serving_with(Settings { drain_age: Some(age), ..World::settings() });
    world.reload(1);
    world.all_ready();
    world.pass(age);
    world.reload(2);
    let why = Delay::Age { generation: Generation(1) };
    assert_eq!(world.machine.reload(), ReloadView::Pending { why: Some(why) });
    world.exit(1, 0);
    world.exit(2, 0);
    assert!(matches!(world.machine.reload(), ReloadView::Running { .. }));
}

#[test]
fn memory_of_what_drains_is_measured_only_when_it_is_limited_and_delays_a_reload() {
    let measured = |world: &World| world.count(|action| matches!(action, Action::MeasureDraining { .. }));
    let mut world = World::serving();
    world.reload(1);
    world.all_ready();
    world.reload(2);
    assert_eq!(measured(&world), 0);
    let mut world = World::serving_with(Settings { drain_memory: Some(1_000), ..World::settings() });
    world.memory = 500;
    world.reload(1);
    assert_eq!(measured(&world), 0, "nothing drains yet");
    world.all_ready();
    world.reload(2);
    let why = Delay::Memory { bytes: 1_000 };
    assert_eq!((measured(&world), world.machine.reload()), (1, ReloadView::Pending { why: Some(why) }));
    world.pass_millis(2_000);
    assert_eq!((measured(&world), world.machine.reload()), (3, ReloadView::Pending { why: Some(why) }));
    assert_eq!(world.count(|action| *action == Action::ReloadDelayed { why }), 1);
    world.memory = 499;
    world.pass_millis(1_000);
    assert!(matches!(world.machine.reload(), ReloadView::Running { .. }));
}

#[test]
fn worker_that_hangs_on_probation_is_aborted_and_rolls_back() {
    let care = Care { hang_timeout: Some(Duration::from_secs(1)), ..World::settings().care };
    let mut world = World::serving_with(Settings { care, ..probation() });
    world.reload(1);
    world.all_ready();
    world.set_mood(3, Mood::Blocked);
    world.pass_millis(2_000);
    assert!(world.did(&Action::Abort { worker: WorkerId(3) }));
    let failure = Failure::Hung { slot: Slot(0), worker: WorkerId(3) };
    assert_eq!(world.outcome(), Some(&Outcome::RolledBack(failure)));
    assert_eq!(states(&world)[..2], [(1, "active"), (2, "active")]);
}

#[test]
fn worker_that_an_operator_kills_on_probation_is_replaced_and_nothing_is_rolled_back() {
    let mut world = on_probation();
    world.kill(3);
    world.all_ready();
    assert_eq!(states(&world)[2..], [(3, "draining"), (4, "active"), (5, "active")]);
    assert_eq!(world.outcome(), None);
}

#[test]
fn resume_after_a_pause_wakes_the_generation_on_probation_and_not_the_one_before() {
    let mut world = on_probation();
    world.feed(Event::PauseAsked);
    assert!(states(&world).iter().all(|(_, state)| *state == "paused"));
    world.feed(Event::ResumeAsked);
    assert_eq!(states(&world), [(1, "paused"), (2, "paused"), (3, "active"), (4, "active")]);
    let mut world = World::serving_with(rolling());
    world.reload(1);
    world.feed(Event::PauseAsked);
    (4..=5).for_each(|worker| world.ready(worker));
    world.feed(Event::ResumeAsked);
    let expected = [(1, "paused"), (2, "paused"), (3, "active"), (4, "active"), (5, "active"), (6, "starting")];
    assert_eq!(states(&world), expected);
}

#[test]
fn rollback_in_a_pause_comes_back_paused() {
    let mut world = on_probation();
    world.feed(Event::PauseAsked);
    world.roll_back(2);
    assert_eq!(states(&world), [(1, "paused"), (2, "paused"), (3, "draining"), (4, "draining")]);
    world.feed(Event::ResumeAsked);
    assert_eq!(states(&world)[..2], [(1, "active"), (2, "active")]);
}
