//! Policy `least`: to the worker with the fewest connections for its weight.
//!
//! The workers are ranked by what one more connection would make of them. A rank is put right when its worker comes to the
//! front, so that a connection moves one worker in the ranking and no other.
//!
//! In a burst whoever takes faster would get more, for it has credit more often. So one that has no credit is waited for, while
//! it takes its offers in time and for `steal_after` at most, as long as whoever has credit would get more than a twentieth
//! more than that one has. No worker is idle meanwhile: the one that is waited for has all of its credit before it, and
//! the other more than that.
//!
//! Invariant: no worker's rank is higher than what it costs now; whoever has lost connections since is
//! [`relieved`](Ranking::relieved). One that has no credit has the rank of when that was found.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use everport_handoff::id::WorkerId;

use super::{Assembly, Choice, Verdict};

/// How much more one worker may get than another that has no credit: one part in so many.
const SLACK: u128 = 20;

#[derive(Debug, Default)]
pub(in super::super) struct Ranking {
    ranks: BTreeSet<Rank>,
    /// Of those that had no credit when they came to the front.
    spent: BTreeSet<Rank>,
    places: HashMap<WorkerId, Place>,
    /// How many ranks have been given: among equals, whoever got none for longest goes first.
    given: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    cost: u64,
    order: u64,
    worker: WorkerId,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    rank: Rank,
    /// Since when it is among the spent ones, if it is.
    spent: Option<Instant>,
}

impl Ranking {
    /// The worker comes to the front, where its rank is put right.
    pub(super) fn add(&mut self, worker: WorkerId) {
        self.given += 1;
        self.rank(Rank { cost: 0, order: self.given, worker }, None);
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        if let Some(Place { rank, spent }) = self.places.remove(&worker) {
            self.among(spent).remove(&rank);
        }
    }

    /// The worker can take nothing.
    pub(super) fn rest(&mut self, worker: WorkerId, now: Instant) {
        if let Some(place) = self.places.get(&worker).copied() {
            self.rank(place.rank, place.spent.or(Some(now)));
        }
    }

    pub(super) fn relieved(&mut self, worker: WorkerId) {
        if let Some(Place { rank, spent: None }) = self.places.get(&worker).copied() {
            self.rank(Rank { cost: 0, ..rank }, None);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = WorkerId> {
        self.ranks.iter().map(|rank| rank.worker)
    }

    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        self.put_front_right(assembly, rested);
        match self.ranks.first().map(|rank| (*rank, assembly.judge(rank.worker))) {
            None => Choice::Nobody,
            Some((first, Verdict::Fits)) => match self.better(first, assembly) {
                Some(until) => Choice::Wait(until),
                None => self.take(first.worker, assembly),
            },
            Some(_) => self.choose_unlike_the_first(assembly),
        }
    }

    /// Until the first in the ranking can take something, and is as good as its rank.
    fn put_front_right(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) {
        while let Some(rank) = self.ranks.first().copied() {
            let cost = assembly.cost(rank.worker);
            if matches!(assembly.judge(rank.worker), Verdict::Spent | Verdict::Absent) {
                self.rest(rank.worker, assembly.now);
                rested.push(rank.worker);
            } else if cost > rank.cost {
                self.rank(Rank { cost, ..rank }, None);
            } else {
                return;
            }
        }
    }

    /// Until when to wait for a spent worker that should get this connection rather than the first of the others.
    fn better(&mut self, first: Rank, assembly: &Assembly<'_>) -> Option<Instant> {
        while let Some(rank) = self.spent.first().copied() {
            let since = self.places.get(&rank.worker).and_then(|place| place.spent).unwrap_or(assembly.now);
            let until = since + assembly.settings.steal_after;
            let cost = assembly.cost(rank.worker);
            if until <= assembly.now || assembly.judge(rank.worker) != Verdict::Spent {
                self.remove(rank.worker);
            } else if cost > rank.cost {
                self.rank(Rank { cost, ..rank }, Some(since));
            } else {
                let is_far = u128::from(first.cost) * SLACK > u128::from(cost) * (SLACK + 1);
                return (is_far && assembly.suits(rank.worker)).then_some(until);
            }
        }
        None
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
        self.rank(Rank { cost: assembly.cost(worker), order: self.given, worker }, None);
        Choice::Worker(worker)
    }

    fn rank(&mut self, rank: Rank, spent: Option<Instant>) {
        if let Some(before) = self.places.insert(rank.worker, Place { rank, spent }) {
            self.among(before.spent).remove(&before.rank);
        }
        self.among(spent).insert(rank);
    }

    fn among(&mut self, spent: Option<Instant>) -> &mut BTreeSet<Rank> {
        if spent.is_some() { &mut self.spent } else { &mut self.ranks }
    }
}
