//! The word of an offer: one atomic number that says who owns a connection. Pure moves over any atomic, so that loom can
//! check them.
//!
//! ```text
//! free --master--> offered --worker--> taken   --master--> free      the worker owns the connection
//!                     |----worker--> refused --master--> free      it goes to another worker
//!                     |----master--> revoked --worker--> free      it goes to another worker
//!                     |----master--> free                          it was never sent, so that the worker knows nothing of it
//! ```
//!
//! The low three bits are the state, the rest is the sequence number of the offer. A word of zeros is free and was never
//! used.
//!
//! Invariant: every move out of *offered* is a compare-and-swap on state and sequence, so exactly one of take, refuse and
//! revoke wins, whichever side dies when.

use std::sync::atomic::Ordering;

/// What of an atomic number the moves need; std's and loom's have it.
pub trait Atomic {
    /// As `AtomicU64::load`.
    fn load(&self, order: Ordering) -> u64;
    /// As `AtomicU64::store`.
    fn store(&self, value: u64, order: Ordering);
    /// As `AtomicU64::compare_exchange`, with `AcqRel` and `Acquire`.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// As `std::sync::atomic::fence`.
    fn fence(order: Ordering);
}

impl Atomic for std::sync::atomic::AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn fence(order: Ordering) {
        std::sync::atomic::fence(order);
    }
}

/// The states of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free = 0,
    Offered = 1,
    Taken = 2,
    Refused = 3,
    Revoked = 4,
}

/// The value of a word.
const fn word(sequence: u64, state: State) -> u64 {
    sequence << 3 | state as u64
}

/// What the master reads from the word of an offer that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The worker has not answered yet.
    Offered,
    /// The worker owns the connection.
    Taken,
    /// The worker declined; it has no copy of the connection.
    Refused,
    /// The master withdrew the offer; the worker may still hold a copy.
    Revoked,
    /// The worker has closed its copy of a withdrawn offer. A word alone cannot tell this from a worker that wrote *free*
    /// over an offer that was never withdrawn: the master remembers what it read last, and takes only *released* after
    /// *revoked* for this.
    Released,
    /// No legal move of this offer leads here: the worker is broken or hostile. A state that is legal by itself but not
    /// after the one before, as *taken* after *revoked*, does not read so: that too is for the master to notice.
    Illegal,
}

/// Reads the word of offer `sequence`. Called in the master.
pub fn read(cell: &impl Atomic, sequence: u64) -> Reading {
    interpret(cell.load(Ordering::Acquire), sequence)
}

fn interpret(value: u64, sequence: u64) -> Reading {
    const STATES: [(State, Reading); 5] = [
        (State::Free, Reading::Released),
        (State::Offered, Reading::Offered),
        (State::Taken, Reading::Taken),
        (State::Refused, Reading::Refused),
        (State::Revoked, Reading::Revoked),
    ];
    STATES.iter().find(|(state, _)| value == word(sequence, *state)).map_or(Reading::Illegal, |(_, reading)| *reading)
}

/// Offers: called in the master before the message is sent, on a word whose last offer was `sequence - 1`.
///
/// # Errors
///
/// The word was not free: the worker is broken or hostile.
pub fn offer(cell: &impl Atomic, sequence: u64) -> Result<(), Reading> {
    cell.compare_exchange(word(sequence - 1, State::Free), word(sequence, State::Offered))
        .map(drop)
        .map_err(|_| Reading::Illegal)
}

/// Withdraws an offer. Called in the master, also after the worker's death. Returns what the word then says.
pub fn revoke(cell: &impl Atomic, sequence: u64) -> Reading {
    match cell.compare_exchange(word(sequence, State::Offered), word(sequence, State::Revoked)) {
        Ok(_) => Reading::Revoked,
        Err(value) => interpret(value, sequence),
    }
}

/// Frees the word of an offer that was taken, refused, or never sent. Called in the master, which has closed its copy of
/// a taken connection before.
pub fn free(cell: &impl Atomic, sequence: u64) {
    cell.store(word(sequence, State::Free), Ordering::Release);
}

/// What a worker's move came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whether the move was made. If not, the master has revoked the offer.
    pub made: bool,
    /// Whether the master asked to be woken.
    pub ring: bool,
}

/// Becomes the owner of the connection. Called in the worker, before the application sees it.
pub fn take<A: Atomic>(cell: &A, ring: &A, sequence: u64) -> Moved {
    step(cell, ring, sequence, State::Offered, State::Taken)
}

/// Declines. Called in the worker, after it closed its copy.
pub fn refuse<A: Atomic>(cell: &A, ring: &A, sequence: u64) -> Moved {
    step(cell, ring, sequence, State::Offered, State::Refused)
}

/// Frees the word of a revoked offer. Called in the worker, after it closed its copy, plainly, without shutdown.
pub fn release<A: Atomic>(cell: &A, ring: &A, sequence: u64) -> Moved {
    step(cell, ring, sequence, State::Revoked, State::Free)
}

fn step<A: Atomic>(cell: &A, ring: &A, sequence: u64, from: State, to: State) -> Moved {
    let made = cell.compare_exchange(word(sequence, from), word(sequence, to)).is_ok();
    Moved { made, ring: made && asked(ring) }
}

/// Whether the master wants to be woken for what the worker has just written. Called in the worker.
///
/// The two fences, here and in [`ask`], make at least one side see the other: the worker sees `ring`, or the master sees
/// the word when it looks once more before it sleeps.
pub fn asked<A: Atomic>(ring: &A) -> bool {
    A::fence(Ordering::SeqCst);
    ring.load(Ordering::Relaxed) != 0
}

/// Asks to be woken, or no longer. Called in the master, which reads every word once more before it sleeps.
pub fn ask<A: Atomic>(ring: &A, on: bool) {
    ring.store(u64::from(on), Ordering::Relaxed);
    A::fence(Ordering::SeqCst);
}
