//! Who of a listener's workers is offered the next connection: one policy each, in a file of its own.
//!
//! | policy | how it finds one of n workers | cost |
//! |---|---|---|
//! | [`rr`] | the one whose turn comes first, by a clock that runs slower for those with more weight | O(log n) |
//! | [`least`] | the one with the fewest connections for its weight, also if it has to be waited for | O(log n) |
//! | [`p2c`] | the better of two at random | O(1) |
//! | [`hash`] | the one that stands for the client in a table | O(1), and O(n) for clients of one that cannot take any |
//!
//! A roster knows workers by id, weight and slot, and asks an [`Assembly`] for what changes with every connection. It finds
//! out that a worker cannot take anything only when it chooses that one, drops it, and is given it back when it can.

mod hash;
mod least;
mod p2c;
mod rr;

use std::collections::BTreeMap;
use std::time::Instant;

use everport_handoff::id::{Slot, WorkerId};

use super::super::random::Random;
use super::super::{ConnectionId, OfferedPolicy, Settings};
use super::Connection;
use super::worker::{Pace, Standing, Worker};
use hash::Table;
use least::Ranking;
use p2c::Pool;
use rr::Rotation;

/// What one load, of a worker with weight 1, counts: a number that all small weights divide, so that their shares are exact.
const UNIT: u64 = 232_792_560;

#[derive(Debug)]
pub(super) enum Roster {
    RoundRobin(Rotation),
    Least(Ranking),
    TwoChoices(Pool),
    Hash(Table),
}

/// A worker, as far as it stays the same from one connection to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) worker: WorkerId,
    pub(super) slot: Slot,
    /// Not zero.
    pub(super) weight: u32,
}

/// What the roster found for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Worker(WorkerId),
    /// This worker alone, for it will have credit soon, or until then.
    WaitFor(WorkerId, Instant),
    /// Whoever comes next, or until then: the one that should have it will have credit soon.
    Wait(Instant),
    /// All who could take something have refused this very connection, or still have a revoked copy of it.
    Unfit,
    Nobody,
}

/// What is to be said of one worker now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fits,
    /// It can take something, but not this connection.
    Unfit,
    /// It can take nothing at the moment.
    Spent,
    /// It can take nothing and is not worth waiting for.
    Absent,
}

/// The workers as they are now, in the eyes of one connection, or of none in particular.
pub(super) struct Assembly<'a> {
    pub(super) workers: &'a BTreeMap<WorkerId, Worker>,
    pub(super) settings: &'a Settings,
    pub(super) now: Instant,
    pub(super) connection: Option<Applicant<'a>>,
}

/// The connection for which somebody is sought.
pub(super) struct Applicant<'a> {
    pub(super) id: ConnectionId,
    pub(super) waiting: &'a Connection,
}

impl Assembly<'_> {
    fn judge(&self, id: WorkerId) -> Verdict {
        let Some(worker) = self.workers.get(&id) else { return Verdict::Absent };
        match worker.standing {
            _ if worker.can_be_offered(self.settings) => match self.suits(id) {
                true => Verdict::Fits,
                false => Verdict::Unfit,
            },
            Standing::Active { pace: Pace::Prompt | Pace::Wanted { .. }, .. } if !worker.is_full() => Verdict::Spent,
            _ => Verdict::Absent,
        }
    }

    /// Whether the worker could have this connection, if it can take anything: it has not refused it, nor still a copy of it.
    fn suits(&self, id: WorkerId) -> bool {
        self.connection.as_ref().is_none_or(|Applicant { id: connection, waiting }| {
            let fits = |worker: &Worker| waiting.fits(*connection, id, worker);
            self.workers.get(&id).is_some_and(fits) && !waiting.refused_by.contains(&id)
        })
    }

    fn key(&self) -> Option<u64> {
        self.connection.as_ref().and_then(|applicant| applicant.waiting.key)
    }

    /// What one more connection makes of this worker: its load over its weight.
    fn cost(&self, id: WorkerId) -> u64 {
        let cost = |worker: &Worker| {
            let weight = u64::from(worker.weight.max(1));
            worker.load().saturating_add(1).saturating_mul(UNIT / weight)
        };
        self.workers.get(&id).map_or(u64::MAX, cost)
    }
}

impl Roster {
    pub(super) fn new(policy: OfferedPolicy, random: Random) -> Self {
        match policy {
            OfferedPolicy::RoundRobin => Self::RoundRobin(Rotation::default()),
            OfferedPolicy::Least => Self::Least(Ranking::default()),
            OfferedPolicy::TwoChoices => Self::TwoChoices(Pool::new(random)),
            OfferedPolicy::Hash => Self::Hash(Table::default()),
        }
    }

    pub(super) fn policy(&self) -> OfferedPolicy {
        match self {
            Self::RoundRobin(_) => OfferedPolicy::RoundRobin,
            Self::Least(_) => OfferedPolicy::Least,
            Self::TwoChoices(_) => OfferedPolicy::TwoChoices,
            Self::Hash(_) => OfferedPolicy::Hash,
        }
    }

    /// Whether a connection may have to wait although somebody could take it.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Least(_) | Self::Hash(_))
    }

    /// Whether it matters here how many connections each worker has.
    pub(super) fn goes_by_load(&self) -> bool {
        matches!(self, Self::Least(_) | Self::TwoChoices(_))
    }

    /// The worker can be chosen from now on.
    pub(super) fn add(&mut self, member: Member) {
        match self {
            Self::RoundRobin(rotation) => rotation.add(member),
            Self::Least(ranking) => ranking.add(member.worker),
            Self::TwoChoices(pool) => pool.add(member.worker),
            Self::Hash(table) => table.add(member),
        }
    }

    /// The worker cannot be chosen any more.
    pub(super) fn remove(&mut self, worker: WorkerId) {
        match self {
            Self::RoundRobin(rotation) => rotation.remove(worker),
            Self::Least(ranking) => ranking.remove(worker),
            Self::TwoChoices(pool) => pool.remove(worker),
            Self::Hash(table) => table.remove(worker),
        }
    }

    /// The worker, which is here, may have fewer connections than it had.
    pub(super) fn relieved(&mut self, worker: WorkerId) {
        if let Self::Least(ranking) = self {
            ranking.relieved(worker);
        }
    }

    /// Finds a worker for a connection. Those that turn out to have nothing to give come into `rested`.
    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        match self {
            Self::RoundRobin(rotation) => rotation.choose(assembly, rested),
            Self::Least(ranking) => ranking.choose(assembly, rested),
            Self::TwoChoices(pool) => pool.choose(assembly, rested),
            Self::Hash(table) => table.choose(assembly, rested),
        }
    }

    /// Whether somebody could take a connection. Looks no further than to the first.
    pub(super) fn has_credit(&self, workers: &BTreeMap<WorkerId, Worker>, settings: &Settings) -> bool {
        let can = |id: WorkerId| workers.get(&id).is_some_and(|worker| worker.can_be_offered(settings));
        match self {
            Self::RoundRobin(rotation) => rotation.members().any(can),
            Self::Least(ranking) => ranking.members().any(can),
            Self::TwoChoices(pool) => pool.members().any(can),
            Self::Hash(table) => table.members().any(can),
        }
    }

    /// Drops those that would be chosen and can take nothing, up to the first that can.
    pub(super) fn skip_spent(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) {
        let is_spent = |worker: &WorkerId| assembly.judge(*worker) != Verdict::Fits;
        let spent: Vec<_> = match self {
            Self::RoundRobin(rotation) => rotation.members().take_while(is_spent).collect(),
            Self::Least(ranking) => ranking.members().take_while(is_spent).collect(),
            Self::TwoChoices(pool) => pool.members().take_while(is_spent).collect(),
            Self::Hash(table) => table.members().take_while(is_spent).collect(),
        };
        for worker in spent {
            self.rest(worker, assembly.now);
            rested.push(worker);
        }
    }

    fn rest(&mut self, worker: WorkerId, now: Instant) {
        match self {
            // They are waited for, a little.
            Self::Hash(table) => table.rest(worker, now),
            Self::Least(ranking) => ranking.rest(worker, now),
            Self::RoundRobin(_) | Self::TwoChoices(_) => self.remove(worker),
        }
    }
}
