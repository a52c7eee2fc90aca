//! The keys that are no longer desired and still watched, the oldest first.

use std::collections::BTreeMap;

/// An ordered set of keys, from which any key can be taken.
#[derive(Default)]
pub(super) struct FormerKeys {
    /// By the order in which they were given up.
    keys: BTreeMap<u64, Vec<u8>>,
    /// The number of each in that order.
    numbers: BTreeMap<Vec<u8>, u64>,
    next: u64,
}

impl FormerKeys {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key is no longer desired from now on.
    pub(super) fn insert(&mut self, key: Vec<u8>) {
        self.remove(&key);
        self.numbers.insert(key.clone(), self.next);
        self.keys.insert(self.next, key);
        self.next += 1;
    }

    /// The key is desired again.
    pub(super) fn remove(&mut self, key: &[u8]) {
        if let Some(number) = self.numbers.remove(key) {
            self.keys.remove(&number);
        }
    }

    /// Takes out the key that was given up first.
    pub(super) fn pop_first(&mut self) -> Option<Vec<u8>> {
        let (_, key) = self.keys.pop_first()?;
        self.numbers.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_was_given_up_for_good_comes_first() {
        let mut former = FormerKeys::default();
        for key in [1, 2, 3, 1] {
            former.insert(vec![key]);
        }
        former.remove(&[3]);
        former.remove(&[4]);
        assert_eq!(former.len(), 2);
        assert_eq!(former.pop_first(), Some(vec![2]));
        assert_eq!(former.pop_first(), Some(vec![1]));
        assert_eq!((former.pop_first(), former.len()), (None, 0));
    }
}
