//! Random histories of a master: every fault at every moment, replayed by its seed.
//!
//! `EVERPORT_SIM_HISTORIES` sets how many, `EVERPORT_SIM_SEED` replays one. The world checks after every event what must
//! hold at all times; at the end of a history the weather clears up, and everything must come to its end.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use everport_handoff::id::{ListenerId, Slot, WorkerId};

use super::super::random::Random;
use super::super::*;
use super::world::{Mood, PORT, World};

const HISTORIES: u64 = 2_000;
const STEPS: u64 = 150;

impl Random {
    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.below(from.len() as u64) as usize]) }
    }
}

/// Any way to look after workers, every second time the tame one.
fn care(random: &mut Random) -> Care {
    let seed = random.next();
    let sometimes = |random: &mut Random, value: u64| random.one_in(3).then(|| 1 + random.below(value));
    Care {
        seed,
        restart_limit: 1 + random.below(8) as u32,
        restart_period: Duration::from_secs(1 + random.below(60)),
        hang_timeout: sometimes(random, 400).map(Duration::from_millis),
        recycle: Limits {
            memory: sometimes(random, 1_000),
            age: sometimes(random, 8_000).map(|millis| Duration::from_millis(2_000 + millis)),
            connections: sometimes(random, 20).map(|count| 5 + count),
        },
        recycle_at_once: 1 + random.below(2) as u32,
        ..World::settings().care
    }
}

fn any_spread(random: &mut Random) -> Spread {
    [Spread::Shared, Spread::Split, Spread::Offered, Spread::Offered][random.below(4) as usize]
}

fn any_policy(random: &mut Random) -> OfferedPolicy {
    match random.below(4) {
        0 => OfferedPolicy::RoundRobin,
        1 => OfferedPolicy::Least,
        2 => OfferedPolicy::TwoChoices,
        _ => OfferedPolicy::Hash,
    }
}

struct History {
    random: Random,
    world: World,
    /// The listeners that were bound, but for `PORT`.
    listeners: u32,
    tickets: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let settings = Settings {
            workers: 1 + random.below(4) as u32,
            ready_timeout: Duration::from_millis(500 + random.below(20_000)),
            drain_timeout: Duration::from_millis(500 + random.below(20_000)),
            strategy: if random.one_in(2) { Strategy::All } else { Strategy::Rolling },
            probation: Duration::from_millis(if random.one_in(3) { 0 } else { random.below(3_000) }),
            drain_generations: 1 + random.below(3) as u32,
            drain_age: random.one_in(4).then(|| Duration::from_millis(random.below(5_000))),
            drain_memory: random.one_in(3).then_some(400),
            steal_after: Duration::from_millis(10 + random.below(90)),
            credit: 1 + random.below(6) as usize,
            queue: random.below(12) as usize,
            words: 8 + random.below(16) as usize,
            max_connections: random.one_in(3).then(|| 1 + random.below(12)),
            shed: random.one_in(2),
            care: care(&mut random),
            ticket_rotation: Duration::from_millis(100 + random.below(10_000)),
        };
        let mut world = World::with(settings);
        world.dies_slowly = true;
        world.bind(PORT, Spread::Offered, true);
        world.feed(Event::Started);
        let policy = any_policy(&mut random);
        world.feed(Event::PolicyAsked { listener: PORT, policy });
        let mut history = Self { random, world, listeners: 0, tickets: 0 };
        if !history.random.one_in(4) {
            history.world.all_ready();
        }
        history
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            if self.world.finished().is_none() {
                self.step();
            }
        }
        self.clear_up();
    }

    fn alive(&mut self, wanted: impl Fn(&WorkerView) -> bool) -> Option<WorkerId> {
        let workers: Vec<_> =
            self.world.machine.workers().filter(|view| wanted(view)).map(|view| view.worker).collect();
        self.random.pick(&workers)
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=19 => {
                let (port, clients) = (self.port(), self.random.below(6) as usize);
                self.world.connect_to(port, clients);
            }
            20..=39 => self.some_worker_acts(),
            40..=44 => self.some_worker_hands_over(),
            45..=64 => {
                let longest = if self.random.one_in(8) { 2_000 } else { 60 };
                let millis = self.random.below(longest);
                self.world.pass_millis(millis);
            }
            65..=71 => self.some_worker_listens(),
            72..=79 => {
                if let Some(worker) = self.alive(|view| matches!(view.state, WorkerState::Starting { .. })) {
                    self.world.ready(worker.0);
                }
            }
            80..=84 => self.change_mood(),
            85..=88 => self.some_worker_ends(),
            89..=92 => self.some_killed_worker_exits(),
            93 | 94 => {
                if let Some(worker) = self.alive(|_| true) {
                    self.world.feed(Event::WorkerLeaving { worker });
                }
            }
            95 | 96 => {
                // Now and then a storm.
                for _ in 0..if self.random.one_in(8) { 20 } else { 1 } {
                    self.tickets += 1;
                    self.world.reload(self.tickets);
                }
            }
            97 if self.random.one_in(2) => {
                self.tickets += 1;
                self.world.roll_back(self.tickets);
                self.world.memory = self.random.below(600);
            }
            97 if self.random.one_in(2) => self.world.next_spawn_fails = self.random.one_in(2),
            97 if self.random.one_in(2) => self.edit_plan(),
            97 if self.random.one_in(2) => self.some_order(),
            97 => self.some_change_of_shares(),
            98 if self.random.one_in(2) => {
                if let Some(worker) = self.alive(|_| true) {
                    self.world.feed(Event::TicketKeysWanted { worker });
                }
            }
            98 => self.world.feed(Event::AcceptExhausted),
            _ if self.random.one_in(6) => {
                let at_once = self.random.one_in(3);
                self.world.feed(Event::StopAsked { at_once });
            }
            _ => self.some_connections_end(),
        }
    }

    /// Somebody edits the configuration.
    fn edit_plan(&mut self) {
        let plan = &mut self.world.plan;
        plan.fails = self.random.one_in(4);
        plan.settings.workers = 1 + self.random.below(4) as u32;
        plan.settings.drain_timeout = Duration::from_millis(500 + self.random.below(20_000));
        plan.settings.drain_memory = self.random.one_in(3).then_some(500);
        plan.settings.max_connections = self.random.one_in(3).then(|| 1 + self.random.below(12));
        plan.settings.shed = self.random.one_in(2);
        for listener in [ListenerId(101), ListenerId(102)] {
            if plan.configured.remove(&listener).is_none() {
                let spread = any_spread(&mut self.random);
                plan.configured.insert(listener, spread);
            }
        }
    }

    /// Somebody changes how connections are spread.
    fn some_change_of_shares(&mut self) {
        if self.random.one_in(2) {
            let (listener, policy) = (self.port(), any_policy(&mut self.random));
            self.world.feed(Event::PolicyAsked { listener, policy });
        } else {
            let (slot, weight) = (Slot(self.random.below(4) as u32), self.random.below(4) as u32);
            self.world.feed(Event::WeightAsked { slot, weight });
        }
    }

    fn some_connections_end(&mut self) {
        if let Some(worker) = self.alive(|_| true) {
            let ended = self.random.below(6);
            self.world.end(worker.0, ended);
        }
    }

    fn some_order(&mut self) {
        let amount = 1 + self.random.below(4) as u32;
        let event = match self.random.below(8) {
            0 => Event::ScaleAsked { to: Scale::To(amount) },
            1 => Event::ScaleAsked { to: Scale::Up(amount) },
            2 => Event::ScaleAsked { to: Scale::Down(amount) },
            3 | 4 => Event::PauseAsked,
            5 | 6 => Event::ResumeAsked,
            _ => match self.alive(|_| true) {
                Some(worker) => Event::KillAsked { worker },
                None => return,
            },
        };
        self.world.feed(event);
    }

    fn port(&mut self) -> ListenerId {
        if self.random.one_in(4) {
            return ListenerId(101 + self.random.below(2) as u32);
        }

        ListenerId(1 + self.random.below(u64::from(self.listeners) + 1) as u32)
    }

    fn some_worker_acts(&mut self) {
        let running = |view: &WorkerView| !matches!(view.state, WorkerState::Killed { .. });
        if let Some(worker) = self.alive(running) {
            match self.random.below(12) {
                0 => {
                    let full = !self.world.worker(worker.0).full;
                    self.world.worker(worker.0).full = full;
                    if !full {
                        self.world.feed(Event::ChannelWritable { worker });
                    }
                }
                1 | 2 => self.world.act(worker, false),
                3 => self.world.worker(worker.0).memory = self.random.below(1_200),
                _ => self.world.act(worker, true),
            }
            self.world.run();
        }
    }

    /// Connections of a worker move: those that it has by an offer, and those that moved before.
    fn some_worker_hands_over(&mut self) {
        let workers = self.world.workers.iter();
        let owners: Vec<_> = workers
            .filter(|(_, process)| !process.exited && !process.is_mute && !process.owned.is_empty())
            .map(|(worker, _)| *worker)
            .collect();
        let Some(worker) = self.random.pick(&owners) else { return };
        for _ in 0..1 + self.random.below(4) {
            let owned: Vec<_> = self.world.worker(worker.0).owned.iter().copied().collect();
            if let Some(client) = self.random.pick(&owned) {
                self.world.send_over(worker.0, client);
            }
        }
        // What is not read now is read some time, at the latest when the worker has gone.
        if !self.random.one_in(3) {
            self.world.read_outbox(worker);
        }
        self.world.run();
    }

    fn some_worker_listens(&mut self) {
        let Some(worker) = self.alive(|view| !matches!(view.state, WorkerState::Killed { .. })) else {
            return;
        };
        let listener = self.port();
        if self.listeners < 3 && self.random.one_in(3) {
            self.listeners += 1;
            let listener = ListenerId(1 + self.listeners);
            let spread = any_spread(&mut self.random);
            self.world.bind(listener, spread, false);
            self.world.listens(worker.0, listener);
        } else if self.world.is_open(listener) {
            if self.random.one_in(3) {
                self.world.feed(Event::ListenerClosed { worker, listener });
            } else {
                self.world.listens(worker.0, listener);
            }
        }
    }

    fn change_mood(&mut self) {
        let mood = [Mood::Prompt, Mood::Prompt, Mood::Blocked, Mood::Blocked, Mood::Refusing];
        let running = |view: &WorkerView| !matches!(view.state, WorkerState::Killed { .. });
        if let (Some(worker), Some(mood)) = (self.alive(running), self.random.pick(&mood)) {
            self.world.set_mood(worker.0, mood);
        }
    }

    fn some_worker_ends(&mut self) {
        let Some(worker) = self.alive(|_| true) else {
            return;
        };
        let reason = "chance".to_owned();
        match self.random.below(8) {
            6 => self.world.feed(Event::ChannelClosed { worker }),
            7 => {
                self.world.feed(Event::ChannelClosed { worker });
                self.world.exit(worker.0, 7);
            }
            0 => self.world.feed(Event::WorkerBroke { worker, reason }),
            1 => self.world.feed(Event::WorkerDrained { worker }),
            2 if matches!(self.world.state(worker.0), Some(WorkerState::Starting { .. })) => {
                self.world.feed(Event::WorkerIncompatible { worker, reason });
            }
            code => self.world.exit(worker.0, code as i32),
        }
    }

    fn some_killed_worker_exits(&mut self) {
        if let Some(worker) = self.alive(|view| matches!(view.state, WorkerState::Killed { .. })) {
            self.world.feed(Event::WorkerExited { worker, exit: Exit::Signal(9) });
        }
    }

    /// From now on nothing fails. Whatever was accepted is served, and a stop ends.
    fn clear_up(&mut self) {
        self.world.feed(Event::ResumeAsked);
        for slot in (0..self.world.settings.care.most_workers).map(Slot) {
            self.world.feed(Event::WeightAsked { slot, weight: 1 });
        }
        self.world.dies_slowly = false;
        self.world.next_spawn_fails = false;
        self.world.memory = 0;
        // Long enough for the slowest pace of a slot that rests.
        for _ in 0..400 {
            if self.is_calm() || self.world.machine.is_stopping() {
                break;
            }
            self.help();
            self.world.pass_millis(200);
        }
        if !self.world.machine.is_stopping() {
            assert!(self.is_calm(), "no calm after the storm: {:#?}", self.world);
            self.world.stop();
        }
        for _ in 0..50 {
            if self.world.finished().is_none() {
                self.help();
                self.world.pass_millis(200);
            }
        }
        assert!(self.world.finished().is_some(), "a stop does not end: {:#?}", self.world);
        assert!(self.world.tickets.values().all(|told| *told == 1), "somebody still waits for a reload");
    }

    fn help(&mut self) {
        let workers: Vec<_> = self.world.machine.workers().collect();
        for WorkerView { worker, state, .. } in workers {
            let Some(process) = self.world.workers.get_mut(&worker).filter(|process| !process.exited) else {
                continue;
            };
            process.memory = 0;
            self.world.end(worker.0, u64::MAX);
            self.world.read_outbox(worker);
            self.world.run();
            let Some(process) = self.world.workers.get_mut(&worker).filter(|process| !process.exited) else {
                continue;
            };
            if process.full {
                process.full = false;
                self.world.feed(Event::ChannelWritable { worker });
            }
            match state {
                WorkerState::Killed { .. } => {
                    self.world.feed(Event::WorkerExited { worker, exit: Exit::Signal(9) });
                }
                WorkerState::Draining { .. } | WorkerState::Drained { .. } => self.world.exit(worker.0, 0),
                WorkerState::Starting { .. } => {
                    self.world.set_mood(worker.0, Mood::Prompt);
                    self.world.ready(worker.0);
                }
                _ => {
                    self.world.set_mood(worker.0, Mood::Prompt);
                    if !self.world.worker(worker.0).uses.contains(&PORT) {
                        self.world.listens(worker.0, PORT);
                    }
                }
            }
        }
    }

    /// Whether every slot is served, nothing waits and nothing is awaited.
    fn is_calm(&self) -> bool {
        let world = &self.world;
        let port_is_served = world.machine.queued(PORT) == 0 && world.backlog(PORT) == 0;
        let settled =
            world.workers.values().all(|process| process.board.is_empty() && !process.rings && !process.watched);
        let moved = world.workers.values().all(|process| process.cut_off || process.under_way.is_empty());
        let active = |view: &WorkerView| matches!(view.state, WorkerState::Active { .. });
        let all_active = world.machine.workers().filter(active).count() == world.machine.slots() as usize;
        port_is_served && settled && moved && all_active && world.machine.reload() == ReloadView::None
    }
}

#[test]
fn random_histories_keep_what_must_hold() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seeds = match number("EVERPORT_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVERPORT_SIM_HISTORIES").unwrap_or(HISTORIES),
    };
    let all_of_them = seeds.end - seeds.start >= HISTORIES;
    let mut rare = [0_usize; RARE];
    for seed in seeds {
        let played = catch_unwind(AssertUnwindSafe(|| {
            let mut history = History::new(seed);
            history.run();
            history.world.log.iter().filter_map(rarity).for_each(|kind| rare[kind] += 1);
        }));
        if let Err(panic) = played {
            // Beside the panic's own message, which the test harness shows too.
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("replay with EVERPORT_SIM_SEED={seed}\n"))
                .expect("standard error");
            resume_unwind(panic);
        }
    }
    assert!(!all_of_them || rare.iter().all(|count| *count >= 5), "something hardly ever happened: {rare:?}");
}

const RARE: usize = 19;

/// The number of an action that only some histories come to.
fn rarity(action: &Action) -> Option<usize> {
    match action {
        Action::TellMoved { .. } => Some(17),
        Action::Return { .. } => Some(18),
        Action::ShutOut { .. } => Some(14),
        Action::LetIn { .. } => Some(15),
        Action::ReloadEnded { outcome: Outcome::RolledBack(Failure::NotPrepared { .. }), .. } => Some(16),
        Action::WatchLoad { .. } => Some(17),
        Action::Shed { .. } => Some(18),
        Action::SlotRests { .. } => Some(0),
        Action::SlotRecovered { .. } => Some(1),
        Action::Recycling { .. } => Some(2),
        Action::Abort { .. } => Some(3),
        Action::Pause { .. } => Some(4),
        Action::ProbationStarted { .. } => Some(5),
        Action::ReloadDelayed { why: Delay::Generations { .. } } => Some(6),
        Action::ReloadDelayed { why: Delay::Age { .. } } => Some(7),
        Action::ReloadDelayed { why: Delay::Memory { .. } } => Some(8),
        Action::NothingToRollBack { .. } => Some(9),
        Action::ReloadEnded { outcome: Outcome::RolledBack(Failure::Asked { .. }), retired: Some(_), .. } => Some(10),
        Action::ReloadEnded { outcome: Outcome::RolledBack(Failure::Crashed { .. }), .. } => Some(11),
        // A rolling reload that failed half-way.
        Action::ReloadEnded { outcome: Outcome::RolledBack(_), retired: Some(_), phases, .. }
            if phases.probation.is_zero() =>
        {
            Some(12)
        }
        Action::ReloadEnded { outcome: Outcome::Committed, phases, .. } if !phases.probation.is_zero() => Some(13),
        _ => None,
    }
}
