//! Policy `rr`: in turn, by weight.
//!
//! Each worker has a time of its next turn on a clock that only turns move. A turn puts it off by one unit over its weight,
//! so that one with weight 3 has three turns while one with weight 1 has one, evenly spread.

use std::collections::{BTreeMap, BTreeSet};

use everport_handoff::id::WorkerId;

use super::{Assembly, Choice, Member, UNIT, Verdict};

#[derive(Debug, Default)]
pub(in super::super) struct Rotation {
    turns: BTreeSet<Turn>,
    places: BTreeMap<WorkerId, Place>,
    /// When the last turn was.
    now: u128,
    /// How many places have been taken: who came earlier goes first at the same time.
    taken: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    at: u128,
    order: u64,
    worker: WorkerId,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    turn: Turn,
    stride: u128,
}

impl Rotation {
    /// The worker takes its place as if it had had its turn just now.
    pub(super) fn add(&mut self, member: Member) {
        let stride = u128::from(UNIT / u64::from(member.weight.max(1)));
        self.remove(member.worker);
        self.place(member.worker, self.now + stride, stride);
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        if let Some(place) = self.places.remove(&worker) {
            self.turns.remove(&place.turn);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = WorkerId> {
        self.turns.iter().map(|turn| turn.worker)
    }

    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        let before = rested.len();
        let mut choice = Choice::Nobody;
        for turn in &self.turns {
            match assembly.judge(turn.worker) {
                Verdict::Fits => {
                    choice = Choice::Worker(turn.worker);
                    break;
                }
                Verdict::Unfit => choice = Choice::Unfit,
                Verdict::Spent | Verdict::Absent => rested.push(turn.worker),
            }
        }
        for worker in &rested[before..] {
            self.remove(*worker);
        }
        if let Choice::Worker(worker) = choice {
            self.take_turn(worker);
        }
        choice
    }

    fn take_turn(&mut self, worker: WorkerId) {
        let Some(Place { turn, stride }) = self.places.get(&worker).copied() else { return };
        self.now = self.now.max(turn.at);
        self.turns.remove(&turn);
        self.place(worker, turn.at + stride, stride);
    }

    fn place(&mut self, worker: WorkerId, at: u128, stride: u128) {
        self.taken += 1;
        let turn = Turn { at, order: self.taken, worker };
        self.turns.insert(turn);
        self.places.insert(worker, Place { turn, stride });
    }
}
