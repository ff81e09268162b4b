//! The slots of each generation: who fills one, when it is filled again, and when it rests.
//!
//! ```text
//! Waiting --> Worker --+--> Waiting: at once, then with a back-off that doubles
//!    ^                 |
//!    +-----------------+--> Waiting at a slow pace: the slot rests, until one of its workers has been steady
//! ```
//!
//! A slot rests when it was filled again `restart_limit` times within `restart_period`; or when its generation was, and its
//! last workers were not steady: one slot in a crash loop puts no other to rest.
//!
//! Invariant: no slot is filled before its time, and each by one worker at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use everport_handoff::id::{Generation, Slot, WorkerId};

use super::random::Random;
use super::{Action, Care};

/// How long the second of two workers in a row that were not steady is kept waiting at most; doubles from then on. The
/// first is replaced at once. The wait is between half of that and all of it, lest slots that crash together start together.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long a worker must live for its slot to be trusted again.
const STEADY: Duration = Duration::from_secs(10);
/// How long a resting slot is kept waiting at most, with the same jitter.
const RESTING_PACE: Duration = Duration::from_secs(30);

/// Who fills a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occupant {
    Worker {
        id: WorkerId,
        since: Instant,
    },
    /// When the last one has gone, and the next one is started then.
    Waiting {
        until: Instant,
    },
    /// When nobody is started here any more.
    Vacant,
}

/// What the slot's workers have made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// When so many workers in a row were not steady.
    Fair { failures: u32 },
    /// When there were too many of them.
    Resting { since: Instant },
}

#[derive(Debug)]
struct Place {
    occupant: Occupant,
    trust: Trust,
    /// How many workers crashed here and were followed by another.
    restarts: u32,
    recent: Recent,
}

/// When the last refills were, the oldest first.
#[derive(Debug, Default)]
struct Recent(VecDeque<Instant>);

impl Recent {
    /// Whether there were `limit` of them within `period`.
    fn is_full(&mut self, care: &Care, now: Instant) -> bool {
        while self.0.front().is_some_and(|at| now.saturating_duration_since(*at) >= care.restart_period) {
            self.0.pop_front();
        }
        self.0.len() >= usize::try_from(care.restart_limit).unwrap_or(usize::MAX)
    }

    /// Notes one more. There are never more than the limit, for a full one notes none.
    fn note(&mut self, now: Instant) {
        self.0.push_back(now);
    }
}

/// A slot that rests, for `everport status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestingView {
    pub(crate) generation: Generation,
    pub(crate) slot: Slot,
    pub(crate) since: Instant,
    /// When the next worker is started, if none fills the slot.
    pub(crate) retry: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Slots {
    care: Care,
    random: Random,
    /// How many slots the next generation has, and the active one once it is adjusted.
    count: u32,
    places: BTreeMap<(Generation, Slot), Place>,
    recent: BTreeMap<Generation, Recent>,
}

impl Slots {
    pub(super) fn new(count: u32, care: Care) -> Self {
        let random = Random::new(care.seed);
        Self { care, random, count, places: BTreeMap::new(), recent: BTreeMap::new() }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn set_count(&mut self, count: u32) {
        self.count = count;
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Opens the slots of a generation that it has none of yet, each to be filled at once.
    pub(super) fn open(&mut self, generation: Generation, now: Instant) {
        for slot in (0..self.count).map(Slot) {
            self.open_one(generation, slot, now);
        }
    }

    /// Opens one slot of a generation, to be filled at once, unless it is open.
    pub(super) fn open_one(&mut self, generation: Generation, slot: Slot, now: Instant) {
        let place = self.places.entry((generation, slot)).or_insert_with(|| Place {
            occupant: Occupant::Vacant,
            trust: Trust::Fair { failures: 0 },
            restarts: 0,
            recent: Recent::default(),
        });
        if place.occupant == Occupant::Vacant {
            place.occupant = Occupant::Waiting { until: now };
        }
    }

    /// Closes every slot of a generation: nobody is started there any more.
    pub(super) fn vacate(&mut self, generation: Generation) {
        for (_, place) in self.places.iter_mut().filter(|((of, _), _)| *of == generation) {
            place.occupant = Occupant::Vacant;
        }
    }

    /// Closes, and names, the slots of a generation beyond the count.
    pub(super) fn vacate_surplus(&mut self, generation: Generation) -> Vec<Slot> {
        let surplus = (generation, Slot(self.count))..=(generation, Slot(u32::MAX));
        let open = self.places.range_mut(surplus).filter(|(_, place)| place.occupant != Occupant::Vacant);
        open.map(|((_, slot), place)| {
            place.occupant = Occupant::Vacant;
            *slot
        })
        .collect()
    }

    pub(super) fn remove(&mut self, generation: Generation) {
        self.places.retain(|(of, _), _| *of != generation);
        self.recent.remove(&generation);
    }

    pub(super) fn is_open(&self, generation: Generation, slot: Slot) -> bool {
        self.places.get(&(generation, slot)).is_some_and(|place| place.occupant != Occupant::Vacant)
    }

    pub(super) fn occupant(&self, generation: Generation, slot: Slot) -> Option<WorkerId> {
        self.places.get(&(generation, slot)).and_then(Place::worker)
    }

    /// The slots of a generation, each with the worker that fills it.
    pub(super) fn occupants(&self, generation: Generation) -> impl Iterator<Item = Option<WorkerId>> {
        self.places.iter().filter(move |((of, _), _)| *of == generation).map(|(_, place)| place.worker())
    }

    pub(super) fn restarts(&self, generation: Generation, slot: Slot) -> u32 {
        self.places.get(&(generation, slot)).map_or(0, |place| place.restarts)
    }

    pub(super) fn resting(&self) -> impl Iterator<Item = RestingView> {
        self.places.iter().filter_map(|(&(generation, slot), place)| {
            let Trust::Resting { since } = place.trust else { return None };
            let retry = match place.occupant {
                Occupant::Waiting { until } => Some(until),
                Occupant::Worker { .. } => None,
                Occupant::Vacant => return None,
            };
            Some(RestingView { generation, slot, since, retry })
        })
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadline = |place: &Place| match (place.occupant, place.trust) {
            (Occupant::Waiting { until }, _) => Some(until),
            (Occupant::Worker { since, .. }, Trust::Resting { .. }) => Some(since + STEADY),
            _ => None,
        };
        self.places.values().filter_map(deadline).min()
    }

    /// The slots that have waited long enough.
    pub(super) fn due(&self, now: Instant) -> Vec<(Generation, Slot)> {
        let is_due = |place: &Place| matches!(place.occupant, Occupant::Waiting { until } if until <= now);
        self.places.iter().filter(|(_, place)| is_due(place)).map(|(key, _)| *key).collect()
    }

    pub(super) fn fill(&mut self, key: (Generation, Slot), id: WorkerId, now: Instant) {
        if let Some(place) = self.places.get_mut(&key) {
            place.occupant = Occupant::Worker { id, since: now };
        }
    }

    /// The slots whose worker has been steady rest no longer.
    pub(super) fn recover(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for (&(generation, slot), place) in &mut self.places {
            if let (Occupant::Worker { since, .. }, Trust::Resting { .. }) = (place.occupant, place.trust)
                && now.saturating_duration_since(since) >= STEADY
            {
                place.trust = Trust::Fair { failures: 0 };
                actions.push(Action::SlotRecovered { generation, slot });
            }
        }
    }

    /// A worker of this slot crashed, or wants to leave: if it fills the slot, that waits for the next one.
    pub(super) fn refill(
        &mut self,
        key: (Generation, Slot),
        id: WorkerId,
        crashed: bool,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.recover(now, actions);
        let Some(place) = self.places.get_mut(&key).filter(|place| place.worker() == Some(id)) else { return };
        if crashed {
            place.restarts = place.restarts.saturating_add(1);
        }
        if let (Occupant::Worker { since, .. }, Trust::Fair { failures }) = (place.occupant, &mut place.trust)
            && now.saturating_duration_since(since) >= STEADY
        {
            *failures = 0;
        }
        let all = self.recent.entry(key.0).or_default();
        let (is_full, all_full) = (place.recent.is_full(&self.care, now), all.is_full(&self.care, now));
        let wait = match place.trust {
            Trust::Resting { .. } => RESTING_PACE,
            Trust::Fair { failures } if is_full || (all_full && failures > 0) => {
                place.trust = Trust::Resting { since: now };
                let (generation, slot) = key;
                actions.push(Action::SlotRests { generation, slot, pace: RESTING_PACE });
                RESTING_PACE
            }
            Trust::Fair { failures } => {
                place.trust = Trust::Fair { failures: failures.saturating_add(1) };
                backoff(failures)
            }
        };
        if !is_full {
            place.recent.note(now);
        }
        if !all_full {
            all.note(now);
        }
        place.occupant = Occupant::Waiting { until: now + self.random.half_to_whole(wait) };
    }

    /// The worker of this slot is to be replaced for no fault of its own: the slot waits for nothing.
    pub(super) fn refill_at_once(&mut self, key: (Generation, Slot), id: WorkerId, now: Instant) {
        if let Some(place) = self.places.get_mut(&key).filter(|place| place.worker() == Some(id)) {
            place.occupant = Occupant::Waiting { until: now };
        }
    }
}

impl Place {
    fn worker(&self) -> Option<WorkerId> {
        match self.occupant {
            Occupant::Worker { id, .. } => Some(id),
            Occupant::Waiting { .. } | Occupant::Vacant => None,
        }
    }
}

/// How long a slot waits at most after that many failures in a row.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        _ => BACKOFF.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX),
    }
}
