//! How many connections each worker has, how many it may have, and how much it shall get.
//!
//! A worker's *load* is what it says that it has, as the shell last read it, and what it was given since: offers that it has
//! not settled, and those that it took. What has ended since then is not known, so a load is never too low. A worker that
//! seems full is *watched*: its load is read at once, and again whenever one of its connections ends.

use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, Slot, WorkerId};

use super::super::{Action, OfferedPolicy};
use super::lane::{Gate, Lane};
use super::roster::{Member, Roster};
use super::worker::{Seat, Standing, Worker};
use super::{ConnectionId, Scheduler};

/// How much a slot gets of which nobody said anything.
const WEIGHT: u32 = 1;

/// How old the loads may be at a batch of connections. In a shorter time they are read only when many have come: so it
/// costs each connection next to nothing, and one that comes alone does not see the loads of long ago.
const FRESH: Duration = Duration::from_millis(10);

/// What is known of one worker's load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// What it said that it has.
    active: u64,
    /// How many it took since then, as far as is known.
    taken: u64,
    limit: Option<u64>,
    watch: Watch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    Off,
    /// When the answer to the order is on its way.
    Ordered,
    /// When every change is told, so that a worker that seems full is full.
    On,
}

impl Load {
    pub(super) fn new(limit: Option<u64>) -> Self {
        Self { active: 0, taken: 0, limit, watch: Watch::Off }
    }

    pub(super) fn count_taken(&mut self) {
        self.taken = self.taken.saturating_add(1);
    }
}

impl Worker {
    /// How many connections it has, or has been offered.
    pub(super) fn load(&self) -> u64 {
        let untaken = u64::try_from(self.untaken()).unwrap_or(u64::MAX);
        self.load.active.saturating_add(self.load.taken).saturating_add(untaken)
    }

    pub(super) fn is_limited(&self) -> bool {
        self.load.limit.is_some()
    }

    pub(super) fn is_full(&self) -> bool {
        self.load.limit.is_some_and(|limit| self.load() >= limit)
    }

    /// How many more connections it may have.
    pub(super) fn places(&self) -> usize {
        let free = |limit: u64| usize::try_from(limit.saturating_sub(self.load())).unwrap_or(usize::MAX);
        self.load.limit.map_or(usize::MAX, free)
    }

    /// Whether it shall get connections of this listener, as soon as it can.
    pub(super) fn serves(&self, listener: ListenerId) -> bool {
        self.is_active() && self.weight > 0 && self.seats.contains_key(&listener)
    }

    fn member(&self, worker: WorkerId) -> Member {
        Member { worker, slot: self.slot, weight: self.weight }
    }
}

/// When all loads were last read.
#[derive(Debug, Default)]
pub(super) struct Loads {
    read: Option<Instant>,
    /// How many connections were accepted since then.
    accepted: usize,
}

impl Loads {
    pub(super) fn count_accepted(&mut self) {
        self.accepted = self.accepted.saturating_add(1);
    }
}

impl Scheduler {
    pub(in crate::machine) fn weight(&self, slot: Slot) -> u32 {
        self.weights.get(&slot).copied().unwrap_or(WEIGHT)
    }

    pub(in crate::machine) fn set_weight(&mut self, slot: Slot, weight: u32) {
        match weight {
            // Else boards would be read for its sake for ever.
            WEIGHT => self.weights.remove(&slot),
            _ => self.weights.insert(slot, weight),
        };
        let of_slot = |(_, worker): &(&WorkerId, &Worker)| worker.slot == slot;
        let workers: Vec<_> = self.workers.iter().filter(of_slot).map(|(id, _)| *id).collect();
        for id in workers {
            let Some(worker) = self.workers.get_mut(&id) else { continue };
            worker.weight = weight;
            for (listener, seat) in &mut worker.seats {
                *seat = Seat::Out;
                if let Some(lane) = self.lanes.get_mut(listener) {
                    lane.roster.remove(id);
                    lane.unpark(id);
                }
            }
            self.recount_all(id);
            self.seat(id);
        }
    }

    pub(in crate::machine) fn policy(&self, listener: ListenerId) -> Option<OfferedPolicy> {
        let lane = self.lanes.get(&listener).filter(|lane| lane.gate != Gate::Shared);
        lane.map(|lane| lane.roster.policy())
    }

    /// From now on the listener's connections go by this policy. What is on offer already stays where it is.
    pub(in crate::machine) fn set_policy(&mut self, listener: ListenerId, policy: OfferedPolicy) {
        let roster = self.roster(policy);
        let is_other = |lane: &&mut Lane| lane.roster.policy() != policy && lane.gate != Gate::Shared;
        let Some(lane) = self.lanes.get_mut(&listener).filter(is_other) else { return };
        lane.unpark_all();
        lane.roster = roster;
        self.stirred.push(listener);
        let mut users = Vec::new();
        for (id, worker) in &mut self.workers {
            if let Some(seat) = worker.seats.get_mut(&listener) {
                *seat = Seat::Out;
                users.push(*id);
            }
        }
        // It reads the loads first, if it goes by them.
        self.loads.read = None;
        for worker in users {
            self.seat(worker);
        }
    }

    pub(super) fn roster(&mut self, policy: OfferedPolicy) -> Roster {
        Roster::new(policy, self.random.split())
    }

    /// Whether connections that nobody may have are closed.
    pub(in crate::machine) fn set_shed(&mut self, shed: bool) {
        self.settings.shed = shed;
        self.stir_all();
    }

    /// Whether boards and loads must be read before connections of this listener are accepted: where the policy goes by
    /// loads, and where weights are to be kept, for one that seems to lack credit gives its turn to another.
    pub(in crate::machine) fn wants_loads(&self, listener: ListenerId, now: Instant) -> bool {
        let is_stale = |read| now.saturating_duration_since(read) >= FRESH;
        let is_due = || self.loads.accepted >= self.workers.len() || self.loads.read.is_none_or(is_stale);
        let matters = |lane: &Lane| lane.roster.goes_by_load() || !self.weights.is_empty();
        self.lanes.get(&listener).is_some_and(matters) && is_due()
    }

    /// The workers have so many connections, each.
    pub(in crate::machine) fn loads_read(&mut self, active: &[(WorkerId, u64)], now: Instant) {
        self.loads = Loads { read: Some(now), accepted: 0 };
        for &(worker, active) in active {
            self.load_read(worker, active);
        }
    }

    pub(in crate::machine) fn load_read(&mut self, id: WorkerId, active: u64) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let before = worker.load;
        worker.load = Load { active, taken: 0, ..before };
        if active != before.active.saturating_add(before.taken) {
            self.seat(id);
        }
    }

    /// As `load_read`, of a worker that is watched.
    pub(in crate::machine) fn watched_load_read(&mut self, id: WorkerId, active: u64) {
        self.load_read(id, active);
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.load.watch == Watch::Ordered) {
            worker.load.watch = Watch::On;
            // What waits may have to be shed.
            self.stirred.extend(worker.seats.keys());
        }
    }

    pub(super) fn set_watch(&mut self, worker: WorkerId, actions: &mut Vec<Action>) {
        let Some(touched) = self.workers.get_mut(&worker).filter(|worker| worker.standing != Standing::Dead) else {
            return;
        };
        let on = touched.is_active() && touched.is_full();
        if on != (touched.load.watch != Watch::Off) {
            touched.load.watch = if on { Watch::Ordered } else { Watch::Off };
            actions.push(Action::WatchLoad { worker, on });
        }
    }

    /// Gives a worker its place in the rosters again that it left.
    pub(super) fn seat(&mut self, worker: WorkerId) {
        let Some(seated) = self.workers.get_mut(&worker) else {
            return;
        };
        self.touched.push(worker);
        if !seated.can_be_offered(&self.settings) {
            return;
        }
        let (member, is_limited) = (seated.member(worker), seated.is_limited());
        for (listener, seat) in &mut seated.seats {
            let Some(lane) = self.lanes.get_mut(listener) else { continue };
            match seat {
                Seat::In => {
                    lane.roster.relieved(worker);
                    // It may have been full, unnoticed by the roster, and the gate closed for that.
                    if is_limited {
                        self.stirred.push(*listener);
                    }
                }
                Seat::Out => {
                    *seat = Seat::In;
                    lane.roster.add(member);
                    lane.unpark(worker);
                    self.stirred.push(*listener);
                }
            }
        }
    }

    /// How many more connections the listener's workers, of which there are some, may have together; no more than `most` are
    /// counted.
    pub(super) fn places(&self, listener: ListenerId, most: usize) -> usize {
        if self.limited == 0 {
            return most;
        }
        let mut places = 0_usize;
        for worker in self.workers.values().filter(|worker| worker.serves(listener)) {
            places = places.saturating_add(worker.places());
            if places >= most {
                return most;
            }
        }
        places
    }

    /// Whether this connection, for which there is nobody, is to be closed. One that lived already waits on.
    pub(super) fn sheds(&self, listener: ListenerId, connection: ConnectionId) -> bool {
        let lane = self.lanes.get(&listener).filter(|lane| !lane.given.contains(&connection));
        lane.is_some_and(|lane| self.are_all_full(listener, lane))
    }

    /// Whether new connections of this listener are shed: every worker of it is full, and known to be.
    pub(super) fn are_all_full(&self, listener: ListenerId, lane: &Lane) -> bool {
        let is_full = |worker: &Worker| worker.is_full() && worker.load.watch == Watch::On;
        let mut users = self.workers.values().filter(|worker| worker.serves(listener));
        self.settings.shed && lane.users > 0 && lane.gate != Gate::Shared && users.all(is_full)
    }

    pub(super) fn shed(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        if self.connections.remove(&connection).is_some() {
            actions.push(Action::Shed { connection });
        }
    }
}
