//! Clients, and who owns their connections: what a worker and the shell do when a connection is handed over.

use std::collections::BTreeMap;

use everport_handoff::id::{ListenerId, WorkerId};

use super::super::super::*;
use super::{Client, Process, Word, World};

impl World {
    /// The worker hands over the connection of this client, and the master reads that at once.
    pub(in crate::machine::tests) fn hand_over(&mut self, worker: u64, client: u64) {
        self.send_over(worker, Client(client));
        self.read_outbox(WorkerId(worker));
        self.run();
    }

    /// The worker hands over the connection of this client, and the master does not read that yet.
    pub(in crate::machine::tests) fn send_over(&mut self, worker: u64, client: Client) {
        self.last_handover += 1;
        let handover = HandoverId(self.last_handover);
        let process = self.worker(worker);
        assert!(process.owned.remove(&client), "{client:?} is not its own");
        process.under_way.insert(handover, client);
        process.outbox.push_back(handover);
    }

    /// The client of a connection that a worker accepted itself.
    pub(in crate::machine::tests) fn come_in_by(&mut self, listener: ListenerId, client: Client) {
        self.connected.insert(client, listener);
    }

    pub(super) fn has_outbox(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|process| !process.outbox.is_empty())
    }

    /// The shell hears what the worker hands over: the very connection that the worker has by an offer, if the master has
    /// its copy even after a look at the board, else a new one. One that broke the protocol is heard no more.
    pub(in crate::machine::tests) fn read_outbox(&mut self, worker: WorkerId) {
        while let Some(handover) = self.worker(worker.0).outbox.pop_front() {
            self.read_board(worker);
            self.run_events();
            let client = self.worker(worker.0).under_way[&handover];
            let listener = self.connected[&client];
            let known = self.workers[&worker].board.iter().find_map(|(connection, word)| {
                let is_it = *word == Word::Taken { read: true } && self.clients[connection] == client;
                is_it.then_some(*connection)
            });
            let connection = known.unwrap_or_else(|| {
                self.last_connection += 1;
                let connection = ConnectionId(self.last_connection);
                self.copies.insert(connection, listener);
                self.clients.insert(connection, client);
                connection
            });
            self.handed_over.insert(connection);
            self.events.push_back(Event::HandedOver { worker, handover, listener, connection, key: Some(client.0) });
            self.run_events();
        }
    }

    /// Whether the worker has handed over what it took by this offer.
    pub(super) fn is_given_away(&self, worker: WorkerId, connection: ConnectionId) -> bool {
        let client = self.clients[&connection];
        self.workers[&worker].under_way.values().any(|other| *other == client)
    }

    pub(super) fn tell_moved(&mut self, worker: WorkerId, handover: HandoverId) {
        let client = self.end_handover(worker, handover);
        let giver = self.worker(worker.0);
        giver.active = giver.active.saturating_sub(1);
        if giver.watched {
            self.read_board(worker);
        }
        // Whoever took it may have handed it over again.
        let has_it = |process: &Process| {
            process.owned.contains(&client) || process.under_way.values().any(|other| *other == client)
        };
        let is_owned = self.workers.values().any(has_it) || !self.connected.contains_key(&client);
        assert!(is_owned, "{client:?} has moved to nobody");
    }

    pub(super) fn take_back(&mut self, worker: WorkerId, handover: HandoverId, connection: ConnectionId) {
        let client = self.end_handover(worker, handover);
        assert_eq!(self.clients[&connection], client, "{worker:?} is given what it did not give");
        self.copies.remove(&connection).expect("a copy is returned once");
        for process in self.workers.values() {
            let word = process.board.get(&connection);
            assert!(matches!(word, None | Some(Word::Revoked | Word::Released)), "{client:?} is {word:?} elsewhere");
        }
        self.worker(worker.0).owned.insert(client);
    }

    fn end_handover(&mut self, worker: WorkerId, handover: HandoverId) -> Client {
        let process = self.worker(worker.0);
        assert!(!process.exited && !process.cut_off, "{worker:?} cannot hear of {handover:?}");
        process.under_way.remove(&handover).expect("a handover has one outcome")
    }

    /// The worker cannot be told anything from now on.
    pub(super) fn cut_off_worker(&mut self, worker: WorkerId) {
        if let Some(process) = self.workers.get_mut(&worker) {
            process.cut_off = true;
        }
    }

    /// The master does not hear the worker any more.
    pub(super) fn mute(&mut self, worker: WorkerId) {
        self.cut_off_worker(worker);
        if let Some(process) = self.workers.get_mut(&worker) {
            process.is_mute = true;
            let unheard: Vec<_> = process.outbox.drain(..).map(|handover| process.under_way[&handover]).collect();
            for client in unheard {
                self.cut_off(client);
            }
        }
    }

    /// The worker's process has ended, and with it what it owned.
    pub(super) fn lose_owned(&mut self, worker: WorkerId) {
        let process = self.worker(worker.0);
        process.cut_off = true;
        let owned = std::mem::take(&mut process.owned);
        process.under_way.clear();
        for client in owned {
            self.cut_off(client);
        }
    }

    /// The client sees the end of its connection.
    pub(super) fn cut_off(&mut self, client: Client) {
        self.connected.remove(&client);
    }

    /// Every client that has not been cut off is with one owner: a worker, the master, or the channel between them.
    pub(super) fn check_owners(&self) {
        let mut owners: BTreeMap<Client, usize> = BTreeMap::new();
        for process in self.workers.values() {
            let sent = process.outbox.iter().map(|handover| &process.under_way[handover]);
            for client in process.owned.iter().chain(sent) {
                *owners.entry(*client).or_default() += 1;
            }
        }
        for connection in self.copies.keys() {
            let is_taken = |process: &Process| matches!(process.board.get(connection), Some(Word::Taken { .. }));
            if !self.workers.values().any(is_taken) {
                *owners.entry(self.clients[connection]).or_default() += 1;
            }
        }
        for client in self.connected.keys() {
            assert_eq!(owners.remove(client), Some(1), "{client:?} has no owner, or several");
        }
        assert!(owners.is_empty(), "somebody owns what has ended: {owners:?}");
    }
}
