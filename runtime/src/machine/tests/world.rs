//! The shell, the workers, the kernel and the clock, as far as the machines can tell. Checks after every event what must
//! hold at all times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

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
    Drain,
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
    told: Told,
    channel: VecDeque<Message>,
    has_beaten: bool,
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Offer(ConnectionId),
    AskBeat,
}

#[derive(Debug, Default)]
struct Port {
    accepting: bool,
    backlog: usize,
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
    /// How often somebody was told the outcome.
    pub(super) tickets: BTreeMap<Ticket, usize>,
    /// Whether a killed worker exits only when it is told to.
    pub(super) dies_slowly: bool,
    /// Whether the next process cannot be started.
    pub(super) next_spawn_fails: bool,
    ports: BTreeMap<ListenerId, Port>,
    events: VecDeque<Event>,
    offered_once: BTreeSet<ConnectionId>,
    backoff: Backoff,
    last_connection: u64,
}

impl World {
    pub(super) fn with(settings: Settings) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "some instant to count from; it never matters which"
        )]
        let now = Instant::now();
        Self {
            machine: Machine::new(settings),
            settings,
            now,
            log: Vec::new(),
            workers: BTreeMap::new(),
            copies: BTreeMap::new(),
            tickets: BTreeMap::new(),
            dies_slowly: false,
            next_spawn_fails: false,
            ports: BTreeMap::new(),
            events: VecDeque::new(),
            offered_once: BTreeSet::new(),
            backoff: Backoff::default(),
            last_connection: 0,
        }
    }

    pub(super) fn settings() -> Settings {
        Settings {
            workers: 2,
            ready_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            steal_after: Duration::from_millis(50),
            credit: 4,
            queue: 8,
            words: 64,
        }
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
        let mut world = Self::starting();
        world.all_ready();
        world.log.clear();
        world
    }

    pub(super) fn bind(&mut self, listener: ListenerId, spread: Spread, configured: bool) {
        self.ports.insert(listener, Port::default());
        self.feed(Event::ListenerBound {
            listener,
            spread,
            configured,
        });
    }

    /// The worker asks for a listener, if the master holds it.
    pub(super) fn listens(&mut self, worker: u64, listener: ListenerId) {
        let (worker, request) = (WorkerId(worker), RequestId(0));
        if self.is_open(listener) {
            self.feed(Event::ListenAsked {
                worker,
                request,
                listener,
            });
        }
    }

    /// The worker uses the port and can serve.
    pub(super) fn ready(&mut self, worker: u64) {
        self.listens(worker, PORT);
        self.feed(Event::WorkerReady {
            worker: WorkerId(worker),
        });
    }

    /// As `ready`, for every worker that is starting.
    pub(super) fn all_ready(&mut self) {
        let starting = |view: &WorkerView| matches!(view.state, WorkerState::Starting { .. });
        let workers: Vec<_> = self
            .machine
            .workers()
            .filter(starting)
            .map(|view| view.worker.0)
            .collect();
        for worker in workers {
            self.ready(worker);
        }
    }

    pub(super) fn reload(&mut self, ticket: u64) {
        self.tickets.insert(Ticket(ticket), 0);
        self.feed(Event::ReloadAsked {
            ticket: Ticket(ticket),
        });
    }

    pub(super) fn exit(&mut self, worker: u64, code: i32) {
        self.feed(Event::WorkerExited {
            worker: WorkerId(worker),
            exit: Exit::Code(code),
        });
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
            port.backlog += clients;
        }
        self.run();
    }

    /// Lets time pass, deadline by deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self
            .machine
            .next_deadline()
            .filter(|deadline| *deadline <= end)
        {
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
        self.workers
            .get_mut(&WorkerId(worker))
            .expect("a worker that is not forgotten")
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
        let view = self
            .machine
            .workers()
            .find(|view| view.worker == WorkerId(worker));
        view.map_or(0, |view| view.counters.taken)
    }

    pub(super) fn untaken(&self, worker: u64) -> usize {
        let board = self
            .workers
            .get(&WorkerId(worker))
            .map(|process| &process.board);
        board.map_or(0, |board| {
            board
                .values()
                .filter(|word| **word == Word::Offered)
                .count()
        })
    }

    pub(super) fn state(&self, worker: u64) -> Option<WorkerState> {
        self.machine
            .workers()
            .find(|view| view.worker == WorkerId(worker))
            .map(|view| view.state)
    }

    pub(super) fn active_generation(&self) -> Option<u64> {
        let active = |state| matches!(state, GenerationState::Active { .. });
        self.machine
            .generations()
            .find(|(_, state)| active(*state))
            .map(|(generation, _)| generation.0)
    }

    pub(super) fn did(&self, action: &Action) -> bool {
        self.log.contains(action)
    }

    pub(super) fn count(&self, wanted: impl Fn(&Action) -> bool) -> usize {
        self.log.iter().filter(|action| wanted(action)).count()
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

    /// Feeds one event, and whatever follows from it.
    pub(super) fn feed(&mut self, event: Event) {
        self.events.push_back(event);
        self.run();
    }

    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if let Some(event) = self.events.pop_front() {
                self.handle(event);
            } else if !self.accept() && !self.let_workers_act() {
                return self.check();
            }
        }
        panic!("one instant does not end");
    }

    fn handle(&mut self, event: Event) {
        match &event {
            Event::WorkerExited { worker, .. } => {
                let process = self.worker(worker.0);
                process.exited = true;
                process
                    .board
                    .retain(|_, word| !matches!(word, Word::Revoked | Word::Released));
                self.end_of_worker(*worker);
            }
            Event::SpawnFailed { worker, .. } => {
                self.end_of_worker(*worker);
                self.workers.remove(worker);
            }
            Event::WorkerLeaving { worker }
                if matches!(self.state(worker.0), Some(WorkerState::Active { .. })) =>
            {
                self.end_of_worker(*worker);
            }
            Event::ListenerClosed { worker, listener } => {
                self.worker(worker.0).uses.remove(listener);
            }
            _ => {}
        }
        let mut actions = Vec::new();
        self.machine.handle(event, self.now, &mut actions);
        for action in actions {
            self.perform(&action);
            self.log.push(action);
        }
    }

    fn end_of_worker(&mut self, worker: WorkerId) {
        let process = &self.workers[&worker];
        self.backoff
            .ended(process.generation, process.slot, worker, self.now);
    }

    /// Accepts from one port, for `room` is to be asked again when the connections of the last one have been fed.
    fn accept(&mut self) -> bool {
        for (&listener, port) in &mut self.ports {
            let room = if port.accepting {
                self.machine.room(listener)
            } else {
                0
            };
            for _ in 0..room.min(port.backlog) {
                port.backlog -= 1;
                self.last_connection += 1;
                let connection = ConnectionId(self.last_connection);
                self.copies.insert(connection, listener);
                self.events.push_back(Event::Accepted {
                    listener,
                    connection,
                });
            }
            if !self.events.is_empty() {
                return true;
            }
        }
        false
    }

    fn let_workers_act(&mut self) -> bool {
        let acting = |process: &Process| {
            process.mood != Mood::Blocked && !process.channel.is_empty() && !process.exited
        };
        let Some(worker) = self
            .workers
            .iter()
            .find(|(_, process)| acting(process))
            .map(|(id, _)| *id)
        else {
            return false;
        };
        self.act(worker, self.workers[&worker].mood != Mood::Refusing);
        true
    }

    /// The worker reads one message of its channel, and takes or refuses what it is offered.
    pub(super) fn act(&mut self, worker: WorkerId, willing: bool) {
        let process = self.worker(worker.0);
        match process.channel.pop_front() {
            None => {}
            Some(Message::AskBeat) => process.has_beaten = true,
            Some(Message::Offer(connection)) => {
                if let Some(word) = process.board.get_mut(&connection) {
                    *word = match (*word, willing) {
                        (Word::Offered, true) => Word::Taken { read: false },
                        (Word::Offered, false) => Word::Refused { read: false },
                        (Word::Revoked, _) => Word::Released,
                        (other, _) => other,
                    };
                }
            }
        }
        if self.worker(worker.0).rings {
            self.read_board(worker);
        }
    }

    /// The shell reports what it has not seen yet.
    fn read_board(&mut self, worker: WorkerId) {
        let process = self
            .workers
            .get_mut(&worker)
            .expect("a board is read while it exists");
        if process.exited {
            return;
        }
        if std::mem::take(&mut process.has_beaten) {
            self.events.push_back(Event::Beat { worker });
        }
        let mut report = |connection, how| {
            self.events.push_back(Event::Settled {
                worker,
                connection,
                how,
            })
        };
        process.board.retain(|connection, word| {
            match word {
                Word::Taken { read: read @ false } => {
                    *read = true;
                    report(*connection, Settled::Taken);
                }
                Word::Refused { read: read @ false } => {
                    *read = true;
                    report(*connection, Settled::Refused);
                }
                Word::Released => report(*connection, Settled::Released),
                _ => {}
            }
            *word != Word::Released
        });
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Spawn {
                worker,
                slot,
                generation,
            } => self.spawn(worker, slot, generation),
            Action::Kill { worker } => {
                self.told(worker, Told::Kill);
                self.worker(worker.0).mood = Mood::Blocked;
                if !self.dies_slowly {
                    self.events.push_back(Event::WorkerExited {
                        worker,
                        exit: Exit::Signal(9),
                    });
                }
            }
            Action::Activate { worker } => self.told(worker, Told::Activate),
            Action::Drain { worker, .. } => self.told(worker, Told::Drain),
            Action::Pause { .. } => panic!("nothing pauses a worker yet"),
            Action::Forget { worker } => {
                let forgotten = self
                    .workers
                    .remove(&worker)
                    .expect("a worker is forgotten once");
                assert!(forgotten.exited, "{worker:?} is forgotten while it lives");
                let settled = |word: &Word| !matches!(word, Word::Offered);
                assert!(
                    forgotten.board.values().all(settled),
                    "{worker:?} is forgotten with an offer"
                );
            }
            Action::AnswerListen {
                worker, listener, ..
            } => {
                assert!(!self.worker(worker.0).exited);
                assert!(
                    self.worker(worker.0).uses.insert(listener),
                    "{worker:?} has {listener:?} twice"
                );
            }
            Action::RefuseListen {
                worker, listener, ..
            } => {
                assert!(!self.worker(worker.0).exited);
                assert!(
                    self.worker(worker.0).uses.contains(&listener),
                    "{worker:?} does not have {listener:?}"
                );
            }
            Action::CloseListener { listener } => {
                self.ports
                    .remove(&listener)
                    .expect("a listener is closed once");
            }
            Action::StartAccepting { listener } => self.set_accepting(listener, true),
            Action::StopAccepting { listener } => self.set_accepting(listener, false),
            Action::Offer { worker, connection } => self.offer(worker, connection),
            Action::Revoke { worker, connection } => self.revoke(worker, connection),
            Action::AskBeat { worker } => self.worker(worker.0).channel.push_back(Message::AskBeat),
            Action::Ring { worker, on } => {
                assert_ne!(
                    self.worker(worker.0).rings,
                    on,
                    "only changes of the ring are told"
                );
                self.worker(worker.0).rings = on;
                if on {
                    self.read_board(worker);
                }
            }
            Action::FreeWord { worker, connection } => {
                let word = self.worker(worker.0).board.remove(&connection);
                let taken = word == Some(Word::Taken { read: true })
                    && !self.copies.contains_key(&connection);
                assert!(
                    taken || word == Some(Word::Refused { read: true }),
                    "{connection:?}: freed {word:?}"
                );
            }
            Action::Close { connection } => self.close(connection),
            Action::Shutdown { connection } => self.shut_down(connection),
            Action::ReloadStarted { .. } => {}
            Action::ReloadEnded { ref tickets, .. } => {
                for ticket in tickets {
                    *self
                        .tickets
                        .get_mut(ticket)
                        .expect("a ticket that was given") += 1;
                }
            }
            Action::Finish { .. } => {
                assert!(self.workers.is_empty(), "finished with workers");
                assert!(self.copies.is_empty(), "finished with connections");
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation) {
        self.backoff.spawned(generation, slot, worker, self.now);
        let process = Process {
            slot,
            generation,
            mood: Mood::Prompt,
            exited: false,
            board: BTreeMap::new(),
            rings: false,
            full: false,
            uses: BTreeSet::new(),
            told: Told::Nothing,
            channel: VecDeque::new(),
            has_beaten: false,
        };
        assert!(
            self.workers.insert(worker, process).is_none(),
            "{worker:?} is started twice"
        );
        if std::mem::take(&mut self.next_spawn_fails) {
            self.events.push_back(Event::SpawnFailed {
                worker,
                reason: "no such file".into(),
            });
        }
    }

    fn told(&mut self, worker: WorkerId, what: Told) {
        let process = self.worker(worker.0);
        assert!(
            !process.exited,
            "{worker:?} is told {what:?} when it has gone"
        );
        let legal = match what {
            Told::Nothing => false,
            Told::Activate => process.told == Told::Nothing,
            Told::Drain => process.told == Told::Activate,
            Told::Kill => process.told != Told::Kill,
        };
        assert!(
            legal,
            "{worker:?} is told {what:?} after {:?}",
            process.told
        );
        process.told = what;
    }

    fn set_accepting(&mut self, listener: ListenerId, accepting: bool) {
        let port = self.ports.get_mut(&listener).expect("an open listener");
        assert_ne!(port.accepting, accepting, "only changes are told");
        port.accepting = accepting;
    }

    fn offer(&mut self, worker: WorkerId, connection: ConnectionId) {
        assert!(
            self.copies.contains_key(&connection),
            "{connection:?} is offered without a copy"
        );
        for process in self.workers.values() {
            let word = process.board.get(&connection);
            assert!(
                matches!(word, None | Some(Word::Revoked | Word::Released)),
                "{connection:?} is offered while {word:?}"
            );
        }
        assert!(
            !self.worker(worker.0).board.contains_key(&connection),
            "{worker:?} gets {connection:?} twice"
        );
        self.offered_once.insert(connection);
        let process = self.worker(worker.0);
        assert!(
            !process.exited && process.told == Told::Activate,
            "{worker:?} is offered, but {:?}",
            process.told
        );
        if process.full {
            self.events
                .push_back(Event::OfferFailed { worker, connection });
        } else {
            process.board.insert(connection, Word::Offered);
            process.channel.push_back(Message::Offer(connection));
        }
    }

    fn revoke(&mut self, worker: WorkerId, connection: ConnectionId) {
        let process = self.worker(worker.0);
        let dead = process.exited;
        let Some(word) = process.board.get_mut(&connection) else {
            let failed = Event::OfferFailed { worker, connection };
            assert!(
                self.events.contains(&failed),
                "{connection:?} is revoked, not offered"
            );
            return;
        };
        let how = match word {
            Word::Offered => {
                *word = Word::Revoked;
                Settled::Revoked
            }
            Word::Taken { read: read @ false } => {
                *read = true;
                Settled::Taken
            }
            Word::Refused { read: read @ false } => {
                *read = true;
                Settled::Refused
            }
            // Reported already; the event is under way.
            _ => return,
        };
        if dead && how != Settled::Taken {
            process.board.remove(&connection);
        }
        self.events.push_back(Event::Settled {
            worker,
            connection,
            how,
        });
    }

    fn close(&mut self, connection: ConnectionId) {
        self.copies
            .remove(&connection)
            .expect("a copy is closed once");
        let words: Vec<_> = self
            .workers
            .values()
            .filter_map(|process| process.board.get(&connection))
            .collect();
        assert_eq!(
            words,
            [&Word::Taken { read: true }],
            "{connection:?} is closed"
        );
    }

    fn shut_down(&mut self, connection: ConnectionId) {
        let listener = self
            .copies
            .remove(&connection)
            .expect("a copy is shut down once");
        let owned =
            |process: &Process| process.board.get(&connection) == Some(&Word::Taken { read: true });
        let owner_is_dead = self
            .workers
            .values()
            .any(|process| owned(process) && process.exited);
        let refused =
            self.offered_once.contains(&connection) && self.count_offers(connection) > 100;
        assert!(
            owner_is_dead || !self.ports.contains_key(&listener) || refused,
            "{connection:?} is shut down without need"
        );
    }

    fn count_offers(&self, of: ConnectionId) -> usize {
        self.count(|action| matches!(action, Action::Offer { connection, .. } if *connection == of))
    }

    /// What must hold whenever the machine has nothing to do.
    fn check(&self) {
        let on = |connection: &ConnectionId| -> Vec<Word> {
            self.workers
                .values()
                .filter_map(|process| process.board.get(connection).copied())
                .collect()
        };
        let mut waiting = 0;
        let mut never_offered = BTreeMap::new();
        for (connection, listener) in &self.copies {
            let words = on(connection);
            let claims = words
                .iter()
                .filter(|word| !matches!(word, Word::Revoked | Word::Released))
                .count();
            assert!(claims <= 1, "{connection:?} is with two: {words:?}");
            waiting += 1 - claims;
            if !self.offered_once.contains(connection) {
                *never_offered.entry(*listener).or_insert(0) += 1;
            }
        }
        let queued: usize = self
            .ports
            .keys()
            .map(|listener| self.machine.queued(*listener))
            .sum();
        assert_eq!(queued, waiting, "a connection is lost");
        assert!(
            never_offered
                .values()
                .all(|waiting| *waiting <= self.settings.queue),
            "too many are accepted"
        );
        for (id, process) in &self.workers {
            let used = process
                .board
                .values()
                .filter(|word| !matches!(word, Word::Taken { read: true }))
                .count();
            assert!(used <= self.settings.credit, "{id:?} has too much credit");
            assert!(
                process.board.len() <= self.settings.words,
                "{id:?} has too many words"
            );
        }
        self.check_generations();
    }

    fn check_generations(&self) {
        let states: Vec<_> = self.machine.generations().collect();
        let count = |wanted: fn(&GenerationState) -> bool| {
            states.iter().filter(|(_, state)| wanted(state)).count()
        };
        let starting = count(|state| matches!(state, GenerationState::Starting { .. }));
        let active = count(|state| matches!(state, GenerationState::Active { .. }));
        assert!(starting <= 1, "two generations start: {states:?}");
        let activated = self.backoff.newest() > Some(Generation(1)) || active == 1;
        if activated && !self.machine.is_stopping() {
            assert_eq!(active, 1, "no generation, or two, are active: {states:?}");
        }
        assert!(
            self.tickets.values().all(|told| *told <= 1),
            "somebody was told twice"
        );
        // Whoever could accept has been told to.
        let serving = Some(self.active_generation()).flatten();
        for view in self
            .machine
            .workers()
            .filter(|view| Some(view.generation.0) == serving)
        {
            assert!(
                !matches!(view.state, WorkerState::Ready { .. }),
                "{view:?} is not activated"
            );
        }
    }
}
