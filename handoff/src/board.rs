//! The board: one page of memory shared by the master and one worker, with the words of all offers between them.
//!
//! | word | bytes | written by | meaning |
//! |---|---|---|---|
//! | 0 | 0..8 | master, once | magic and layout version |
//! | 8 | 64..72 | worker | heartbeat: grows whenever the application's runtime turns |
//! | 9 | 72..80 | worker | active connections |
//! | 10 | 80..88 | worker | guards: other work that keeps the worker alive |
//! | 11 | 88..96 | worker | connections taken, in total |
//! | 12 | 96..104 | worker | requests in progress, where the worker can tell |
//! | 13 | 104..112 | worker | when its oldest connection began: milliseconds of the monotonic clock, 0 for none |
//! | 14 | 112..120 | worker | connections that it closed at the soft deadline, in total |
//! | 15 | 120..128 | worker | idle connections: those where it can tell that no request is in progress |
//! | 16 | 128..136 | master | ring: the worker shall wake the master at every change |
//! | 17 | 136..144 | master | ring at ends: the worker shall wake the master whenever a connection ends |
//! | 18 | 144..152 | master | messages that it has sent by the channel, or is about to send, in total |
//! | 24 | 192..200 | worker | connections that it has not read from yet |
//! | 32..288 | 256..2304 | both | the words of the offers, see [`offer`] |
//!
//! What the worker writes, what the master writes and the words lie on cache lines of their own. Figures are relaxed
//! counters. Nothing on the page is trusted by the master.
//!
//! Invariant: a page belongs to one worker process and is never used for another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::offer::{self, Moved, Reading};
use crate::sys::memory::{SharedPage, WORDS};

/// How many offers one worker can have unsettled at most: the size of the table on its board.
pub const OFFER_WORDS: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"EVPORT\x00\x01");
const HEARTBEAT: usize = 8;
const ACTIVE: usize = 9;
const GUARDS: usize = 10;
const TAKEN: usize = 11;
const REQUESTS: usize = 12;
const OLDEST: usize = 13;
const LINGERED: usize = 14;
const IDLE: usize = 15;
const RING: usize = 16;
const RING_AT_ENDS: usize = 17;
const MESSAGES: usize = 18;
const UNREAD: usize = 24;
const OFFERS: usize = 32;

const _: () = assert!(OFFERS + OFFER_WORDS <= WORDS);

/// Names one offer: the index of its word and its sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OfferId {
    /// Which word, 0..[`OFFER_WORDS`].
    pub index: u16,
    /// The how-manieth offer on that word, from 1.
    pub sequence: u64,
}

/// What a worker says of itself. Not trusted: for decisions of speed and for display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Grows whenever the application's runtime turns.
    pub heartbeat: u64,
    /// Connections that the application holds.
    pub active: u64,
    /// Other work that keeps the worker alive.
    pub guards: u64,
    /// Connections that it ever took.
    pub taken: u64,
    /// Requests in progress, where the worker can tell.
    pub requests: u64,
    /// When its oldest connection began, as [`now`] said then; 0 when it has none.
    pub oldest: u64,
    /// Connections that it ever closed at the soft deadline.
    pub lingered: u64,
    /// Connections where it can tell that no request is in progress.
    pub idle: u64,
    /// Connections that it has not read from yet.
    pub unread: u64,
}

/// The master's end of a board.
#[derive(Debug)]
pub struct MasterBoard {
    page: SharedPage,
    /// The last sequence number of each word.
    sequences: Box<[u64; OFFER_WORDS]>,
    free: Vec<u16>,
}

impl MasterBoard {
    /// Makes a new board. The descriptor is for the worker to inherit; the master closes it once the worker runs.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let (page, fd) = SharedPage::create()?;
        page[0].store(MAGIC, Ordering::Release);
        let free = (0..OFFER_WORDS as u16).rev().collect();
        Ok((Self { page, sequences: Box::new([0; OFFER_WORDS]), free }, fd))
    }

    /// Marks a word as offered, before the message is sent. `None` when no word is free.
    ///
    /// # Errors
    ///
    /// [`Reading::Illegal`] when the worker wrote on a word that was not its to write.
    pub fn offer(&mut self) -> Result<Option<OfferId>, Reading> {
        let Some(index) = self.free.pop() else {
            return Ok(None);
        };
        let sequence = self.sequences[usize::from(index)] + 1;
        offer::offer(&self.page[OFFERS + usize::from(index)], sequence)?;
        self.sequences[usize::from(index)] = sequence;
        Ok(Some(OfferId { index, sequence }))
    }

    /// What the worker has made of an offer.
    pub fn read(&self, id: OfferId) -> Reading {
        offer::read(self.word(id), id.sequence)
    }

    /// Withdraws an offer and says what its word then reads; also after the worker's death.
    pub fn revoke(&self, id: OfferId) -> Reading {
        offer::revoke(self.word(id), id.sequence)
    }

    /// Frees the word of an offer that was taken, refused or never sent; the master has closed its copy before.
    pub fn free(&mut self, id: OfferId) {
        offer::free(self.word(id), id.sequence);
        self.released(id);
    }

    /// Notes that the worker itself has freed the word of a revoked offer ([`Reading::Released`]).
    pub fn released(&mut self, id: OfferId) {
        debug_assert!(!self.free.contains(&id.index), "a word is freed once");
        self.free.push(id.index);
    }

    /// Asks the worker to wake the master at every change, or no longer. After asking, read every offer once more.
    pub fn ask_ring(&self, on: bool) {
        offer::ask(&self.page[RING], on);
    }

    /// Asks the worker to wake the master whenever a connection ends, or no longer. After asking, read the figures once more.
    pub fn ask_ring_at_ends(&self, on: bool) {
        offer::ask(&self.page[RING_AT_ENDS], on);
    }

    /// Notes that a message is about to go into the channel: so a worker that has read as many as that knows, without
    /// asking the system, that nothing is left.
    pub fn count_message(&self) {
        self.page[MESSAGES].fetch_add(1, Ordering::Release);
    }

    /// Notes that the message did not go into the channel after all.
    pub fn uncount_message(&self) {
        self.page[MESSAGES].fetch_sub(1, Ordering::Release);
    }

    /// What the worker says of itself.
    pub fn figures(&self) -> Figures {
        let load = |index: usize| self.page[index].load(Ordering::Relaxed);
        Figures {
            heartbeat: load(HEARTBEAT),
            active: load(ACTIVE),
            guards: load(GUARDS),
            taken: load(TAKEN),
            requests: load(REQUESTS),
            oldest: load(OLDEST),
            lingered: load(LINGERED),
            idle: load(IDLE),
            unread: load(UNREAD),
        }
    }

    fn word(&self, id: OfferId) -> &AtomicU64 {
        &self.page[OFFERS + usize::from(id.index)]
    }
}

/// The worker's end of a board.
#[derive(Debug)]
pub struct WorkerBoard {
    page: SharedPage,
    /// Wakes the master; comes with `Welcome`.
    bell: OnceLock<OwnedFd>,
}

impl WorkerBoard {
    /// Maps the board that the master made and closes the descriptor.
    ///
    /// # Errors
    ///
    /// `InvalidData` when it is not a board of this layout.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let page = SharedPage::adopt(fd)?;
        if page[0].load(Ordering::Acquire) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the board has another layout than this program's"));
        }
        Ok(Self { page, bell: OnceLock::new() })
    }

    /// How many messages the master has sent, or is about to send.
    pub fn messages(&self) -> u64 {
        self.page[MESSAGES].load(Ordering::Acquire)
    }

    /// Keeps the eventfd that wakes the master. The first one stays.
    pub fn set_bell(&self, bell: OwnedFd) {
        // A second `Welcome` would be the master's error and changes nothing.
        let _ = self.bell.set(bell);
    }

    /// Becomes the owner of an offered connection, before the application sees it. `false`: the master has revoked the
    /// offer; close the copy and [`release`](Self::release).
    pub fn take(&self, id: OfferId) -> bool {
        let moved = self.word(id).map(|word| offer::take(word, self.ring(), id.sequence));
        if moved.is_some_and(|moved| moved.made) {
            self.count_taken();
        }
        self.answer(moved)
    }

    /// Counts a connection that the worker has taken, from an offer or from a shared listener.
    pub fn count_taken(&self) {
        self.page[TAKEN].fetch_add(1, Ordering::Relaxed);
    }

    /// Declines an offer, after the copy was closed or when it never came. `false` as in [`take`](Self::take).
    pub fn refuse(&self, id: OfferId) -> bool {
        self.answer(self.word(id).map(|word| offer::refuse(word, self.ring(), id.sequence)))
    }

    /// Frees the word of a revoked offer, after the copy was closed.
    pub fn release(&self, id: OfferId) {
        self.answer(self.word(id).map(|word| offer::release(word, self.ring(), id.sequence)));
    }

    /// Whether the master may still hold its copy of a taken connection: then closing is not enough to end it.
    pub fn is_shared(&self, id: OfferId) -> bool {
        self.word(id).is_some_and(|word| offer::read(word, id.sequence) == Reading::Taken)
    }

    /// Whether the master has revoked this offer.
    pub fn is_revoked(&self, id: OfferId) -> bool {
        self.word(id).is_some_and(|word| offer::read(word, id.sequence) == Reading::Revoked)
    }

    /// Shows that the application's runtime turns.
    pub fn beat(&self) {
        self.page[HEARTBEAT].fetch_add(1, Ordering::Relaxed);
        if offer::asked(self.ring()) {
            self.wake_master();
        }
    }

    /// The number of connections that the application holds.
    pub fn active(&self) -> &AtomicU64 {
        &self.page[ACTIVE]
    }

    /// Counts one connection less. Returns how many are left.
    pub fn count_ended(&self) -> u64 {
        let left = self.active().fetch_sub(1, Ordering::Relaxed).saturating_sub(1);
        if offer::asked(&self.page[RING_AT_ENDS]) {
            self.wake_master();
        }
        left
    }

    /// The number of guards that the application holds.
    pub fn guards(&self) -> &AtomicU64 {
        &self.page[GUARDS]
    }

    /// The number of requests in progress.
    pub fn requests(&self) -> &AtomicU64 {
        &self.page[REQUESTS]
    }

    /// When the oldest connection began, as [`now`] said then; 0 when there is none.
    pub fn oldest(&self) -> &AtomicU64 {
        &self.page[OLDEST]
    }

    /// The number of connections that were closed at the soft deadline.
    pub fn lingered(&self) -> &AtomicU64 {
        &self.page[LINGERED]
    }

    /// The number of connections where no request is in progress.
    pub fn idle(&self) -> &AtomicU64 {
        &self.page[IDLE]
    }

    /// The number of connections that nothing was read from yet.
    pub fn unread(&self) -> &AtomicU64 {
        &self.page[UNREAD]
    }

    /// Wakes the master.
    fn wake_master(&self) {
        if let Some(bell) = self.bell.get() {
            // It fails only when the counter is full: then the master is awake already.
            let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        }
    }

    fn answer(&self, moved: Option<Moved>) -> bool {
        let moved = moved.unwrap_or(Moved { made: false, ring: false });
        if moved.ring {
            self.wake_master();
        }
        moved.made
    }

    fn ring(&self) -> &AtomicU64 {
        &self.page[RING]
    }

    fn word(&self, id: OfferId) -> Option<&AtomicU64> {
        (usize::from(id.index) < OFFER_WORDS).then(|| &self.page[OFFERS + usize::from(id.index)])
    }
}

/// The time in which both ends say when a connection began: milliseconds of the monotonic clock, and never 0. It is the
/// coarse one, which is behind by some milliseconds at most and costs a few nanoseconds.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    // A monotonic clock counts from the start of the system: no number of it is negative.
    let (seconds, nanoseconds) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    (seconds * 1000 + nanoseconds / 1_000_000).max(1)
}

/// Makes the eventfd by which one worker wakes the master. The master keeps one copy and sends another with `Welcome`.
pub fn bell() -> io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Reads a bell empty. Called in the master before it reads the board.
pub fn silence(bell: BorrowedFd<'_>) {
    // Nothing to read means that the bell was silent already.
    let _ = rustix::io::read(bell.as_fd(), &mut [0; 8]);
}
