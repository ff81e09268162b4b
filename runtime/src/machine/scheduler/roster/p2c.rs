//! Policy `p2c`: the better of two workers, chosen at random.

use std::collections::HashMap;

use everport_handoff::id::WorkerId;

use super::super::super::random::Random;
use super::{Assembly, Choice, Verdict};

#[derive(Debug)]
pub(in super::super) struct Pool {
    workers: Vec<WorkerId>,
    places: HashMap<WorkerId, usize>,
    random: Random,
}

impl Pool {
    pub(super) fn new(random: Random) -> Self {
        Self { workers: Vec::new(), places: HashMap::new(), random }
    }

    pub(super) fn add(&mut self, worker: WorkerId) {
        if !self.places.contains_key(&worker) {
            self.places.insert(worker, self.workers.len());
            self.workers.push(worker);
        }
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        let Some(place) = self.places.remove(&worker) else { return };
        self.workers.swap_remove(place);
        if let Some(moved) = self.workers.get(place) {
            self.places.insert(*moved, place);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().copied()
    }

    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        while let Some(two) = self.draw() {
            let verdicts = two.map(|worker| assembly.judge(worker));
            match verdicts {
                [Verdict::Fits, Verdict::Fits] => {
                    let [one, other] = two;
                    let worker = if assembly.cost(other) < assembly.cost(one) { other } else { one };
                    return Choice::Worker(worker);
                }
                [Verdict::Fits | Verdict::Unfit, Verdict::Fits | Verdict::Unfit] => {
                    return self.choose_fitting(assembly);
                }
                _ => {
                    let is_spent = |verdict| matches!(verdict, Verdict::Spent | Verdict::Absent);
                    for (worker, _) in two.into_iter().zip(verdicts).filter(|(_, verdict)| is_spent(*verdict)) {
                        if self.places.contains_key(&worker) {
                            self.remove(worker);
                            rested.push(worker);
                        }
                    }
                }
            }
        }
        Choice::Nobody
    }

    /// Two different workers in any order; the same one twice if there is no other.
    fn draw(&mut self) -> Option<[WorkerId; 2]> {
        let count = self.workers.len() as u64;
        if count <= 1 {
            return self.workers.first().map(|only| [*only; 2]);
        }
        let first = self.random.below(count);
        let second = (first + 1 + self.random.below(count - 1)) % count;
        Some([first, second].map(|place| self.workers[place as usize]))
    }

    /// One of the two has refused this connection, or has a revoked copy of it: that is rare, so all are looked at.
    fn choose_fitting(&self, assembly: &Assembly<'_>) -> Choice {
        let fits = |worker: &&WorkerId| assembly.judge(**worker) == Verdict::Fits;
        match self.workers.iter().filter(fits).min_by_key(|worker| (assembly.cost(**worker), **worker)) {
            Some(worker) => Choice::Worker(*worker),
            None => Choice::Unfit,
        }
    }
}
