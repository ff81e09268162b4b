//! The shell, the workers, the kernel and the clock, as far as the machines can tell. Checks after every event what must
//! hold at all times.

mod board;
mod check;
mod handover;
mod shell;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

use self::sockets::Group;
use super::super::*;
use super::respawn::Backoff;

pub(super) const PORT: ListenerId = ListenerId(1);

/// What a worker does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// Reads its channel at once and takes what it is offered.
    Prompt,
    /// Reads its channel at once and refuses what it is offered.
    Refusing,
    /// Does nothing until it is told to.
    Blocked,
}

/// An offer word as it is on the board; `read` is whether the master has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Offered,
    Taken {
        read: bool,
    },
    Refused {
        read: bool,
    },
    Revoked,
    /// Freed by the worker, which the master has not seen.
    Released,
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Activate,
    Pause,
    Drain,
    Abort,
    Kill,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) mood: Mood,
    /// When the shell has said `WorkerExited`; the board lives until `Forget`.
    pub(super) exited: bool,
    pub(super) board: BTreeMap<ConnectionId, Word>,
    pub(super) rings: bool,
    /// When its channel takes no offer.
    pub(super) full: bool,
    /// The listeners that it asked for and did not close.
    pub(super) uses: BTreeSet<ListenerId>,
    /// What the shell finds when it measures.
    pub(super) memory: u64,
    /// How many connections it has ever taken.
    pub(super) taken_in_all: u64,
    /// How many of them have not ended.
    pub(super) active: u64,
    /// Whether it rings when one ends.
    pub(super) watched: bool,
    /// The clients whose connections it owns.
    pub(super) owned: BTreeSet<Client>,
    /// What it handed over, and has not heard of yet.
    pub(super) under_way: BTreeMap<HandoverId, Client>,
    /// What of that the master has not read yet.
    outbox: VecDeque<HandoverId>,
    /// When the master cannot tell it anything any more, or does not want to.
    pub(super) cut_off: bool,
    /// When the master does not hear it any more.
    pub(super) is_mute: bool,
    told: Told,
    channel: VecDeque<Message>,
    has_beaten: bool,
}

impl Process {
    /// How many connections it has, or lie before it.
    pub(super) fn load(&self) -> u64 {
        self.active + self.board.values().filter(|word| **word == Word::Offered).count() as u64
    }

    /// How many connections it has taken that the master still has.
    pub(super) fn taken(&self) -> usize {
        self.board.values().filter(|word| matches!(word, Word::Taken { .. })).count()
    }
}

/// One connection as its client sees it, whatever the master calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Client(pub(super) u64);

#[derive(Clone, Copy, Debug)]
enum Message {
    Offer(ConnectionId),
    AskBeat,
}

#[derive(Debug, Default)]
struct Port {
    accepting: bool,
    backlog: usize,
    /// When nobody new gets in.
    shut: bool,
    /// When it is split.
    group: Option<Group>,
}

/// The configuration, as a reload finds it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) configured: BTreeMap<ListenerId, Spread>,
    pub(super) fails: bool,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) settings: Settings,
    pub(super) now: Instant,
    /// Everything that the machine ordered.
    pub(super) log: Vec<Action>,
    pub(super) workers: BTreeMap<WorkerId, Process>,
    /// The connections of which the master has a copy, and their listener.
    pub(super) copies: BTreeMap<ConnectionId, ListenerId>,
    /// Whose connection each of them is, or was.
    clients: BTreeMap<ConnectionId, Client>,
    /// Where the clients came in that have not been cut off.
    connected: BTreeMap<Client, ListenerId>,
    /// The connections that came from a worker.
    handed_over: BTreeSet<ConnectionId>,
    last_handover: u64,
    /// How often somebody was told the outcome.
    pub(super) tickets: BTreeMap<Ticket, usize>,
    /// Whether a killed worker exits only when it is told to.
    pub(super) dies_slowly: bool,
    /// Whether the next process cannot be started.
    pub(super) next_spawn_fails: bool,
    pub(super) has_ticket_keys: bool,
    /// How much memory every worker that drains has.
    pub(super) memory: u64,
    /// What the next reload finds.
    pub(super) plan: Plan,
    /// The settings of the generation that is being started.
    preparing: Option<Settings>,
    running_reload: Option<Generation>,
    ports: BTreeMap<ListenerId, Port>,
    /// The keys of the next clients; then each is another.
    pub(super) keys: VecDeque<Option<u64>>,
    /// How many connections each worker of a generation may have.
    limits: BTreeMap<Generation, Option<u64>>,
    /// The listeners that were closed. Another may have come under the same id since, as in no real master.
    closed: BTreeSet<ListenerId>,
    events: VecDeque<Event>,
    offered_once: BTreeSet<ConnectionId>,
    backoff: Backoff,
    /// The workers that are replaced because they have served enough.
    recycled: Vec<WorkerId>,
    /// The workers whose end an operator asked for.
    dismissed: BTreeSet<WorkerId>,
    last_connection: u64,
}

impl World {
    pub(super) fn with(settings: Settings) -> Self {
        #[expect(clippy::disallowed_methods, reason = "some instant to count from; it never matters which")]
        let now = Instant::now();
        Self {
            machine: Machine::new(settings),
            settings,
            now,
            log: Vec::new(),
            workers: BTreeMap::new(),
            copies: BTreeMap::new(),
            clients: BTreeMap::new(),
            connected: BTreeMap::new(),
            handed_over: BTreeSet::new(),
            last_handover: 0,
            tickets: BTreeMap::new(),
            dies_slowly: false,
            next_spawn_fails: false,
            has_ticket_keys: false,
            memory: 0,
            plan: Plan { settings, configured: BTreeMap::from([(PORT, Spread::Offered)]), fails: false },
            preparing: None,
            running_reload: None,
            ports: BTreeMap::new(),
            keys: VecDeque::new(),
            limits: BTreeMap::from([(Generation(1), settings.max_connections)]),
            closed: BTreeSet::new(),
            events: VecDeque::new(),
            offered_once: BTreeSet::new(),
            backoff: Backoff::new(settings.care),
            recycled: Vec::new(),
            dismissed: BTreeSet::new(),
            last_connection: 0,
        }
    }

    pub(super) fn settings() -> Settings {
        Settings {
            workers: 2,
            ready_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            strategy: Strategy::All,
            probation: Duration::ZERO,
            drain_generations: 4,
            drain_age: None,
            drain_memory: None,
            steal_after: Duration::from_millis(50),
            credit: 4,
            queue: 8,
            words: 64,
            max_connections: None,
            shed: false,
            care: Care {
                seed: 1,
                most_workers: 8,
                restart_limit: 60,
                restart_period: Duration::from_secs(60),
                hang_timeout: None,
                recycle: Limits::default(),
                recycle_at_once: 1,
            },
            ticket_rotation: Duration::from_secs(12 * 60 * 60),
        }
    }

    /// As `serving`, with other settings.
    pub(super) fn serving_with(settings: Settings) -> Self {
        let mut world = Self::with(settings);
        world.bind(PORT, Spread::Offered, true);
        world.feed(Event::Started);
        world.all_ready();
        world.log.clear();
        world
    }

    /// A master with one configured port, whose first generation is starting.
    pub(super) fn starting() -> Self {
        let mut world = Self::with(Self::settings());
        world.bind(PORT, Spread::Offered, true);
        world.feed(Event::Started);
        world
    }

    /// As `starting`; the workers 1 and 2 are active.
    pub(super) fn serving() -> Self {
        Self::serving_with(Self::settings())
    }

    /// As `serving`, but the workers do nothing.
    pub(super) fn blocked() -> Self {
        let mut world = Self::serving();
        world.set_mood(1, Mood::Blocked);
        world.set_mood(2, Mood::Blocked);
        world
    }

    pub(super) fn kill(&mut self, worker: u64) {
        self.feed(Event::KillAsked { worker: WorkerId(worker) });
    }

    pub(super) fn bind(&mut self, listener: ListenerId, spread: Spread, configured: bool) {
        self.ports.insert(listener, Port::new(spread));
        self.feed(Event::ListenerBound { listener, spread, configured });
    }

    /// The worker asks for a listener, if the master holds it.
    pub(super) fn listens(&mut self, worker: u64, listener: ListenerId) {
        let (worker, request) = (WorkerId(worker), RequestId(0));
        if self.is_open(listener) {
            self.feed(Event::ListenAsked { worker, request, listener });
        }
    }

    /// The worker uses the port and can serve.
    pub(super) fn ready(&mut self, worker: u64) {
        self.listens(worker, PORT);
        self.feed(Event::WorkerReady { worker: WorkerId(worker) });
    }

    /// As `ready`, for every worker that is starting.
    pub(super) fn all_ready(&mut self) {
        let starting = |view: &WorkerView| matches!(view.state, WorkerState::Starting { .. });
        let workers: Vec<_> = self.machine.workers().filter(starting).map(|view| view.worker.0).collect();
        for worker in workers {
            self.ready(worker);
        }
    }

    pub(super) fn reload(&mut self, ticket: u64) {
        self.tickets.insert(Ticket(ticket), 0);
        self.feed(Event::ReloadAsked { ticket: Ticket(ticket) });
    }

    /// The reload under way is rolled back, if there is one.
    pub(super) fn roll_back(&mut self, ticket: u64) {
        self.tickets.insert(Ticket(ticket), 0);
        self.feed(Event::RollbackAsked { ticket: Ticket(ticket) });
    }

    pub(super) fn exit(&mut self, worker: u64, code: i32) {
        self.feed(Event::WorkerExited { worker: WorkerId(worker), exit: Exit::Code(code) });
    }

    pub(super) fn stop(&mut self) {
        self.feed(Event::StopAsked { at_once: false });
    }

    /// Clients connect: the kernel completes their handshakes, and the master accepts as many as it will.
    pub(super) fn connect(&mut self, clients: usize) {
        self.connect_to(PORT, clients);
    }

    pub(super) fn connect_to(&mut self, listener: ListenerId, clients: usize) {
        if let Some(port) = self.ports.get_mut(&listener) {
            port.backlog += if port.shut { 0 } else { clients };
        }
        self.run();
    }

    /// So many of a worker's connections end.
    pub(super) fn end(&mut self, worker: u64, connections: u64) {
        let process = self.worker(worker);
        process.active = process.active.saturating_sub(connections);
        if process.watched {
            self.read_board(WorkerId(worker));
        }
        self.run();
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.machine.next_deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.deadline();
        }
        self.now = end;
    }

    pub(super) fn pass_millis(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    fn deadline(&mut self) {
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            self.read_board(worker);
        }
        self.feed(Event::Deadline);
        if let Some(next) = self.machine.next_deadline() {
            assert!(next > self.now, "a deadline that does not pass");
        }
    }

    pub(super) fn set_mood(&mut self, worker: u64, mood: Mood) {
        self.worker(worker).mood = mood;
        self.run();
    }

    pub(super) fn worker(&mut self, worker: u64) -> &mut Process {
        self.workers.get_mut(&WorkerId(worker)).expect("a worker that is not forgotten")
    }

    /// How many connections of a listener wait in the kernel.
    pub(super) fn backlog(&self, listener: ListenerId) -> usize {
        self.ports.get(&listener).map_or(0, |port| port.backlog)
    }

    pub(super) fn is_open(&self, listener: ListenerId) -> bool {
        self.ports.contains_key(&listener)
    }

    /// How many connections the worker has taken, as its counters say.
    pub(super) fn taken(&self, worker: u64) -> u64 {
        let view = self.machine.workers().find(|view| view.worker == WorkerId(worker));
        view.map_or(0, |view| view.counters.taken)
    }

    pub(super) fn untaken(&self, worker: u64) -> usize {
        let board = self.workers.get(&WorkerId(worker)).map(|process| &process.board);
        board.map_or(0, |board| board.values().filter(|word| **word == Word::Offered).count())
    }

    pub(super) fn state(&self, worker: u64) -> Option<WorkerState> {
        self.machine.workers().find(|view| view.worker == WorkerId(worker)).map(|view| view.state)
    }

    /// The generation that is active, or on probation.
    pub(super) fn active_generation(&self) -> Option<u64> {
        let active = |state| matches!(state, GenerationState::Active { .. } | GenerationState::Probation { .. });
        self.machine.generations().find(|(_, state)| active(*state)).map(|(generation, _)| generation.0)
    }

    pub(super) fn did(&self, action: &Action) -> bool {
        self.log.contains(action)
    }

    pub(super) fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|action| wanted(action)).count()
    }

    /// Why a worker was killed, if it was.
    pub(super) fn killed(&self, worker: u64) -> Option<KillReason> {
        self.log.iter().find_map(|action| match action {
            Action::Kill { worker: killed, why } if killed.0 == worker => Some(*why),
            _ => None,
        })
    }

    /// How the last reload ended.
    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.log.iter().rev().find_map(|action| match action {
            Action::ReloadEnded { outcome, .. } => Some(outcome),
            _ => None,
        })
    }

    pub(super) fn finished(&self) -> Option<&Option<Failure>> {
        self.log.iter().find_map(|action| match action {
            Action::Finish { failure } => Some(failure),
            _ => None,
        })
    }
}
