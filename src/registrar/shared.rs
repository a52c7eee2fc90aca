//! What the handles of a registrar and its task share.
//!
//! One lock guards the entries of all registrations. No event is logged, no handle is woken and no
//! user code runs while it is held: such code may use any handle. What is decided under the lock is
//! returned as a [`Publication`] and sent after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::codec::{Codec, Record};
use crate::error::Error;
use crate::etcd::EtcdPerRuntime;
use crate::instance::Instance;
use crate::progress::Progress;
use crate::registrar::entry::{Entry, Publication};
use crate::registrar::lease::Id;
use crate::registrar::nested_names::NestedNames;
use crate::registrar::pause::PauseReason;
use crate::registrar::stats::{Counts, RegistrarSeries};
use crate::secret::shown_key;

/// The shared part of a registrar.
pub(super) struct Shared {
    /// The connections to etcd, one set for each runtime.
    pub(super) etcds: EtcdPerRuntime,
    /// User code: it runs without the lock.
    pub(super) codec: Arc<dyn Codec>,
    /// The requested time to live of the lease.
    pub(super) ttl_seconds: i64,
    /// Warns of names above and below the registered ones.
    pub(super) nested_names: NestedNames,
    /// Where numbers go. Nothing is recorded while the state is locked.
    pub(super) series: RegistrarSeries,
    /// See the docs of the module for what may happen while it is locked.
    state: Mutex<State>,
    /// Wakes the task: an entry has changed.
    pub(super) changed: Notify,
    /// Whether the task's runtime runs.
    pub(super) progress: Progress,
    /// Wakes [`Registrar::close`](crate::registrar::Registrar::close): a registration has left, or
    /// the task has ended.
    pub(super) left: Notify,
}

/// The part behind the lock.
#[derive(Default)]
pub(super) struct State {
    /// The id of the last registration. Ids are never reused.
    last_id: Id,
    /// All registrations that have not left, in the order of their ids.
    pub(super) entries: BTreeMap<Id, Entry>,
    /// The lease that the task has published.
    pub(super) lease: Option<i64>,
    /// When the lease expires, by our clock.
    pub(super) lease_expires_at: Option<Instant>,
    /// The last error of etcd since it last answered.
    pub(super) last_error: Option<Error>,
    /// What was counted.
    pub(super) counts: Counts,
    /// A task runs, or is being started by the caller of [`Shared::add`].
    pub(super) has_task: bool,
    /// The runtime of the last task ended before its registrations had left.
    pub(super) abandoned: bool,
    /// The keys that such tasks have left in etcd.
    pub(super) abandoned_keys: Vec<AbandonedKey>,
    /// New registrations are refused.
    pub(super) closed: bool,
}

/// A key that a task has left in etcd when its runtime ended, and that was not registered again
/// since.
pub(super) struct AbandonedKey {
    pub(super) key: Vec<u8>,
    /// When its lease expires, by our clock; `None` if that is too far away for the clock.
    pub(super) until: Option<Instant>,
}

/// Other records of a registration, made from another instance.
pub(crate) struct RegistrationUpdate {
    pub(super) id: Id,
    /// Kept by the handle once the update is applied.
    pub(super) instance: Instance,
    pub(super) records: Vec<Arc<Record>>,
}

impl Shared {
    pub(super) fn new(etcds: EtcdPerRuntime, codec: Arc<dyn Codec>, ttl_seconds: i64, series: RegistrarSeries) -> Self {
        Self {
            etcds,
            codec,
            ttl_seconds,
            nested_names: NestedNames::default(),
            series,
            state: Mutex::default(),
            changed: Notify::new(),
            progress: Progress::default(),
            left: Notify::new(),
        }
    }

    /// Locks the state. Not to be held across an await, a log event, a send to a handle or user
    /// code.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether [`Shared::add`] would refuse these entries now.
    pub(super) fn check(&self, entries: &[Entry]) -> Result<(), Error> {
        self.state().check_new(entries)
    }

    /// Adds all entries, or none. Returns their ids, and whether the caller must start the task.
    pub(super) fn add(&self, entries: Vec<Entry>) -> Result<(Vec<Id>, bool), Error> {
        let mut state = self.state();
        state.check_new(&entries)?;
        state.abandoned = false;
        let is_new =
            |key: &[u8]| entries.iter().flat_map(|entry| &entry.records).any(|record| record.key.as_slice() == key);
        state.abandoned_keys.retain(|abandoned| !is_new(&abandoned.key));
        let insert = |entry| {
            state.last_id += 1;
            let id = state.last_id;
            state.entries.insert(id, entry);
            id
        };
        let ids = entries.into_iter().map(insert).collect();
        Ok((ids, !std::mem::replace(&mut state.has_task, true)))
    }

    /// Sets or clears a reason to pause, unless the registration is leaving.
    pub(super) fn set_pause(&self, id: Id, reason: PauseReason, paused: bool) -> Option<Publication> {
        let mut state = self.state();
        let entry = state.entries.get_mut(&id).filter(|entry| !entry.leaving)?;
        if !entry.pauses.set(reason, paused) {
            return None;
        }
        let publication = entry.mark_changed();
        drop(state);
        self.changed.notify_one();
        publication
    }

    /// Applies all updates, or none.
    pub(super) fn update(&self, updates: &[RegistrationUpdate]) -> Result<Vec<Publication>, Error> {
        let mut state = self.state();
        let stays = |id: &Id| state.entries.get(id).is_some_and(|entry| !entry.leaving);
        if !updates.iter().all(|update| stays(&update.id)) {
            return Err(Error::closed("the registration"));
        }
        let ids = updates.iter().map(|update| update.id).collect();
        let name = |id: &Id| state.entries.get(id).map_or("", |entry| entry.target.name());
        state.check_keys(&ids, updates.iter().map(|update| (name(&update.id), &*update.records)))?;
        let mut publications = Vec::new();
        for RegistrationUpdate { id, instance, records } in updates {
            let Some(entry) = state.entries.get_mut(id) else { continue };
            entry.instance_id = instance.id().map(Into::into);
            entry.records.clone_from(records);
            publications.extend(entry.mark_changed());
        }
        drop(state);
        self.changed.notify_one();
        Ok(publications)
    }

    /// The registration leaves. Nobody waits for it here.
    pub(super) fn leave(&self, id: Id) {
        if let Some(entry) = self.state().entries.get_mut(&id) {
            entry.leaving = true;
        }
        self.changed.notify_one();
    }

    /// Ends the task if there is no entry. Decided under the lock, so that a registration that
    /// comes at the same time either is seen here or starts another task.
    pub(super) fn end_task_if_empty(&self) -> bool {
        let mut state = self.state();
        if !state.entries.is_empty() {
            return false;
        }
        state.has_task = false;
        (state.lease, state.lease_expires_at) = (None, None);
        drop(state);
        self.left.notify_waiters();
        true
    }
}

impl State {
    /// Refuses new entries if the registrar is closed or has their keys already.
    fn check_new(&self, entries: &[Entry]) -> Result<(), Error> {
        if self.closed {
            return Err(Error::closed("the registrar"));
        }
        self.check_keys(&BTreeSet::new(), entries.iter().map(|entry| (entry.target.name(), &*entry.records)))
    }

    /// Refuses keys that a registration of this registrar has already. `updated` are the
    /// registrations that change, whose present keys do not count.
    fn check_keys<'a>(
        &self,
        updated: &BTreeSet<Id>,
        new: impl Iterator<Item = (&'a str, &'a [Arc<Record>])>,
    ) -> Result<(), Error> {
        let refuse = |service: &str, key: &[u8]| {
            let reason = "this registrar has it registered already";
            Err(Error::invalid("key", shown_key(key), reason).for_service(service))
        };
        let mut new_keys: BTreeMap<&[u8], &str> = BTreeMap::new();
        for (service, records) in new {
            for record in records {
                if new_keys.insert(&record.key, service).is_some() {
                    return refuse(service, &record.key);
                }
            }
        }
        // The new keys are in the map, because they are few and the others may be many.
        let others = self.entries.iter().filter(|(id, entry)| !entry.leaving && !updated.contains(id));
        let known =
            others.flat_map(|(_, entry)| &entry.records).find_map(|record| new_keys.get_key_value(&*record.key));
        known.map_or(Ok(()), |(key, service)| refuse(service, key))
    }
}

/// Pauses a registration for one reason or another, without holding its handle. Has no effect once
/// the registration leaves.
#[derive(Clone)]
pub(crate) struct PauseHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Id,
}

impl PauseHandle {
    /// Sets or clears the reason, and publishes the new state.
    pub(crate) fn set(&self, reason: PauseReason, paused: bool) {
        self.set_unpublished(reason, paused).into_iter().for_each(Publication::send);
    }

    /// The same for callers that hold a lock: they send the publication after it.
    pub(crate) fn set_unpublished(&self, reason: PauseReason, paused: bool) -> Option<Publication> {
        self.shared.set_pause(self.id, reason, paused)
    }
}
