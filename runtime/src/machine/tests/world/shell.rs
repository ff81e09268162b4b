//! What the shell, the kernel and the workers do: events in, actions out, one instant at a time. Each action is checked
//! against what has happened so far.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use everport_handoff::id::{Generation, ListenerId, Slot, WorkerId};

use super::super::super::*;
use super::{Client, Message, Mood, Plan, Port, Process, Told, Word, World};

impl World {
    /// Feeds one event, and whatever follows from it.
    pub(in crate::machine::tests) fn feed(&mut self, event: Event) {
        self.events.push_back(event);
        self.run();
    }

    pub(in crate::machine::tests) fn run(&mut self) {
        for _ in 0..100_000 {
            if self.run_events() {
                continue;
            }
            if !self.accept() && !self.let_workers_act() {
                return self.check();
            }
        }
        panic!("one instant does not end");
    }

    /// Feeds what has happened, and what follows from it at once. Returns whether it was anything.
    pub(super) fn run_events(&mut self) -> bool {
        let mut ran = false;
        for _ in 0..100_000 {
            let Some(event) = self.events.pop_front() else { return ran };
            self.handle(event);
            ran = true;
        }
        panic!("the events of one instant do not end");
    }

    fn handle(&mut self, event: Event) {
        match &event {
            // What it said last is read first.
            Event::WorkerExited { worker, .. } | Event::ChannelClosed { worker } if self.has_outbox(*worker) => {
                self.read_outbox(*worker);
                return self.events.push_back(event);
            }
            Event::WorkerExited { worker, .. } => {
                self.lose_owned(*worker);
                let process = self.worker(worker.0);
                process.exited = true;
                process.board.retain(|_, word| !matches!(word, Word::Revoked | Word::Released));
                self.end_of_worker(*worker);
            }
            Event::SpawnFailed { worker, .. } => {
                self.end_of_worker(*worker);
                self.workers.remove(worker);
            }
            Event::WorkerLeaving { worker }
                if matches!(self.state(worker.0), Some(WorkerState::Active { .. } | WorkerState::Paused { .. })) =>
            {
                self.end_of_worker(*worker);
            }
            Event::KillAsked { worker } if self.state(worker.0).is_some() => {
                let serves = |state| {
                    matches!(
                        state,
                        WorkerState::Active { .. } | WorkerState::Paused { .. } | WorkerState::Leaving { .. }
                    )
                };
                if self.state(worker.0).is_some_and(serves) && !self.machine.is_stopping() {
                    self.dismissed.insert(*worker);
                    self.end_of_worker(*worker);
                }
            }
            Event::ChannelClosed { worker } | Event::WorkerBroke { worker, .. } => self.mute(*worker),
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
        self.backoff.closed(self.machine.slots());
    }

    fn end_of_worker(&mut self, worker: WorkerId) {
        let process = &self.workers[&worker];
        self.backoff.ended(process.generation, process.slot, worker, self.now);
    }

    /// Accepts from one port, for `room` is to be asked again when the connections of the last one have been fed.
    fn accept(&mut self) -> bool {
        for (&listener, port) in &mut self.ports {
            let room = if port.accepting { self.machine.room(listener) } else { 0 };
            if room.min(port.backlog) > 0 && self.machine.wants_loads(listener, self.now) {
                return self.read_loads();
            }
            for _ in 0..room.min(port.backlog) {
                port.backlog -= 1;
                self.last_connection += 1;
                let connection = ConnectionId(self.last_connection);
                self.copies.insert(connection, listener);
                let client = Client(self.last_connection);
                self.clients.insert(connection, client);
                self.connected.insert(client, listener);
                let key = self.keys.pop_front().unwrap_or(Some(connection.0));
                self.events.push_back(Event::Accepted { listener, connection, key });
            }
            if !self.events.is_empty() {
                return true;
            }
        }
        false
    }

    /// Tells what the boards say, and then how many connections each worker has.
    fn read_loads(&mut self) -> bool {
        let living: Vec<_> = self.workers.iter().filter(|(_, process)| !process.exited).map(|(id, _)| *id).collect();
        for worker in &living {
            self.read_board(*worker);
        }
        let active = living.iter().map(|worker| (*worker, self.workers[worker].active)).collect();
        self.events.push_back(Event::LoadsRead { active });
        true
    }

    fn let_workers_act(&mut self) -> bool {
        let acting =
            |process: &Process| process.mood != Mood::Blocked && !process.channel.is_empty() && !process.exited;
        let Some(worker) = self.workers.iter().find(|(_, process)| acting(process)).map(|(id, _)| *id) else {
            return false;
        };
        self.act(worker, self.workers[&worker].mood != Mood::Refusing);
        true
    }

    fn perform(&mut self, action: &Action) {
        match *action {
            Action::Spawn { worker, slot, generation } => self.spawn(worker, slot, generation),
            Action::Kill { worker, .. } => {
                self.told(worker, Told::Kill);
                self.cut_off_worker(worker);
                self.worker(worker.0).mood = Mood::Blocked;
                if !self.dies_slowly {
                    self.events.push_back(Event::WorkerExited { worker, exit: Exit::Signal(9) });
                }
            }
            Action::Abort { worker } => {
                self.told(worker, Told::Abort);
                self.cut_off_worker(worker);
            }
            Action::Activate { worker } => self.told(worker, Told::Activate),
            Action::Pause { worker } => self.told(worker, Told::Pause),
            Action::Drain { worker, .. } => {
                self.told(worker, Told::Drain);
                self.check_overlap(worker);
            }
            Action::Forget { worker } => {
                let forgotten = self.workers.remove(&worker).expect("a worker is forgotten once");
                assert!(forgotten.exited, "{worker:?} is forgotten while it lives");
                let settled = |word: &Word| !matches!(word, Word::Offered);
                assert!(forgotten.board.values().all(settled), "{worker:?} is forgotten with an offer");
            }
            Action::AnswerListen { worker, listener, .. } => {
                assert!(!self.worker(worker.0).exited);
                assert!(self.worker(worker.0).uses.insert(listener), "{worker:?} has {listener:?} twice");
                self.add_sockets(worker, listener);
            }
            Action::RefuseListen { worker, listener, .. } => {
                assert!(!self.worker(worker.0).exited);
                assert!(self.worker(worker.0).uses.contains(&listener), "{worker:?} does not have {listener:?}");
            }
            Action::Lend { worker, listener, slot } => self.lend(worker, listener, slot),
            Action::TakeBack { worker, listener, slot } => self.take_back_socket(worker, listener, slot),
            Action::Steer { listener, over } => self.steer(listener, over),
            Action::ShutOut { listener } => {
                let port = self.ports.get_mut(&listener).expect("an open listener");
                assert!(!std::mem::replace(&mut port.shut, true), "{listener:?} is shut twice");
            }
            Action::LetIn { listener } => {
                let port = self.ports.get_mut(&listener).expect("an open listener");
                assert!(std::mem::take(&mut port.shut), "{listener:?} is not shut");
            }
            Action::Look { listener } => {
                let awaited = self.backlog(listener) > 0;
                self.events.push_back(Event::Looked { listener, awaited });
            }
            Action::CloseListener { listener } => {
                self.ports.remove(&listener).expect("a listener is closed once");
                self.closed.insert(listener);
            }
            Action::StartAccepting { listener } => self.set_accepting(listener, true),
            Action::StopAccepting { listener } => self.set_accepting(listener, false),
            Action::Offer { worker, connection } => self.offer(worker, connection),
            Action::Revoke { worker, connection } => self.revoke(worker, connection),
            Action::AskBeat { worker } => self.worker(worker.0).channel.push_back(Message::AskBeat),
            Action::Measure { worker } => {
                let Process { memory, taken_in_all: taken, .. } = *self.worker(worker.0);
                self.events.push_back(Event::Measured { worker, memory: Some(memory), taken });
            }
            Action::RotateTicketKeys => self.has_ticket_keys = true,
            Action::SendTicketKeys { worker } => {
                assert!(self.has_ticket_keys, "there are no keys to send");
                assert!(!self.worker(worker.0).exited, "{worker:?} is sent keys when it has gone");
            }
            Action::SlotRests { generation, slot, .. } => self.backoff.rests(generation, slot),
            Action::SlotRecovered { generation, slot } => self.backoff.recovers(generation, slot, self.now),
            Action::Recycling { worker, .. } => {
                let Process { generation, slot, .. } = *self.worker(worker.0);
                self.backoff.recycled(generation, slot, worker, self.now);
                self.recycled.push(worker);
            }
            Action::Ring { worker, on } => {
                assert_ne!(self.worker(worker.0).rings, on, "only changes of the ring are told");
                self.worker(worker.0).rings = on;
                if on {
                    self.read_board(worker);
                }
            }
            Action::WatchLoad { worker, on } => {
                assert_ne!(self.worker(worker.0).watched, on, "only changes of the watch are told");
                self.worker(worker.0).watched = on;
                if on {
                    self.read_board(worker);
                }
            }
            Action::Shed { connection } => self.shed(connection),
            Action::FreeWord { worker, connection } => {
                let word = self.worker(worker.0).board.remove(&connection);
                let gone = !self.copies.contains_key(&connection) || self.is_given_away(worker, connection);
                let taken = word == Some(Word::Taken { read: true }) && gone;
                assert!(taken || word == Some(Word::Refused { read: true }), "{connection:?}: freed {word:?}");
            }
            Action::Close { connection } => self.close(connection),
            Action::Shutdown { connection } => self.shut_down(connection),
            Action::TellMoved { worker, handover } => self.tell_moved(worker, handover),
            Action::Return { worker, handover, connection } => self.take_back(worker, handover, connection),
            Action::Finish { .. } => {
                assert!(self.workers.is_empty(), "finished with workers");
                assert!(self.copies.is_empty(), "finished with connections");
            }
            _ => self.note_reload(action),
        }
    }

    /// What the machine says of reloads and stops.
    fn note_reload(&mut self, action: &Action) {
        match *action {
            Action::MeasureDraining { ref workers } => {
                let bytes = self.memory * workers.len() as u64;
                self.events.push_back(Event::DrainingMeasured { bytes });
            }
            Action::Prepare { .. } => self.prepare(),
            Action::ReloadDelayed { .. } | Action::GenerationDrained { .. } => {}
            Action::StopBegan { .. } | Action::WarnUnclaimed { .. } => {}
            Action::ReloadStarted { generation, .. } => {
                assert_eq!(self.running_reload, None, "two reloads run");
                self.running_reload = Some(generation);
            }
            Action::ProbationStarted { generation, .. } => {
                assert_eq!(self.running_reload, Some(generation), "a probation without a reload");
            }
            Action::ReloadEnded { generation, ref tickets, ref outcome, .. } => {
                let never_began = matches!(outcome, Outcome::RolledBack(Failure::Stopped | Failure::Asked { .. }));
                assert!(self.running_reload == Some(generation) || never_began, "a reload ends that does not run");
                if self.running_reload == Some(generation) {
                    self.running_reload = None;
                    let settings = self.preparing.take().filter(|_| *outcome == Outcome::Committed);
                    self.settings = settings.unwrap_or(self.settings);
                }
                let judge = match outcome {
                    Outcome::RolledBack(Failure::Asked { ticket }) => Some(ticket),
                    _ => None,
                };
                for ticket in tickets.iter().chain(judge) {
                    self.answer(*ticket);
                }
            }
            Action::NothingToRollBack { ticket } => self.answer(ticket),
            _ => panic!("nobody carries out {action:?}"),
        }
    }

    /// Binds what the configuration adds, and answers.
    fn prepare(&mut self) {
        let Plan { settings, configured, fails } = self.plan.clone();
        for (&listener, &spread) in &configured {
            if let Entry::Vacant(free) = self.ports.entry(listener) {
                free.insert(Port::new(spread));
                self.events.push_back(Event::ListenerBound { listener, spread, configured: true });
            }
        }
        if fails {
            return self.events.push_back(Event::PrepareFailed { reason: "no such key".to_owned() });
        }
        self.preparing = Some(settings);
        if let Some(generation) = self.running_reload {
            self.limits.insert(generation, settings.max_connections);
        }
        self.events
            .push_back(Event::Prepared { settings: Box::new(settings), configured: configured.into_keys().collect() });
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
            memory: 0,
            taken_in_all: 0,
            active: 0,
            watched: false,
            owned: BTreeSet::new(),
            under_way: BTreeMap::new(),
            outbox: VecDeque::new(),
            cut_off: false,
            is_mute: false,
            told: Told::Nothing,
            channel: VecDeque::new(),
            has_beaten: false,
        };
        assert!(self.workers.insert(worker, process).is_none(), "{worker:?} is started twice");
        if std::mem::take(&mut self.next_spawn_fails) {
            self.events.push_back(Event::SpawnFailed { worker, reason: "no such file".into() });
        }
    }

    fn told(&mut self, worker: WorkerId, what: Told) {
        let process = self.worker(worker.0);
        assert!(!process.exited, "{worker:?} is told {what:?} when it has gone");
        let legal = match what {
            Told::Nothing => false,
            Told::Activate => matches!(process.told, Told::Nothing | Told::Pause),
            Told::Pause => process.told == Told::Activate,
            // One that came up paused was never activated.
            Told::Drain => matches!(process.told, Told::Nothing | Told::Activate | Told::Pause),
            Told::Abort => matches!(process.told, Told::Nothing | Told::Activate | Told::Pause),
            Told::Kill => process.told != Told::Kill,
        };
        assert!(legal, "{worker:?} is told {what:?} after {:?}", process.told);
        process.told = what;
    }

    fn answer(&mut self, ticket: Ticket) {
        *self.tickets.get_mut(&ticket).expect("a ticket that was given") += 1;
    }

    fn set_accepting(&mut self, listener: ListenerId, accepting: bool) {
        let port = self.ports.get_mut(&listener).expect("an open listener");
        assert_ne!(port.accepting, accepting, "only changes are told");
        port.accepting = accepting;
    }
}
