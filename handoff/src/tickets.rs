//! The keys of TLS session tickets: made by the master, the same for all its workers. Pure data; `tls` uses them.
//!
//! Invariants: a secret lies in one place of the heap, which is zeroed when it is dropped, so that moving a key leaves no
//! copy behind; and no form of `Debug` shows it. What is out of reach: the kernel's buffer in which the message travels, and
//! the expanded key with which `ring` works.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// How long the name of a key is, by which a ticket says what it was sealed with.
pub const NAME: usize = 16;

/// How long a secret is: a key of AES-256.
pub const SECRET: usize = 32;

/// One key: its name, which everybody may see, and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey(Box<[u8; NAME + SECRET]>);

impl TicketKey {
    /// A key of the bytes that `fill` writes, which must be random: those of the name, then those of the secret.
    ///
    /// # Errors
    ///
    /// As `fill`.
    pub fn make<E>(fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let mut key = Self(Box::new([0; NAME + SECRET]));
        fill(&mut key.0[..])?;
        Ok(key)
    }

    /// The name.
    pub fn name(&self) -> &[u8] {
        &self.0[..NAME]
    }

    /// The secret. Whoever copies it zeroes the copy.
    pub fn secret(&self) -> &[u8] {
        &self.0[NAME..]
    }
}

impl Drop for TicketKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKey").finish_non_exhaustive()
    }
}

impl Serialize for TicketKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0[..])
    }
}

impl<'de> Deserialize<'de> for TicketKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(FromBytes)
    }
}

/// From the packet to the heap, with nothing in between.
struct FromBytes;

impl Visitor<'_> for FromBytes {
    type Value = TicketKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a key of {} bytes", NAME + SECRET)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<TicketKey, E> {
        if bytes.len() != NAME + SECRET {
            return Err(E::invalid_length(bytes.len(), &self));
        }
        TicketKey::make(|key| {
            key.copy_from_slice(bytes);
            Ok(())
        })
    }
}

/// The keys of a moment. Tickets are sealed with the current one and opened with any of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeys {
    /// Was the current one before the last rotation.
    pub previous: TicketKey,
    /// Seals.
    pub current: TicketKey,
    /// Is the current one after the next rotation, and known before: a worker that hears of the rotation late opens what
    /// others have sealed already.
    pub next: TicketKey,
    /// How long each of them is the current one.
    pub rotation: Duration,
}

impl TicketKeys {
    /// The first keys. Nothing was ever sealed with the previous one.
    ///
    /// # Errors
    ///
    /// As `fill`.
    pub fn make<E>(rotation: Duration, fill: impl Fn(&mut [u8]) -> Result<(), E>) -> Result<Self, E> {
        let (previous, current, next) = (TicketKey::make(&fill)?, TicketKey::make(&fill)?, TicketKey::make(&fill)?);
        Ok(Self { previous, current, next, rotation })
    }

    /// Makes the next key the current one, and forgets the previous one.
    ///
    /// # Errors
    ///
    /// As `fill`; then nothing has changed.
    pub fn rotate<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<(), E>) -> Result<(), E> {
        let next = TicketKey::make(fill)?;
        self.previous = std::mem::replace(&mut self.current, std::mem::replace(&mut self.next, next));
        Ok(())
    }

    /// The key of this name.
    pub fn named(&self, name: &[u8]) -> Option<&TicketKey> {
        [&self.current, &self.previous, &self.next].into_iter().find(|key| key.name() == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;

    use super::*;

    /// Keys of which each is filled with a byte of its own: 1, 2 and 3.
    pub(crate) fn keys() -> TicketKeys {
        let last = Cell::new(0);
        let Ok(keys) = TicketKeys::make::<Infallible>(Duration::from_secs(60), |bytes| {
            last.set(last.get() + 1);
            bytes.fill(last.get());
            Ok(())
        });
        keys
    }

    /// Rotates, to a next key that is filled with this byte.
    pub(crate) fn rotate(keys: &mut TicketKeys, next: u8) {
        let Ok(()) = keys.rotate::<Infallible>(|bytes| {
            bytes.fill(next);
            Ok(())
        });
    }

    #[test]
    fn rotation_moves_each_key_on_and_forgets_the_oldest() {
        let mut keys = keys();
        let names = |keys: &TicketKeys| [&keys.previous, &keys.current, &keys.next].map(|key| key.name()[0]);
        assert_eq!(names(&keys), [1, 2, 3]);
        rotate(&mut keys, 4);
        assert_eq!(names(&keys), [2, 3, 4]);
        assert!(keys.named(&[1; NAME]).is_none());
        assert!((2..=4).all(|byte| keys.named(&[byte; NAME]).is_some()));
    }

    #[test]
    fn failed_rotation_changes_nothing() {
        let mut keys = keys();
        let before = keys.clone();
        assert_eq!(keys.rotate(|_| Err("no random bytes")), Err("no random bytes"));
        assert_eq!(keys, before);
    }

    #[test]
    fn debug_shows_no_byte_of_a_key() {
        let shown = format!("{:?} {:#?}", keys(), keys());
        assert!(!shown.contains('['), "{shown}");
        assert!(shown.contains("TicketKey { .. }"), "{shown}");
    }

    #[test]
    fn key_of_another_length_is_refused() {
        let bytes = postcard::to_stdvec(&keys().current).unwrap();
        assert_eq!(bytes.len(), 1 + NAME + SECRET);
        assert_eq!(postcard::from_bytes::<TicketKey>(&bytes).unwrap(), keys().current);
        for wrong in [vec![0], [vec![47], vec![2; 47]].concat(), [vec![49], vec![2; 49]].concat()] {
            assert!(postcard::from_bytes::<TicketKey>(&wrong).is_err(), "{wrong:?}");
        }
    }
}
