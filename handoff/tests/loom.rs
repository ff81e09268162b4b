//! The word of an offer and the doorbell, checked against every interleaving that loom's memory model allows.
//!
//! The doorbell's model fails when either of the two fences in `offer.rs` is removed.

use std::sync::atomic::Ordering;

use everport_handoff::offer::{self, Atomic, Reading};
use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// loom's atomic number, as the moves want it.
struct Word(AtomicU64);

impl Atomic for Word {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.0.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }

    fn fence(order: Ordering) {
        loom::sync::atomic::fence(order);
    }
}

/// What master and worker share.
struct Shared {
    word: Word,
    ring: Word,
    bell: Bell,
    /// How many times the connection's bytes were read: by the worker after a take, or by another that it was given to.
    owners: AtomicU64,
}

/// The eventfd: a write that stays until it is read.
struct Bell {
    rung: Mutex<bool>,
    waiting: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.waiting.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.waiting.wait(rung).unwrap();
        }
        *rung = false;
    }
}

impl Shared {
    /// An offer, number 1, that is out.
    fn offered() -> Arc<Self> {
        let word = Word(AtomicU64::new(0));
        offer::offer(&word, 1).unwrap();
        Arc::new(Self {
            word,
            ring: Word(AtomicU64::new(0)),
            bell: Bell { rung: Mutex::new(false), waiting: Condvar::new() },
            owners: AtomicU64::new(0),
        })
    }

    fn own(&self) {
        self.owners.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn take_and_revoke_have_one_winner() {
    loom::model(|| {
        let shared = Shared::offered();
        let worker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let taken = offer::take(&shared.word, &shared.ring, 1).made;
                if taken {
                    shared.own();
                } else {
                    assert!(offer::release(&shared.word, &shared.ring, 1).made);
                }
                taken
            }
        });
        let reading = offer::revoke(&shared.word, 1);
        match reading {
            Reading::Taken => {}
            Reading::Revoked => shared.own(),
            other => panic!("{other:?}"),
        }
        let taken = worker.join().unwrap();
        assert_eq!(taken, reading == Reading::Taken);
        assert_eq!(shared.owners.load(Ordering::Relaxed), 1);
        let last = if taken { Reading::Taken } else { Reading::Released };
        assert_eq!(offer::read(&shared.word, 1), last);
    });
}

#[test]
fn refuse_and_revoke_have_one_winner() {
    loom::model(|| {
        let shared = Shared::offered();
        let worker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let refused = offer::refuse(&shared.word, &shared.ring, 1).made;
                refused || offer::release(&shared.word, &shared.ring, 1).made
            }
        });
        let reading = offer::revoke(&shared.word, 1);
        assert!(matches!(reading, Reading::Refused | Reading::Revoked), "{reading:?}");
        assert!(worker.join().unwrap(), "the worker has settled it, one way or the other");
        let last = if reading == Reading::Refused { Reading::Refused } else { Reading::Released };
        assert_eq!(offer::read(&shared.word, 1), last);
    });
}

#[test]
fn the_next_offer_on_a_word_is_not_taken_for_the_last_one() {
    loom::model(|| {
        let shared = Shared::offered();
        let worker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || offer::take(&shared.word, &shared.ring, 1).made
        });
        // Never sent: the master takes it back and uses the word again.
        let reading = offer::revoke(&shared.word, 1);
        if reading == Reading::Revoked {
            offer::free(&shared.word, 1);
            offer::offer(&shared.word, 2).unwrap();
            assert!(!worker.join().unwrap());
            assert_eq!(offer::read(&shared.word, 2), Reading::Offered);
        } else {
            assert!(worker.join().unwrap());
        }
    });
}

/// A worker that dies after any number of its steps, while a child of it that shares the board lives on and takes.
#[test]
fn death_leaves_a_connection_taken_or_revoked_and_never_both() {
    for steps in 0..=2 {
        loom::model(move || {
            let shared = Shared::offered();
            let worker = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    if steps >= 1 && offer::take(&shared.word, &shared.ring, 1).made && steps >= 2 {
                        shared.own();
                    }
                }
            });
            let child = thread::spawn({
                let shared = Arc::clone(&shared);
                move || {
                    if offer::take(&shared.word, &shared.ring, 1).made {
                        shared.own();
                    }
                }
            });
            let reading = offer::revoke(&shared.word, 1);
            if reading == Reading::Revoked {
                shared.own();
            }
            worker.join().unwrap();
            child.join().unwrap();
            let owners = shared.owners.load(Ordering::Relaxed);
            assert!(owners <= 1, "read by two");
            // Taken and never read is what a worker that dies right after the take leaves: the client sees the end.
            assert!(owners == 1 || (reading == Reading::Taken && steps == 1), "{reading:?} {owners}");
            assert_eq!(offer::read(&shared.word, 1), reading, "nothing moves any more");
        });
    }
}

#[test]
fn a_master_that_asked_to_be_woken_sleeps_through_nothing() {
    loom::model(|| {
        let shared = Shared::offered();
        let worker = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let moved = offer::take(&shared.word, &shared.ring, 1);
                assert!(moved.made);
                if moved.ring {
                    shared.bell.ring();
                }
            }
        });
        offer::ask(&shared.ring, true);
        // loom calls it a deadlock when nobody rings.
        while offer::read(&shared.word, 1) == Reading::Offered {
            shared.bell.wait();
        }
        worker.join().unwrap();
        assert_eq!(offer::read(&shared.word, 1), Reading::Taken);
    });
}
