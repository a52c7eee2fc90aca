//! The entries of all registrations, who has a key, and which of them the task has not seen yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codec::Record;
use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::entry::Entry;
use crate::registrar::lease::Id;
use crate::secret::shown_key;

/// All registrations that have not left, in the order of their ids.
///
/// Invariant: `owners` has the keys of those that stay, and no others.
#[derive(Default)]
pub(super) struct Entries {
    /// The id of the last registration. Ids are never reused.
    last_id: Id,
    all: BTreeMap<Id, Entry>,
    /// From a key to the registration that has it.
    owners: BTreeMap<Vec<u8>, Id>,
    /// Whose desired state has changed since the task asked.
    changed: BTreeSet<Id>,
}

impl Entries {
    /// Adds a registration, whose keys nobody else has ([`Entries::check_keys`]).
    pub(super) fn insert(&mut self, entry: Entry) -> Id {
        self.last_id += 1;
        let id = self.last_id;
        self.owners.extend(entry.records.iter().map(|record| (record.key.clone(), id)));
        self.all.insert(id, entry);
        self.changed.insert(id);
        id
    }

    pub(super) fn get(&self, id: Id) -> Option<&Entry> {
        self.all.get(&id)
    }

    /// Borrows a registration to set its published state.
    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut Entry> {
        self.all.get_mut(&id)
    }

    /// Borrows a registration that stays, to change what is desired of it.
    pub(super) fn change(&mut self, id: Id) -> Option<&mut Entry> {
        let entry = self.all.get_mut(&id).filter(|entry| !entry.leaving)?;
        self.changed.insert(id);
        Some(entry)
    }

    /// Gives a registration that stays another instance. Nobody else has its keys ([`Entries::check_keys`]).
    pub(super) fn replace(&mut self, id: Id, instance: &Instance, records: &[Arc<Record>]) -> Option<&mut Entry> {
        let entry = self.all.get_mut(&id).filter(|entry| !entry.leaving)?;
        self.changed.insert(id);
        for record in &entry.records {
            // Another one of the same update may have it by now.
            if self.owners.get(&record.key) == Some(&id) {
                self.owners.remove(&record.key);
            }
        }
        self.owners.extend(records.iter().map(|record| (record.key.clone(), id)));
        entry.instance_id = instance.id().map(Into::into);
        entry.records = records.to_vec();
        Some(entry)
    }

    /// The registration leaves, and others may have its keys.
    pub(super) fn leave(&mut self, id: Id) {
        let Some(entry) = self.change(id) else { return };
        entry.leaving = true;
        for record in &entry.records.clone() {
            self.owners.remove(&record.key);
        }
    }

    /// All of them leave.
    pub(super) fn leave_all(&mut self) {
        let ids: Vec<Id> = self.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.leave(id));
    }

    /// Whose desired state has changed since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<Id> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets a registration that has left.
    pub(super) fn remove(&mut self, id: Id) -> Option<Entry> {
        self.leave(id);
        self.changed.remove(&id);
        self.all.remove(&id)
    }

    /// Takes all of them out.
    pub(super) fn take(&mut self) -> BTreeMap<Id, Entry> {
        self.owners.clear();
        self.changed.clear();
        std::mem::take(&mut self.all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Entry> {
        self.all.values()
    }

    /// Refuses keys that a registration of this registrar has already. `updated` are the
    /// registrations that change, whose present keys do not count.
    pub(super) fn check_keys<'a>(
        &self,
        updated: &BTreeSet<Id>,
        new: impl Iterator<Item = (&'a str, &'a [Arc<Record>])>,
    ) -> Result<(), Error> {
        let mut new_keys: BTreeSet<&[u8]> = BTreeSet::new();
        for (service, records) in new {
            for record in records {
                let is_taken = self.owners.get(&record.key).is_some_and(|owner| !updated.contains(owner));
                if is_taken || !new_keys.insert(&record.key) {
                    let reason = "this registrar has it registered already";
                    return Err(Error::invalid("key", shown_key(&record.key), reason).for_service(service));
                }
            }
        }
        Ok(())
    }
}
