//! From actions to the outside world.

use std::io;
use std::time::Instant;

use everport_handoff::board;
use everport_handoff::bootstrap::{self, Identity};
use everport_handoff::id::{ListenerId, WorkerId};
use everport_handoff::message::{ListenFailure, Listening, Sharing, ToWorker};
use rustix::io::Errno;
use tracing::{error, info, warn};

use super::link::{Cargo, Link, Order, OrderError, Room};
use super::measure::resident_memory;
use super::poller::Source;
use super::records::Ended;
use super::{Shell, clock, records};
use crate::config::Protocol;
use crate::machine::{Action, ConnectionId, Event, KillReason, Outcome, RequestId, Settled};

impl Shell {
    /// Does what the machine says.
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, slot, generation } => self.spawn(Identity { worker, slot, generation }),
            Action::Kill { worker, why } => self.kill(worker, why),
            Action::Abort { worker } => self.abort(worker),
            Action::Activate { worker } => self.order(worker, ToWorker::Activate.into()),
            Action::Pause { worker } => {
                self.order(worker, ToWorker::Pause.into());
                self.pause_foreign(worker);
            }
            Action::Drain { worker, deadline, successor } => self.drain(worker, deadline, successor),
            Action::Forget { worker } => {
                self.links.remove(&worker);
                self.foreigners.forget(worker);
                self.drop_pins();
            }
            Action::AnswerListen { worker, request, listener, sharing } => {
                self.answer_listen(worker, request, listener, sharing);
            }
            Action::RefuseListen { worker, request, listener } => self.refuse_listen(worker, request, listener),
            Action::ShutOut { listener } => self.shut_out(listener),
            Action::LetIn { listener } => self.let_in(listener),
            Action::Look { listener } => self.look(listener),
            Action::CloseListener { listener } => self.close_listener(listener),
            Action::StartAccepting { listener } => self.accept_from(listener, true),
            Action::StopAccepting { listener } => self.accept_from(listener, false),
            Action::Lend { worker, listener, slot } => self.lend(worker, listener, slot),
            Action::TakeBack { worker, listener, slot } => {
                self.order(worker, ToWorker::Unshare { listener, socket: slot.0 }.into());
            }
            Action::Steer { listener, over } => self.steer(listener, over),
            Action::Offer { worker, connection } => self.offer(worker, connection),
            Action::Revoke { worker, connection } => self.revoke(worker, connection),
            Action::AskBeat { worker } => self.ask_beat(worker),
            Action::Measure { worker } => self.measure(worker),
            Action::Ring { worker, on } => self.ring(worker, on),
            Action::WatchLoad { worker, on } => self.watch_load(worker, on),
            Action::FreeWord { worker, connection } => {
                if let Some(link) = self.links.get_mut(&worker) {
                    link.free(connection);
                }
            }
            Action::Close { connection } => self.connections.close(connection),
            Action::TellMoved { worker, handover } => self.tell_moved(worker, handover),
            Action::Return { worker, handover, connection } => self.return_to(worker, handover, connection),
            Action::Shutdown { connection } => self.connections.shut_down(connection),
            Action::Shed { connection } => self.shed(connection),
            Action::RotateTicketKeys => self.rotate_ticket_keys(),
            Action::SendTicketKeys { worker } => self.send_ticket_keys(worker),
            Action::SlotRests { generation, slot, pace } => self.records.slot_rests(generation, slot, pace),
            Action::SlotRecovered { generation, slot } => info!(%generation, %slot, "slot recovered"),
            Action::Recycling { worker, why } => self.records.recycling(worker, why),
            Action::StopBegan { at_once: true } => info!("stopping at once"),
            Action::StopBegan { at_once: false } => info!("stopping gracefully; a second signal stops at once"),
            Action::WarnUnclaimed { listener } => self.warn_unclaimed(listener),
            Action::ReloadDelayed { why } => self.records.reload_delayed(why),
            Action::MeasureDraining { workers } => self.measure_draining(&workers),
            Action::Prepare { generation } => self.prepare(generation),
            Action::ReloadStarted { generation, tickets } => self.records.reload_started(generation, &tickets),
            Action::ProbationStarted { generation, until, phases } => {
                self.records.probation_started(generation, until, phases);
            }
            Action::ReloadEnded { generation, tickets, outcome, phases, retired } => {
                let workers = self.machine.slots();
                let strategy = self.plans.next_of(generation).map(|plan| plan.config.strategy);
                let committed = outcome == Outcome::Committed;
                self.plans.reload_ended(generation, committed);
                if committed {
                    self.retune_listeners();
                    self.apply_policies();
                }
                self.records.reload_ended(Ended { generation, retired, workers, outcome, phases, strategy }, &tickets);
                self.drop_pins();
            }
            Action::NothingToRollBack { ticket } => self.records.nothing_to_roll_back(ticket),
            Action::GenerationDrained { generation, after } => self.records.generation_drained(generation, after),
            Action::Finish { failure } => self.end = Some(failure),
        }
    }

    fn drain(&mut self, worker: WorkerId, deadline: Instant, successor: bool) {
        if let Some(link) = self.links.get_mut(&worker) {
            link.active_at_drain = Some(link.figures().active);
            let time = deadline.saturating_duration_since(clock::now());
            let grace = self.plans.of(link.identity.generation).grace(time);
            self.order(worker, ToWorker::Drain { successor, grace }.into());
        }
        self.drain_foreign(worker);
    }

    /// How much memory these workers hold together. One that ends meanwhile holds nothing.
    fn measure_draining(&mut self, workers: &[WorkerId]) {
        let processes = workers.iter().filter_map(|worker| self.links.get(worker)?.process.as_ref());
        let bytes = processes.map(|process| resident_memory(process).unwrap_or(0)).sum();
        self.note(Event::DrainingMeasured { bytes });
    }

    fn spawn(&mut self, identity: Identity) {
        let Identity { worker, slot, generation } = identity;
        self.listeners.reserve_for(self.machine.slots());
        let spawned = match self.plans.of(generation).config.protocol {
            Protocol::Everport => self.try_spawn(identity),
            Protocol::ListenFds => self.try_spawn_foreign(identity),
        };
        match spawned {
            Ok(pid) => info!(%worker, %slot, %generation, pid, "worker spawned"),
            Err(error) => {
                let reason = format!("start {:?}: {error}", self.plans.of(generation).launcher.program());
                warn!(%worker, %slot, %generation, reason, "worker not spawned");
                self.note(Event::SpawnFailed { worker, reason });
            }
        }
    }

    fn try_spawn(&mut self, identity: Identity) -> io::Result<i32> {
        let worker = identity.worker;
        let ends = bootstrap::prepare()?;
        let bell = board::bell()?;
        let bells = [bell.try_clone()?, bell];
        let inherited = &ends.inherited;
        let process = self.plans.of_mut(identity.generation).launcher.spawn(
            identity.generation,
            |command, _| inherited.pass_to(command, identity),
            &self.output,
        )?;
        let pid = process.pid();
        // This drops the worker's ends, else the master would never see the channel close.
        let link = Link::new(identity, ends, bells, process);
        if let Err(error) = self.watch(&link) {
            // Nobody has been told of this process yet, so it is ended here.
            if let Some(process) = &link.process {
                process.kill();
                process.wait()?;
            }
            return Err(error);
        }
        self.links.insert(worker, link);
        Ok(pid)
    }

    fn watch(&self, link: &Link) -> io::Result<()> {
        let worker = link.identity.worker;
        if let Some(process) = &link.process {
            self.poller.add(process, Source::Process(worker))?;
        }
        self.poller.add(&link.bell, Source::Bell(worker))?;
        Ok(self.poller.add(&link.channel, Source::Channel(worker))?)
    }

    fn kill(&mut self, worker: WorkerId, why: KillReason) {
        if let Some(process) = self.process(worker) {
            info!(%worker, pid = process.pid(), why = records::describe_kill(why), "worker killed");
            process.kill();
            self.explain_unready(worker);
        }
    }

    fn abort(&mut self, worker: WorkerId) {
        let Some(link) = self.links.get(&worker) else { return };
        let Identity { slot, generation, .. } = link.identity;
        if let Some(process) = &link.process {
            error!(%worker, %slot, %generation, pid = process.pid(), "worker hung");
            process.abort();
        }
    }

    /// The listeners have the options of the settings that count now.
    fn retune_listeners(&mut self) {
        let plan = self.plans.active();
        for (listener, address) in plan.configured.iter().zip(&plan.config.listen) {
            let Some(held) = self.listeners.get_mut(*listener) else { continue };
            match held.bound.retune(address) {
                Ok(true) => info!(listener = held.key, %address, "listener changed"),
                Ok(false) => {}
                Err(error) => warn!(listener = held.key, %address, %error, "listener not changed"),
            }
            for option in held.bound.fixed_options(address) {
                warn!(listener = held.key, option, "option changed; it counts once the listener is bound anew");
            }
        }
    }

    /// Forgets the programs of generations that are no more.
    fn drop_pins(&mut self) {
        let generations = self.machine.generations().map(|(generation, _)| generation);
        let generations = generations.collect();
        self.plans.keep_pins(&generations);
    }

    /// Gives an order to a worker; one that does not read its orders is broken.
    pub(super) fn order(&mut self, worker: WorkerId, order: Order) {
        if let Some(link) = self.links.get_mut(&worker) {
            let room = link.order(order);
            self.heed_room(worker, room);
        }
    }

    /// Makes sure that a channel is looked at again when it may take more.
    pub(super) fn heed_room(&mut self, worker: WorkerId, room: Result<Room, OrderError>) {
        match room {
            Ok(Room::Enough | Room::Closed) => {}
            Ok(Room::Full) => self.want_room(worker, true),
            Ok(Room::Starved) => {
                // The channel itself may be writable all the time.
                self.want_room(worker, false);
                self.records.exhausted(&io::Error::other("too many descriptors are under way to the workers"));
                self.starved.insert(worker);
                self.note(Event::AcceptExhausted);
            }
            Err(error) => self.broke(worker, error.to_string()),
        }
    }

    fn ask_beat(&mut self, worker: WorkerId) {
        // A worker whose channel is full would not see this one either.
        if self.links.get(&worker).is_some_and(|link| !link.is_full()) {
            self.order(worker, ToWorker::Beat.into());
        }
    }

    fn ring(&mut self, worker: WorkerId, on: bool) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        link.ask_ring(on);
        if on {
            self.read_board(worker);
        }
    }

    fn offer(&mut self, worker: WorkerId, connection: ConnectionId) {
        let staged = match self.links.get_mut(&worker) {
            Some(link) => {
                if !link.has_staged() {
                    self.staged.push(worker);
                }
                link.stage(connection)
            }
            None => Ok(false),
        };
        match staged {
            Ok(true) => {
                if self.links.get_mut(&worker).is_some_and(Link::note_unsettled) {
                    self.unsettled.push(worker);
                }
            }
            Ok(false) => self.note(Event::OfferFailed { worker, connection }),
            Err(_) => {
                self.note(Event::OfferFailed { worker, connection });
                self.broke(worker, "it wrote on a free word of its board".to_owned());
            }
        }
    }

    fn revoke(&mut self, worker: WorkerId, connection: ConnectionId) {
        let moves = self.links.get_mut(&worker).map(|link| link.revoke(connection)).unwrap_or_default();
        self.note_moves(worker, moves.into_iter().map(|how| (connection, how)));
    }

    /// Puts the staged offers into the channels, until none is left: those that fail go to others.
    pub(super) fn send_offers(&mut self) {
        while let Some(worker) = self.staged.pop() {
            let Some(link) = self.links.get_mut(&worker) else { continue };
            let sent = link.send_offers(&self.connections);
            for connection in sent.failed {
                self.note(Event::OfferFailed { worker, connection });
            }
            for connection in sent.unsayable {
                warn!(connection = connection.0, "connection ended: no message can hold its offer");
                self.connections.shut_down(connection);
                // For the machine it has an owner, who ended it.
                self.note(Event::Settled { worker, connection, how: Settled::Taken });
            }
            self.heed_room(worker, sent.room);
            self.pump();
        }
    }

    fn warn_unclaimed(&self, listener: ListenerId) {
        if let Some(held) = self.listeners.get(listener) {
            warn!(listener = held.key, "no worker took this listener; its clients wait for nobody");
        }
    }

    fn accept_from(&mut self, listener: ListenerId, on: bool) {
        let Some(held) = self.listeners.get_mut(listener) else { return };
        if std::mem::replace(&mut held.accepting, on) == on {
            return;
        }
        match on {
            false => self.poller.remove(&*held),
            true => {
                if let Err(error) = self.poller.add(&*held, Source::Listener(listener)) {
                    held.accepting = false;
                    warn!(listener = held.key, %error, "listener not watched");
                }
            }
        }
    }

    fn shut_out(&mut self, listener: ListenerId) {
        let Some(held) = self.listeners.get_mut(listener) else { return };
        match held.bound.shut_out() {
            Ok(()) => info!(listener = held.key, "listener shut; those who wait there are served yet"),
            Err(error) => warn!(listener = held.key, %error, "listener not shut before its end"),
        }
    }

    fn let_in(&mut self, listener: ListenerId) {
        let Some(held) = self.listeners.get_mut(listener) else { return };
        match held.bound.let_in() {
            Ok(()) => info!(listener = held.key, "listener open again: the new generation uses it"),
            Err(error) => error!(listener = held.key, %error, "listener stays shut"),
        }
    }

    fn look(&mut self, listener: ListenerId) {
        // One that cannot be looked at is not worth waiting for.
        let awaited = self.listeners.get(listener).is_some_and(|held| held.bound.is_awaited().unwrap_or(false));
        self.note(Event::Looked { listener, awaited });
    }

    fn close_listener(&mut self, listener: ListenerId) {
        self.accept_from(listener, false);
        if let Some(held) = self.listeners.get(listener) {
            info!(listener = held.key, "listener closed");
        }
        self.listeners.close(listener);
    }

    fn answer_listen(&mut self, worker: WorkerId, request: RequestId, listener: ListenerId, sharing: Sharing) {
        let Some(slot) = self.links.get(&worker).map(|link| link.identity.slot) else { return };
        let copy = self.socket_for(listener, slot);
        let Some(held) = self.listeners.get(listener) else { return };
        let (answer, fd) = match copy {
            Ok(fd) => {
                let shared = fd.is_some().then_some(sharing);
                (Ok(Listening { listener, local: held.bound.local().clone(), shared }), fd)
            }
            Err(error) => {
                let reason = format!("give {} to a worker of slot {slot}: {error}", held.key);
                self.note(Event::ListenerClosed { worker, listener });
                (Err(ListenFailure { errno: error.raw_os_error(), reason }), None)
            }
        };
        let order = Order {
            message: ToWorker::Listening { request: request.0, answer },
            cargo: fd.map_or(Cargo::None, Cargo::Descriptor),
        };
        self.order(worker, order);
    }

    fn refuse_listen(&mut self, worker: WorkerId, request: RequestId, listener: ListenerId) {
        let key = self.listeners.get(listener).map_or("", |held| &held.key);
        let failure = ListenFailure {
            errno: Some(Errno::ADDRINUSE.raw_os_error()),
            reason: format!("bind {key}: this worker listens there already"),
        };
        self.order(worker, ToWorker::Listening { request: request.0, answer: Err(failure) }.into());
    }
}
