//! Policy `least`: to the worker with the fewest connections for its weight.
//!
//! The workers are ranked by what one more connection would make of them. A rank is put right when its worker comes to the
//! front, so that a connection moves one worker in the ranking and no other.
//!
//! Invariant: no worker's rank is higher than what it costs now; whoever has lost connections since is
//! [`relieved`](Ranking::relieved).

use std::collections::{BTreeSet, HashMap};

use everport_handoff::id::WorkerId;

use super::{Assembly, Choice, Verdict};

#[derive(Debug, Default)]
pub(in super::super) struct Ranking {
    ranks: BTreeSet<Rank>,
    places: HashMap<WorkerId, Rank>,
    /// How many ranks have been given: among equals, whoever got none for longest goes first.
    given: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    cost: u64,
    order: u64,
    worker: WorkerId,
}

impl Ranking {
    /// The worker comes to the front, where its rank is put right.
    pub(super) fn add(&mut self, worker: WorkerId) {
        self.given += 1;
        self.rank(Rank { cost: 0, order: self.given, worker });
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        if let Some(rank) = self.places.remove(&worker) {
            self.ranks.remove(&rank);
        }
    }

    pub(super) fn relieved(&mut self, worker: WorkerId) {
        if let Some(rank) = self.places.get(&worker).copied() {
            self.rank(Rank { cost: 0, ..rank });
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = WorkerId> {
        self.ranks.iter().map(|rank| rank.worker)
    }

    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        self.put_front_right(assembly, rested);
        match self.ranks.first().map(|rank| (rank.worker, assembly.judge(rank.worker))) {
            None => Choice::Nobody,
            Some((worker, Verdict::Fits)) => self.take(worker, assembly),
            Some(_) => self.choose_unlike_the_first(assembly),
        }
    }

    /// Until the first in the ranking can take something, and is as good as its rank.
    fn put_front_right(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) {
        while let Some(rank) = self.ranks.first().copied() {
            let cost = assembly.cost(rank.worker);
            if matches!(assembly.judge(rank.worker), Verdict::Spent | Verdict::Absent) {
                self.remove(rank.worker);
                rested.push(rank.worker);
            } else if cost > rank.cost {
                self.rank(Rank { cost, ..rank });
            } else {
                return;
            }
        }
    }

    /// The first has refused this connection, or has a revoked copy of it: that is rare, so all are looked at.
    fn choose_unlike_the_first(&mut self, assembly: &Assembly<'_>) -> Choice {
        let fits = |rank: &&Rank| assembly.judge(rank.worker) == Verdict::Fits;
        let best = self.ranks.iter().filter(fits).min_by_key(|rank| (assembly.cost(rank.worker), rank.order));
        match best.map(|rank| rank.worker) {
            Some(worker) => self.take(worker, assembly),
            None => Choice::Unfit,
        }
    }

    /// The worker gets the connection, and goes behind its equals.
    fn take(&mut self, worker: WorkerId, assembly: &Assembly<'_>) -> Choice {
        self.given += 1;
        self.rank(Rank { cost: assembly.cost(worker), order: self.given, worker });
        Choice::Worker(worker)
    }

    fn rank(&mut self, rank: Rank) {
        if let Some(before) = self.places.insert(rank.worker, rank) {
            self.ranks.remove(&before);
        }
        self.ranks.insert(rank);
    }
}
