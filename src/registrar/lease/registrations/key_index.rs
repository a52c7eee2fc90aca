//! From a key to the registrations that have it, and what is known of its watch. PURE.

use std::collections::{BTreeMap, BTreeSet};

use crate::registrar::lease::vocabulary::Id;

/// How many keys may be noted as delayed before those that nobody has any more are dropped: at least this, and twice as
/// many as were left the last time, so that the cost of dropping them is spread.
const MIN_DELAYED: usize = 64;

/// The keys of all registrations, by name.
#[derive(Debug, Default)]
pub(in crate::registrar::lease) struct KeyIndex {
    /// The registrations that have each key, in the order of their ids. Usually one.
    owners: BTreeMap<Vec<u8>, Vec<Owner>>,
    /// Keys that the role may not watch. Forgotten with their last owner.
    denied: BTreeSet<Vec<u8>>,
    /// Keys whose watch etcd has not created in time. A key that is given up and taken again still has its watch, so it
    /// stays noted for a while.
    delayed: BTreeSet<Vec<u8>>,
    /// The number of delayed keys at which those without an owner are dropped.
    delayed_limit: usize,
    /// The keys of which [`KeyIndex::watched_for`] may have changed since they were taken.
    rewatched: BTreeSet<Vec<u8>>,
}

/// A registration that has a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    id: Id,
    /// It is not leaving, so its keys are watched.
    stays: bool,
}

impl KeyIndex {
    /// The registration has the key.
    pub(super) fn insert(&mut self, key: &[u8], id: Id, stays: bool) {
        let owner = Owner { id, stays };
        if let Some(owners) = self.owners.get_mut(key) {
            let place = owners.partition_point(|other| other.id < id);
            owners.insert(place, owner);
        } else {
            self.owners.insert(key.to_vec(), vec![owner]);
        }
        self.rewatched.insert(key.to_vec());
    }

    /// The registration no longer has the key.
    pub(super) fn remove(&mut self, key: &[u8], id: Id) {
        let Some(owners) = self.owners.get_mut(key) else { return };
        owners.retain(|owner| owner.id != id);
        if owners.is_empty() {
            self.owners.remove(key);
            self.denied.remove(key);
        }
        self.rewatched.insert(key.to_vec());
    }

    /// The registrations that have the key, in the order of their ids.
    pub(super) fn owners(&self, key: &[u8]) -> impl Iterator<Item = Id> {
        self.owners.get(key).into_iter().flatten().map(|owner| owner.id)
    }

    /// Those of them that stay: one at most, by the invariant of ownership.
    pub(super) fn staying(&self, key: &[u8]) -> impl Iterator<Item = Id> {
        self.owners.get(key).into_iter().flatten().filter(|owner| owner.stays).map(|owner| owner.id)
    }

    /// The registration for which the key is to be watched, if it is.
    pub(super) fn watched_for(&self, key: &[u8]) -> Option<Id> {
        self.staying(key).last().filter(|_| !self.denied.contains(key))
    }

    /// All keys that are to be watched, each with its registration.
    #[cfg(any(test, tonic_etcd_fuzzing))]
    pub(super) fn watched(&self) -> BTreeMap<Vec<u8>, Id> {
        self.owners.keys().filter_map(|key| Some((key.clone(), self.watched_for(key)?))).collect()
    }

    /// The keys whose watch may have to change, which are not told again.
    pub(super) fn take_rewatched(&mut self) -> BTreeSet<Vec<u8>> {
        std::mem::take(&mut self.rewatched)
    }

    /// Whether the role may not watch the key.
    pub(in crate::registrar::lease) fn is_denied(&self, key: &[u8]) -> bool {
        self.denied.contains(key)
    }

    /// The role may not watch the key. Keys that nobody wants to watch any more are not noted.
    pub(super) fn deny(&mut self, key: Vec<u8>) {
        if self.watched_for(&key).is_some() {
            self.rewatched.insert(key.clone());
            self.denied.insert(key);
        }
    }

    /// etcd has not created the watch of the key in time. Whether somebody waits for it.
    pub(super) fn delay(&mut self, key: Vec<u8>) -> bool {
        if self.staying(&key).next().is_none() {
            return false;
        }
        if self.delayed.len() >= self.delayed_limit.max(MIN_DELAYED) {
            let owners = &self.owners;
            self.delayed.retain(|key| owners.get(key).is_some_and(|owners| owners.iter().any(|owner| owner.stays)));
            self.delayed_limit = 2 * self.delayed.len();
        }
        self.delayed.insert(key);
        true
    }

    /// The watch of the key was created.
    pub(super) fn created(&mut self, key: &[u8]) {
        self.delayed.remove(key);
    }

    /// The keys without a watch. The denied ones are forgotten, so that their watches are tried again: the role may
    /// have been granted more since.
    pub(super) fn take_unwatched(&mut self) -> BTreeSet<Vec<u8>> {
        let denied = std::mem::take(&mut self.denied);
        self.rewatched.extend(denied.iter().cloned());
        denied.union(&self.delayed).cloned().collect()
    }

    /// Whether both have the same keys, with the same owners.
    #[cfg(any(test, tonic_etcd_fuzzing))]
    pub(super) fn has_owners_of(&self, other: &Self) -> bool {
        self.owners == other.owners
    }

    /// How many keys are noted as denied.
    #[cfg(any(test, tonic_etcd_fuzzing))]
    pub(in crate::registrar::lease) fn count_denied(&self) -> usize {
        self.denied.len()
    }
}
