//! Policy `hash`: each client has its slot.
//!
//! Clients fall into [`BUCKETS`] by their key, and every bucket belongs to the slot that scores highest there (rendezvous
//! hashing, by weight). A score depends on bucket, slot and weight alone. So a slot that goes away leaves its buckets to the
//! others and moves none of theirs; when it comes back, it has the same ones again: over respawns and reloads, for the slot
//! stays.
//!
//! A worker without credit is waited for, for `steal_after`, one that is full or late is not; then, until it can take something,
//! the next in the order of the bucket gets its clients. Clients without an address go to the workers in turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use everport_handoff::id::{Slot, WorkerId};

use super::rr::Rotation;
use super::{Assembly, Choice, Member, Verdict};

/// So many that 128 slots get equal shares within an eighth or so, and few enough to be dealt again in no time.
const BUCKETS: usize = 1 << 13;

#[derive(Debug, Default)]
pub(in super::super) struct Table {
    slots: BTreeMap<Slot, Owner>,
    members: BTreeMap<WorkerId, Seat>,
    /// The best slot of each bucket; nothing while there is no slot.
    buckets: Vec<Best>,
    /// For clients without an address.
    rotation: Rotation,
}

#[derive(Clone, Copy, Debug)]
struct Best {
    slot: Slot,
    score: f64,
}

#[derive(Debug)]
struct Owner {
    weight: u32,
    /// The newest comes first: at a reload two share a slot for a moment.
    workers: BTreeSet<WorkerId>,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    member: Member,
    /// Since when it has been found to be able to take nothing.
    resting: Option<Instant>,
}

impl Table {
    pub(super) fn add(&mut self, member: Member) {
        let Member { worker, slot, weight } = member;
        if self.members.get(&worker).is_some_and(|seat| seat.member != member) {
            self.remove(worker);
        }
        self.members.insert(worker, Seat { member, resting: None });
        self.rotation.add(member);
        let owner = self.slots.entry(slot).or_insert_with(|| Owner { weight: 0, workers: BTreeSet::new() });
        owner.workers.insert(worker);
        if owner.weight != weight {
            self.weigh(slot, weight);
        }
    }

    pub(super) fn remove(&mut self, worker: WorkerId) {
        let Some(Seat { member, .. }) = self.members.remove(&worker) else { return };
        self.rotation.remove(worker);
        if let Some(owner) = self.slots.get_mut(&member.slot) {
            owner.workers.remove(&worker);
            if owner.workers.is_empty() {
                self.slots.remove(&member.slot);
                self.deal(member.slot);
            }
        }
    }

    /// The worker can take nothing. It keeps its buckets.
    pub(super) fn rest(&mut self, worker: WorkerId, now: Instant) {
        self.rotation.remove(worker);
        if let Some(seat) = self.members.get_mut(&worker) {
            seat.resting.get_or_insert(now);
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = WorkerId> {
        self.members.iter().filter(|(_, seat)| seat.resting.is_none()).map(|(worker, _)| *worker)
    }

    pub(super) fn choose(&mut self, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        let Some(key) = assembly.key() else {
            let before = rested.len();
            let choice = self.rotation.choose(assembly, rested);
            for worker in &rested[before..] {
                self.rest(*worker, assembly.now);
            }
            return choice;
        };
        let bucket = bucket_of(key);
        let Some(Best { slot: best, .. }) = self.buckets.get(bucket).copied() else { return Choice::Nobody };
        let mut choice = Choice::Nobody;
        match self.try_slot(best, assembly, rested) {
            Choice::Nobody => {}
            Choice::Unfit => choice = Choice::Unfit,
            found => return found,
        }
        for slot in self.in_order(bucket).filter(|slot| *slot != best).collect::<Vec<_>>() {
            match self.try_slot(slot, assembly, rested) {
                Choice::Nobody => {}
                Choice::Unfit => choice = Choice::Unfit,
                found => return found,
            }
        }
        choice
    }

    /// What the workers of one slot can do for a connection.
    fn try_slot(&mut self, slot: Slot, assembly: &Assembly<'_>, rested: &mut Vec<WorkerId>) -> Choice {
        let Some(owner) = self.slots.get(&slot) else { return Choice::Nobody };
        let mut choice = Choice::Nobody;
        let mut resting = Vec::new();
        for worker in owner.workers.iter().rev() {
            match assembly.judge(*worker) {
                Verdict::Fits => {
                    choice = Choice::Worker(*worker);
                    break;
                }
                Verdict::Unfit => choice = Choice::Unfit,
                verdict => {
                    let since = self.members.get(worker).and_then(|seat| seat.resting);
                    if since.is_none() {
                        resting.push(*worker);
                    }
                    let until = since.unwrap_or(assembly.now) + assembly.settings.steal_after;
                    if verdict == Verdict::Spent && until > assembly.now && choice == Choice::Nobody {
                        choice = Choice::WaitFor(*worker, until);
                    }
                }
            }
        }
        for worker in resting {
            self.rest(worker, assembly.now);
            rested.push(worker);
        }
        choice
    }

    /// The slots in the order in which they come for this bucket.
    fn in_order(&self, bucket: usize) -> impl Iterator<Item = Slot> {
        let mut scores: Vec<_> =
            self.slots.iter().map(|(slot, owner)| (score(bucket, *slot, owner.weight), *slot)).collect();
        scores.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        scores.into_iter().map(|(_, slot)| slot)
    }

    /// The slot has another weight: it wins buckets, or loses some of its own.
    fn weigh(&mut self, slot: Slot, weight: u32) {
        if let Some(owner) = self.slots.get_mut(&slot) {
            owner.weight = weight;
        }
        if self.buckets.is_empty() {
            self.buckets = (0..BUCKETS).map(|bucket| Best { slot, score: score(bucket, slot, weight) }).collect();
            return;
        }
        self.deal(slot);
        for (bucket, best) in self.buckets.iter_mut().enumerate().filter(|(_, best)| best.slot != slot) {
            let score = score(bucket, slot, weight);
            if score > best.score {
                *best = Best { slot, score };
            }
        }
    }

    /// Deals the buckets of this slot again.
    fn deal(&mut self, slot: Slot) {
        if self.slots.is_empty() {
            self.buckets.clear();
        }
        for (bucket, best) in self.buckets.iter_mut().enumerate().filter(|(_, best)| best.slot == slot) {
            let scores = self.slots.iter().map(|(slot, owner)| (*slot, score(bucket, *slot, owner.weight)));
            if let Some((slot, score)) = scores.max_by(|one, other| one.1.total_cmp(&other.1)) {
                *best = Best { slot, score };
            }
        }
    }
}

fn bucket_of(key: u64) -> usize {
    (mix(key) % BUCKETS as u64) as usize
}

/// Higher is better. Of two slots with weights a and b, the first has the higher score in a of a + b buckets.
fn score(bucket: usize, slot: Slot, weight: u32) -> f64 {
    let chance = mix(mix(bucket as u64 + 1) ^ u64::from(slot.0));
    // Above zero and below one: 53 bits are all that a float holds.
    let uniform = ((chance >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    f64::from(weight) / -uniform.ln()
}

/// The finish of splitmix64: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
