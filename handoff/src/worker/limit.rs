//! How many connections this worker may have. Whoever takes or accepts one asks for room first, and holds that until the
//! connection is counted, so that no two get the last place.
//!
//! A worker that is *full* leaves shared sockets to others and stands in no line, and refuses what moves to it, until one of its
//! connections ends. What it passes on, or has handed over, counts until another one has it.
//!
//! Invariant: who saw that the worker is full is woken when it is not any more. The lock puts the look and the end in an order;
//! nothing that counts ends while it is held.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::handovers::Returned;
use super::link::Link;
use super::port::Inbox;
use crate::name::SocketName;

/// What the master said, if it did.
#[derive(Debug)]
pub(super) struct Limit {
    most: AtomicU64,
    turn: Mutex<()>,
}

/// What stands for no limit: more than any process can have.
const NONE: u64 = u64::MAX;

/// Room for one more connection.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    limited: Option<(&'a Link, MutexGuard<'a, ()>)>,
}

impl Default for Limit {
    fn default() -> Self {
        Self { most: AtomicU64::new(NONE), turn: Mutex::default() }
    }
}

impl Limit {
    fn most(&self) -> Option<u64> {
        Some(self.most.load(Ordering::Relaxed)).filter(|most| *most != NONE)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Obeys `Limit`.
    pub(super) fn limit_to(&self, connections: u64) {
        self.limit.most.store(connections, Ordering::Relaxed);
    }

    /// Room for one more connection, if there is any. To be asked for while the worker's state is held.
    pub(crate) fn room(&self) -> Option<Room<'_>> {
        if self.limit.most().is_none() {
            return Some(Room { limited: None });
        }
        let turn = self.limit.turn();
        // Only where there is room: at its end it wakes whoever waits.
        if self.is_full() { None } else { Some(Room { limited: Some((self, turn)) }) }
    }

    /// Whether the worker may have no more connections.
    pub(crate) fn is_full(&self) -> bool {
        self.limit.most().is_some_and(|most| self.active() >= most)
    }

    /// What was accepted for others and has come back, if the worker may serve it. Such connections are counted already, so
    /// they do not keep each other from being served. To be called while the worker's state is held.
    pub(crate) fn pop_returned(&self, inbox: &Inbox, is_lost: bool) -> Option<(Returned, SocketName)> {
        // A lost master's have nobody else.
        let Some(most) = self.limit.most().filter(|_| !is_lost) else { return inbox.pop_returned() };
        if inbox.returned() == 0 {
            return None;
        }
        let _turn = self.limit.turn();
        let waiting: usize = self.inboxes().iter().map(|inbox| inbox.returned()).sum();
        let served = self.active().saturating_sub(u64::try_from(waiting).unwrap_or(u64::MAX));
        if served < most { inbox.pop_returned() } else { None }
    }

    /// A connection has come back, and is under way no more: whoever did not serve another one for its sake looks again.
    pub(super) fn came_back(&self) {
        if self.limit.most().is_some() {
            drop(self.limit.turn());
            self.wake_all();
        }
    }

    /// A connection has ended, and so many are left: those who found the worker full look again.
    pub(super) fn make_room(&self, left: u64) {
        if self.limit.most().is_some_and(|most| left >= most.saturating_sub(1)) {
            drop(self.limit.turn());
            self.wake_all();
        }
    }

    fn active(&self) -> u64 {
        self.board().active().load(Ordering::Relaxed)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some((link, turn)) = self.limited.take() {
            let full = link.is_full();
            drop(turn);
            if full {
                // Those who wait in another line shall leave it.
                link.wake_all();
            }
        }
    }
}
