//! The boards, and the copies of connections: what a worker and the shell do with an offer.

use everport_handoff::id::WorkerId;

use super::super::super::*;
use super::{Message, Process, Told, Word, World};

impl World {
    /// The worker reads one message of its channel, and takes or refuses what it is offered.
    pub(in crate::machine::tests) fn act(&mut self, worker: WorkerId, willing: bool) {
        let process = self.workers.get_mut(&worker).expect("a worker that acts");
        match process.channel.pop_front() {
            None => {}
            Some(Message::AskBeat) => process.has_beaten = true,
            Some(Message::Offer(connection)) => {
                if let Some(word) = process.board.get_mut(&connection) {
                    if *word == Word::Offered && willing {
                        process.taken_in_all += 1;
                        process.active += 1;
                        process.owned.insert(self.clients[&connection]);
                    }
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
    pub(super) fn read_board(&mut self, worker: WorkerId) {
        let process = self.workers.get_mut(&worker).expect("a board is read while it exists");
        if process.exited {
            return;
        }
        if std::mem::take(&mut process.has_beaten) {
            self.events.push_back(Event::Beat { worker });
        }
        let mut report = |connection, how| self.events.push_back(Event::Settled { worker, connection, how });
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
        if process.watched {
            self.events.push_back(Event::LoadRead { worker, active: process.active });
        }
    }

    pub(super) fn offer(&mut self, worker: WorkerId, connection: ConnectionId) {
        assert!(self.copies.contains_key(&connection), "{connection:?} is offered without a copy");
        for process in self.workers.values() {
            let word = process.board.get(&connection);
            assert!(
                matches!(word, None | Some(Word::Revoked | Word::Released)),
                "{connection:?} is offered while {word:?}"
            );
        }
        assert!(!self.worker(worker.0).board.contains_key(&connection), "{worker:?} gets {connection:?} twice");
        self.offered_once.insert(connection);
        let process = self.worker(worker.0);
        assert!(!process.exited && process.told == Told::Activate, "{worker:?} is offered, but {:?}", process.told);
        if process.full {
            self.events.push_back(Event::OfferFailed { worker, connection });
        } else {
            process.board.insert(connection, Word::Offered);
            process.channel.push_back(Message::Offer(connection));
        }
    }

    pub(super) fn revoke(&mut self, worker: WorkerId, connection: ConnectionId) {
        let process = self.worker(worker.0);
        let dead = process.exited;
        let Some(word) = process.board.get_mut(&connection) else {
            let failed = Event::OfferFailed { worker, connection };
            assert!(self.events.contains(&failed), "{connection:?} is revoked, not offered");
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
            Word::Taken { read: true } | Word::Refused { read: true } => return,
            Word::Revoked | Word::Released => panic!("{connection:?} is revoked twice"),
        };
        if dead && how != Settled::Taken {
            process.board.remove(&connection);
        }
        self.events.push_back(Event::Settled { worker, connection, how });
    }

    pub(super) fn close(&mut self, connection: ConnectionId) {
        self.copies.remove(&connection).expect("a copy is closed once");
        let words: Vec<_> = self.workers.values().filter_map(|process| process.board.get(&connection)).collect();
        assert_eq!(words, [&Word::Taken { read: true }], "{connection:?} is closed");
    }

    pub(super) fn shut_down(&mut self, connection: ConnectionId) {
        let listener = self.copies.remove(&connection).expect("a copy is shut down once");
        let client = self.clients[&connection];
        let awaits = |process: &Process| !process.cut_off && process.under_way.values().any(|other| *other == client);
        assert!(!self.workers.values().any(awaits), "{client:?} is cut off, but its giver would have it back");
        self.cut_off(client);
        let owned = |process: &Process| process.board.get(&connection) == Some(&Word::Taken { read: true });
        let owner_is_dead = self.workers.values().any(|process| owned(process) && process.exited);
        let refused = self.offered_once.contains(&connection) && self.count_offers(connection) > 100;
        assert!(
            owner_is_dead || self.closed.contains(&listener) || refused,
            "{connection:?} is shut down without need"
        );
    }

    /// Closed, for no worker may have it.
    pub(super) fn shed(&mut self, connection: ConnectionId) {
        let listener = self.copies.remove(&connection).expect("a connection is shed once");
        assert!(!self.handed_over.contains(&connection), "{connection:?} is shed, and was alive");
        self.cut_off(self.clients[&connection]);
        assert!(
            self.workers
                .values()
                .all(|process| !matches!(process.board.get(&connection), Some(Word::Offered | Word::Taken { .. })))
        );
        // Whoever clears another listener serves this one no longer.
        let active = self.active_generation();
        for view in self.machine.workers().filter(|view| Some(view.generation.0) == active) {
            let process = &self.workers[&view.worker];
            let serves = matches!(view.state, WorkerState::Active { .. }) && process.uses.contains(&listener);
            // What the machine has not been told yet, it cannot know.
            let untold = |event: &Event| match event {
                Event::LoadRead { worker, .. }
                | Event::OfferFailed { worker, .. }
                | Event::Settled { worker, how: Settled::Revoked, .. } => *worker == view.worker,
                _ => false,
            };
            let refused = process.board.values().filter(|word| matches!(word, Word::Refused { .. })).count() as u64;
            let is_full = self.limit(process).is_some_and(|limit| process.load() + refused >= limit)
                || self.events.iter().any(untold);
            assert!(!serves || view.weight == 0 || process.exited || is_full, "{view:?} has room");
        }
    }

    fn count_offers(&self, of: ConnectionId) -> usize {
        self.count(|action| matches!(action, Action::Offer { connection, .. } if *connection == of))
    }
}
