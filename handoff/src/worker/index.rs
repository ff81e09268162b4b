//! Which `bind(":0")` is which: for each address the lowest index that is free in this worker, so that the n-th of
//! every worker is one port.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The indices in use, by address.
#[derive(Debug, Default)]
pub(crate) struct Indices(Mutex<HashMap<String, BTreeSet<u32>>>);

/// One index in use; free again on drop.
#[derive(Debug)]
pub(crate) struct Index {
    indices: Arc<Indices>,
    address: String,
    number: u32,
}

impl Indices {
    /// The lowest index that no other [`Index`] of this address has.
    pub(crate) fn lowest(self: &Arc<Self>, address: String) -> Index {
        let mut map = self.lock();
        let used = map.entry(address.clone()).or_default();
        // The first number that differs from its position is free; the set is sorted.
        let number =
            (0..).zip(used.iter()).find(|(free, used)| free != *used).map_or(used.len() as u32, |(free, _)| free);
        used.insert(number);
        Index { indices: Arc::clone(self), address, number }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BTreeSet<u32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    /// The address that it counts for.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The index itself.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let mut map = self.indices.lock();
        if let Some(used) = map.get_mut(&self.address) {
            used.remove(&self.number);
            if used.is_empty() {
                map.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_index_is_used_again() {
        let indices = Arc::new(Indices::default());
        let first = indices.lowest("127.0.0.1:0".to_owned());
        let second = indices.lowest("127.0.0.1:0".to_owned());
        let other = indices.lowest("[::1]:0".to_owned());
        assert_eq!((first.number(), second.number(), other.number()), (0, 1, 0));
        drop(first);
        assert_eq!(indices.lowest("127.0.0.1:0".to_owned()).number(), 0);
        drop((second, other));
        assert!(indices.lock().is_empty());
    }
}
