//! All registrations of the machine, who was touched, and the counters. PURE.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::Record;
use crate::registrar::lease::key::KeyState;
use crate::registrar::lease::registrations::TrackedRegistration;
use crate::registrar::lease::registrations::key_index::KeyIndex;
use crate::registrar::lease::vocabulary::Id;

/// The registrations that have keys or stay, and the orphans. Ordered, so that histories repeat.
///
/// Invariant: `index` is right but for the registrations in `unindexed`, and the counters but for those in `touched`.
#[derive(Debug, Default)]
pub(in crate::registrar::lease) struct RegistrationSet {
    all: BTreeMap<Id, Slot>,
    /// The keys of all of them.
    pub(in crate::registrar::lease) index: KeyIndex,
    /// Who was borrowed since `index` was brought up to date.
    unindexed: Vec<Id>,
    /// Who was borrowed since the counters were.
    touched: Vec<Id>,
    /// Whose status may have changed since that was asked for.
    changed: BTreeSet<Id>,
    /// How many stay, paused or not.
    staying: usize,
    /// How many desired registrations may have a key under each lease.
    needed: BTreeMap<i64, usize>,
    /// How many undesired registrations have a late put under each lease.
    late: BTreeMap<i64, usize>,
    /// Who may be closed, and is to be forgotten.
    closed: BTreeSet<Id>,
}

/// A registration with what was derived of it.
#[derive(Debug)]
struct Slot {
    registration: TrackedRegistration,
    /// Its keys in the index.
    keys: Vec<Arc<Record>>,
    /// It counts as one that stays.
    stays: bool,
    /// The leases under which it is counted in `needed`, and in `late`.
    needed: Vec<i64>,
    late: Vec<i64>,
    is_unindexed: bool,
    is_touched: bool,
}

impl RegistrationSet {
    pub(in crate::registrar::lease) fn get(&self, id: Id) -> Option<&TrackedRegistration> {
        self.all.get(&id).map(|slot| &slot.registration)
    }

    /// Borrows a registration to change it.
    pub(in crate::registrar::lease) fn get_mut(&mut self, id: Id) -> Option<&mut TrackedRegistration> {
        let slot = self.all.get_mut(&id)?;
        if !std::mem::replace(&mut slot.is_unindexed, true) {
            self.unindexed.push(id);
        }
        if !std::mem::replace(&mut slot.is_touched, true) {
            self.touched.push(id);
        }
        Some(&mut slot.registration)
    }

    /// What is derived of this registration is derived again.
    pub(in crate::registrar::lease) fn touch(&mut self, id: Id) {
        self.get_mut(id);
    }

    /// Touches whoever has the key.
    pub(in crate::registrar::lease) fn touch_key(&mut self, key: &[u8]) {
        self.owners(key).into_iter().for_each(|id| self.touch(id));
    }

    pub(in crate::registrar::lease) fn insert(&mut self, id: Id, registration: TrackedRegistration) {
        let slot = Slot {
            registration,
            keys: Vec::new(),
            stays: false,
            needed: Vec::new(),
            late: Vec::new(),
            is_unindexed: false,
            is_touched: false,
        };
        self.all.insert(id, slot);
        self.touch(id);
    }

    /// The ids of all of them. A walk over all is for what concerns all, such as the end of a lease.
    pub(in crate::registrar::lease) fn ids(&self) -> Vec<Id> {
        self.all.keys().copied().collect()
    }

    pub(in crate::registrar::lease) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether any registration stays, paused or not.
    pub(in crate::registrar::lease) fn any_stays(&self) -> bool {
        self.staying > 0
    }

    /// Whether a desired key may be under the lease.
    pub(in crate::registrar::lease) fn needs(&self, lease: i64) -> bool {
        self.needed.contains_key(&lease)
    }

    /// Whether an undesired key has a late put under the lease.
    pub(in crate::registrar::lease) fn has_late_put(&self, lease: i64) -> bool {
        self.late.contains_key(&lease)
    }

    /// Who has the key, in the order of their ids.
    pub(in crate::registrar::lease) fn owners(&mut self, key: &[u8]) -> Vec<Id> {
        self.bring_index_up_to_date();
        self.index.owners(key).collect()
    }

    /// Who has the key and stays.
    pub(in crate::registrar::lease) fn staying(&mut self, key: &[u8]) -> Vec<Id> {
        self.bring_index_up_to_date();
        self.index.staying(key).collect()
    }

    /// The states of a key in registrations that stay: one at most, by the invariant of ownership.
    pub(in crate::registrar::lease) fn change_staying(&mut self, key: &[u8], change: impl Fn(&mut KeyState)) {
        for id in self.staying(key) {
            self.get_mut(id).and_then(|registration| registration.key_mut(key)).into_iter().for_each(&change);
        }
    }

    /// The states of a key in all registrations that have it.
    pub(in crate::registrar::lease) fn change_all(&mut self, key: &[u8], change: impl Fn(&mut KeyState)) {
        for id in self.owners(key) {
            self.get_mut(id).and_then(|registration| registration.key_mut(key)).into_iter().for_each(&change);
        }
    }

    /// Notes that the role may not watch the key.
    pub(in crate::registrar::lease) fn deny_watch(&mut self, key: Vec<u8>) {
        self.bring_index_up_to_date();
        self.index.deny(key);
    }

    /// Notes that the watch of the key was not created in time. Whether anybody waits for it.
    pub(in crate::registrar::lease) fn delay_watch(&mut self, key: Vec<u8>) -> bool {
        self.bring_index_up_to_date();
        self.index.delay(key)
    }

    /// The watch of the key was created.
    pub(in crate::registrar::lease) fn watch_created(&mut self, key: &[u8]) {
        self.index.created(key);
    }

    /// The keys without a watch, whose watches are tried again.
    pub(in crate::registrar::lease) fn take_unwatched(&mut self) -> BTreeSet<Vec<u8>> {
        self.bring_index_up_to_date();
        self.index.take_unwatched()
    }

    /// The keys whose watch has changed since the last call, each with the registration for which it is watched now.
    pub(in crate::registrar::lease) fn watch_changes(&mut self) -> Vec<(Vec<u8>, Option<Id>)> {
        self.bring_index_up_to_date();
        let keys = self.index.take_rewatched();
        keys.into_iter().map(|key| (self.index.watched_for(&key), key)).map(|(id, key)| (key, id)).collect()
    }

    /// One of those that were touched. The caller brings it in order and calls [`RegistrationSet::settle`].
    pub(in crate::registrar::lease) fn next_touched(&mut self) -> Option<Id> {
        self.touched.pop()
    }

    /// Derives the counters of a registration anew: it is touched no longer.
    pub(in crate::registrar::lease) fn settle(&mut self, id: Id) {
        self.bring_index_up_to_date();
        self.changed.insert(id);
        let Some(slot) = self.all.get_mut(&id) else { return };
        slot.is_touched = false;
        let keys = &slot.registration.keys;
        let is_desired = slot.registration.is_desired();
        let needed = keys.iter().filter(|_| is_desired).flat_map(KeyState::leases_under);
        recount(&mut slot.needed, &mut self.needed, needed);
        let late = keys.iter().filter(|_| !is_desired).flat_map(|key| key.late_puts.iter().copied());
        recount(&mut slot.late, &mut self.late, late);
        if slot.registration.is_closed() {
            self.closed.insert(id);
        }
    }

    /// Whose status may have changed since the last call.
    pub(in crate::registrar::lease) fn take_changed(&mut self) -> BTreeSet<Id> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets closed registrations.
    pub(in crate::registrar::lease) fn forget_closed(&mut self) {
        self.bring_index_up_to_date();
        for id in std::mem::take(&mut self.closed) {
            if self.get(id).is_some_and(TrackedRegistration::is_closed) {
                self.all.remove(&id);
            }
        }
    }

    /// Brings the keys of those that were borrowed into the index.
    fn bring_index_up_to_date(&mut self) {
        while let Some(id) = self.unindexed.pop() {
            let Some(slot) = self.all.get_mut(&id) else { continue };
            slot.is_unindexed = false;
            let (stays, keys) = (!slot.registration.leaving, &slot.registration.keys);
            let are_equal =
                slot.keys.len() == keys.len() && slot.keys.iter().zip(keys).all(|(old, new)| old.key == new.record.key);
            if are_equal && slot.stays == stays {
                continue;
            }
            slot.keys.iter().for_each(|old| self.index.remove(&old.key, id));
            keys.iter().for_each(|new| self.index.insert(&new.record.key, id, stays));
            slot.keys = keys.iter().map(|key| key.record.clone()).collect();
            self.staying += usize::from(stays);
            self.staying -= usize::from(slot.stays);
            slot.stays = stays;
        }
    }
}

/// Counts a registration under the leases `new` instead of those under which it was counted.
fn recount(counted: &mut Vec<i64>, counters: &mut BTreeMap<i64, usize>, new: impl Iterator<Item = i64> + Clone) {
    if new.clone().eq(counted.iter().copied()) {
        return;
    }
    let mut new: Vec<i64> = new.collect();
    new.sort_unstable();
    new.dedup();
    new.iter().for_each(|lease| *counters.entry(*lease).or_default() += 1);
    for lease in counted.drain(..) {
        if let Some(count) = counters.get_mut(&lease) {
            *count -= 1;
            if *count == 0 {
                counters.remove(&lease);
            }
        }
    }
    *counted = new;
}

#[cfg(any(test, tonic_etcd_fuzzing))]
impl RegistrationSet {
    pub(in crate::registrar::lease) fn values(&self) -> impl ExactSizeIterator<Item = &TrackedRegistration> {
        self.all.values().map(|slot| &slot.registration)
    }

    /// All keys that are to be watched, each with its registration.
    pub(in crate::registrar::lease) fn watched(&mut self) -> BTreeMap<Vec<u8>, Id> {
        self.bring_index_up_to_date();
        self.index.watched()
    }

    /// Everything that is derived is as if it were derived of all of them now.
    pub(in crate::registrar::lease) fn assert_right(&mut self) {
        self.bring_index_up_to_date();
        assert!(self.touched.is_empty(), "whoever is touched is settled at once");
        let mut right = Self::default();
        for (&id, slot) in &self.all {
            for key in &slot.registration.keys {
                right.index.insert(&key.record.key, id, !slot.registration.leaving);
            }
            right.staying += usize::from(!slot.registration.leaving);
            let keys = || slot.registration.keys.iter();
            let mut counted = (BTreeSet::new(), BTreeSet::new());
            if slot.registration.is_desired() {
                counted.0.extend(keys().flat_map(KeyState::leases_under));
            } else {
                counted.1.extend(keys().flat_map(|key| key.late_puts.clone()));
            }
            counted.0.into_iter().for_each(|lease| *right.needed.entry(lease).or_default() += 1);
            counted.1.into_iter().for_each(|lease| *right.late.entry(lease).or_default() += 1);
        }
        assert!(self.index.has_owners_of(&right.index), "{:?}\n{:?}", self.index, right.index);
        assert_eq!((self.staying, &self.needed, &self.late), (right.staying, &right.needed, &right.late));
    }
}
