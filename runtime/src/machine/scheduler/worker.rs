//! One worker in the eyes of the scheduler: what it holds, whether it may get more, whether its news is awaited.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everport_handoff::id::{ListenerId, Slot};

use super::super::{ConnectionId, Counters, Settings};
use super::limit::Load;

/// What a worker may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// When it has not been activated yet, or was paused: what it had not taken has been revoked.
    Idle,
    /// When it takes connections.
    Active { pace: Pace, channel: Channel },
    /// When it drains or leaves: what it had not taken has been revoked.
    Stopped,
    /// When it broke the protocol: as `Stopped`, and what it says that it took is kept until it is dead.
    Broken,
    /// When it has gone. Its board can still be revoked and read.
    Dead,
}

/// How promptly an active worker takes what it is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// When it is offered connections in its turn.
    Prompt,
    /// When an overdue offer of another waits for this worker to be alive and empty-handed: it gets nothing else.
    Wanted { asked: Instant },
    /// When it left an offer untaken for too long: it gets nothing until it shows life.
    Late,
}

/// Whether the worker's channel takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Open,
    /// When an offer did not fit, until `ChannelWritable`.
    Full,
}

/// The master's view of one offer word on a worker's board. A refused word is freed at once and has no state here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Offered, not settled.
    Offered,
    /// As `Offered`, but its taking is news that somebody waits for: it was stolen, is overdue, or was handed over.
    Awaited,
    /// Taken; the master still has its copy.
    Taken,
    /// Revoked; the worker may still have a copy.
    Revoked,
}

/// Whether a worker is in the roster of a listener that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    In,
    /// When it was chosen and could not take anything.
    Out,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    /// How much it shall get, against the others; zero is nothing.
    pub(super) weight: u32,
    pub(super) load: Load,
    pub(super) standing: Standing,
    pub(super) seats: BTreeMap<ListenerId, Seat>,
    /// When it last took, refused or released a connection, or beat.
    pub(super) life: Option<Instant>,
    pub(super) rings: bool,
    /// Whether what it handed over can come back to it: it has not been killed, and is heard and trusted.
    pub(super) takes_back: bool,
    pub(super) counters: Counters,
    words: BTreeMap<ConnectionId, Word>,
    tally: [usize; 4],
}

impl Worker {
    pub(super) fn new(slot: Slot, weight: u32, limit: Option<u64>) -> Self {
        Self {
            slot,
            weight,
            load: Load::new(limit),
            standing: Standing::Idle,
            seats: BTreeMap::new(),
            life: None,
            rings: false,
            takes_back: true,
            counters: Counters::default(),
            words: BTreeMap::new(),
            tally: [0; 4],
        }
    }

    pub(super) fn word(&self, connection: ConnectionId) -> Option<Word> {
        self.words.get(&connection).copied()
    }

    pub(super) fn set_word(&mut self, connection: ConnectionId, word: Word) {
        if let Some(before) = self.words.insert(connection, word) {
            self.tally[before as usize] -= 1;
        }
        self.tally[word as usize] += 1;
    }

    pub(super) fn free_word(&mut self, connection: ConnectionId) {
        if let Some(word) = self.words.remove(&connection) {
            self.tally[word as usize] -= 1;
        }
    }

    /// The words that are not free, the oldest connection first.
    pub(super) fn words(&self) -> impl Iterator<Item = (ConnectionId, Word)> {
        self.words.iter().map(|(connection, word)| (*connection, *word))
    }

    pub(super) fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    pub(super) fn untaken(&self) -> usize {
        self.tally[Word::Offered as usize] + self.tally[Word::Awaited as usize]
    }

    fn revoked(&self) -> usize {
        self.tally[Word::Revoked as usize]
    }

    /// How many more offers the worker may have, whatever its standing.
    pub(super) fn credit(&self, settings: &Settings) -> usize {
        let credit = settings.credit.saturating_sub(self.untaken() + self.revoked());
        credit.min(settings.words.saturating_sub(self.words.len()))
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.standing, Standing::Active { .. })
    }

    /// Whether the next connection of the queue may go to this worker.
    pub(super) fn can_be_offered(&self, settings: &Settings) -> bool {
        matches!(self.standing, Standing::Active { pace: Pace::Prompt, channel: Channel::Open })
            && self.credit(settings) > 0
            && self.weight > 0
            && !self.is_full()
    }

    /// Whether the worker can be offered this very connection: it may still have a revoked copy of it.
    pub(super) fn fits(&self, connection: ConnectionId, listener: ListenerId) -> bool {
        self.seats.contains_key(&listener) && !self.words.contains_key(&connection)
    }

    /// Whether an overdue offer of another could go to this worker, now or as soon as it is alive and empty-handed.
    pub(super) fn could_steal(&self, settings: &Settings) -> bool {
        matches!(self.standing, Standing::Active { pace: Pace::Prompt | Pace::Wanted { .. }, channel: Channel::Open })
            && self.revoked() < settings.credit
            && self.weight > 0
            && !self.is_full()
    }

    /// Whether the worker took something, or beat, within `steal_after`.
    pub(super) fn is_proven(&self, steal_after: Duration, now: Instant) -> bool {
        self.life.is_some_and(|life| now.saturating_duration_since(life) <= steal_after)
    }

    pub(super) fn set_pace(&mut self, to: Pace) {
        if let Standing::Active { pace, .. } = &mut self.standing {
            *pace = to;
        }
    }

    pub(super) fn set_channel(&mut self, to: Channel) {
        if let Standing::Active { channel, .. } = &mut self.standing {
            *channel = to;
        }
    }

    /// Whether somebody waits for this worker's next move, so that it must ring.
    pub(super) fn is_awaited(&self, settings: &Settings) -> bool {
        let spent = || self.credit(settings) == 0 && self.seats.values().any(|seat| *seat == Seat::Out);
        self.revoked() > 0
            || self.tally[Word::Awaited as usize] > 0
            || match self.standing {
                Standing::Active { pace: Pace::Prompt, .. } => spent(),
                Standing::Active { pace: Pace::Wanted { .. } | Pace::Late, .. } => true,
                Standing::Idle | Standing::Stopped | Standing::Broken | Standing::Dead => false,
            }
    }
}
