//! What a registrar's handles and its task share.
//!
//! Whoever is woken, and whoever hears an event, may use any handle: neither happens while the lock is held. What is found out
//! under it is told by a [`Publication`] after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::codec::{Codec, Record};
use crate::error::Error;
use crate::etcd::EtcdPerRuntime;
use crate::instance::Instance;
use crate::progress::Progress;
use crate::registrar::gates::Gate;
use crate::registrar::lease::Id;
use crate::registrar::task::Task;
use crate::registrar::task::neighbours::Neighbours;
use crate::registrar::wanted::{Publication, Wanted};
use crate::secret::shown_key;

pub(super) struct Shared {
    pub(super) etcds: EtcdPerRuntime,
    pub(super) codec: Arc<dyn Codec>,
    pub(super) seconds: i64,
    pub(super) neighbours: Neighbours,
    state: Mutex<State>,
    pub(super) changed: Notify,
    /// Those of the task.
    pub(super) turns: Progress,
    /// Told when a registration has left, and when the task has ended.
    pub(super) left: Notify,
}

#[derive(Default)]
pub(super) struct State {
    next: Id,
    pub(super) wanted: BTreeMap<Id, Wanted>,
    pub(super) lease: Option<i64>,
    /// When it ends, by our clock.
    pub(super) lease_ends: Option<Instant>,
    /// What last went wrong with etcd.
    pub(super) error: Option<Error>,
    /// A task does what is wanted.
    pub(super) has_task: bool,
    /// The runtime of the last task ended before what was wanted did.
    pub(super) ended: bool,
    /// Keys that such a task left in etcd.
    pub(super) left_behind: Vec<LeftBehind>,
    /// Nothing is registered any more.
    pub(super) closed: bool,
}

/// A key that nobody looks after any more, and that is not wanted again.
pub(super) struct LeftBehind {
    pub(super) key: Vec<u8>,
    /// When its lease ends, by our clock; none where that is too far away to be told.
    pub(super) until: Option<Instant>,
}

/// Other records that are wanted of a registration.
pub(crate) struct Change {
    pub(super) id: Id,
    pub(super) instance: Instance,
    pub(super) records: Vec<Arc<Record>>,
}

impl Shared {
    pub(super) fn new(etcds: EtcdPerRuntime, codec: Arc<dyn Codec>, seconds: i64) -> Self {
        let (state, turns) = (Mutex::default(), Progress::default());
        Self {
            etcds,
            codec,
            seconds,
            neighbours: Neighbours::default(),
            state,
            changed: Notify::new(),
            turns,
            left: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes on what is wanted: all of it, or nothing.
    pub(super) fn want(self: &Arc<Self>, wanted: Vec<Wanted>, runtime: &Handle) -> Result<Vec<Id>, Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::closed("the registrar"));
        }
        state.check_keys(&BTreeSet::new(), wanted.iter().map(|wanted| (wanted.target.name(), &*wanted.records)))?;
        state.ended = false;
        let is_anew =
            |key: &[u8]| wanted.iter().flat_map(|wanted| &wanted.records).any(|record| record.key.as_slice() == key);
        state.left_behind.retain(|left| !is_anew(&left.key));
        let enter = |wanted| {
            state.next += 1;
            let id = state.next;
            state.wanted.insert(id, wanted);
            id
        };
        let ids = wanted.into_iter().map(enter).collect();
        let has_task = std::mem::replace(&mut state.has_task, true);
        // A runtime that is shutting down drops the task at once, which takes the same lock.
        drop(state);
        if !has_task {
            // No span: it would live as long as the process, and keep whatever span it was made in open.
            let task = Task::new(self.clone(), self.etcds.on(runtime));
            runtime.spawn(task.run());
        }
        self.changed.notify_one();
        Ok(ids)
    }

    /// Opens or closes a gate of a registration, unless that is leaving. Nobody is told before the publication is sent.
    pub(super) fn set_gate(&self, id: Id, gate: Gate, open: bool) -> Option<Publication> {
        let mut state = self.state();
        let wanted = state.wanted.get_mut(&id).filter(|wanted| !wanted.leaving)?;
        if !wanted.gates.set(gate, open) {
            return None;
        }
        let publication = wanted.changed();
        drop(state);
        self.changed.notify_one();
        publication
    }

    /// Other records are wanted: all of them, or nothing changes. Nobody is told before the publications are sent.
    pub(super) fn update(&self, changes: &[Change]) -> Result<Vec<Publication>, Error> {
        let mut state = self.state();
        let stays = |id: &Id| state.wanted.get(id).is_some_and(|wanted| !wanted.leaving);
        if !changes.iter().all(|change| stays(&change.id)) {
            return Err(Error::closed("the registration"));
        }
        let ids = changes.iter().map(|change| change.id).collect();
        let name = |id: &Id| state.wanted.get(id).map_or("", |wanted| wanted.target.name());
        state.check_keys(&ids, changes.iter().map(|change| (name(&change.id), &*change.records)))?;
        let mut publications = Vec::new();
        for Change { id, instance, records } in changes {
            let Some(wanted) = state.wanted.get_mut(id) else { continue };
            wanted.id = instance.id().map(Into::into);
            wanted.records.clone_from(records);
            publications.extend(wanted.changed());
        }
        drop(state);
        self.changed.notify_one();
        Ok(publications)
    }

    pub(super) fn leave(&self, id: Id) {
        if let Some(wanted) = self.state().wanted.get_mut(&id) {
            wanted.leaving = true;
        }
        self.changed.notify_one();
    }

    /// The task ends if nothing is wanted; the next registration starts another.
    pub(super) fn rest(&self) -> bool {
        let mut state = self.state();
        let rests = state.wanted.is_empty();
        if rests {
            state.has_task = false;
            (state.lease, state.lease_ends) = (None, None);
        }
        drop(state);
        if rests {
            self.left.notify_waiters();
        }
        rests
    }
}

impl State {
    /// Each key is registered once. `but` are those whose keys are about to change.
    fn check_keys<'a>(
        &self,
        but: &BTreeSet<Id>,
        wanted: impl Iterator<Item = (&'a str, &'a [Arc<Record>])>,
    ) -> Result<(), Error> {
        let refuse = |service: &str, key: &[u8]| {
            let reason = "this registrar has it registered already";
            Err(Error::invalid("key", shown_key(key), reason).for_service(service))
        };
        let mut new: BTreeMap<&[u8], &str> = BTreeMap::new();
        for (service, records) in wanted {
            for record in records {
                if new.insert(&record.key, service).is_some() {
                    return refuse(service, &record.key);
                }
            }
        }
        // The others are many, and those that are new are few.
        let others = self.wanted.iter().filter(|(id, other)| !other.leaving && !but.contains(id));
        let known = others.flat_map(|(_, other)| &other.records).find_map(|record| new.get_key_value(&*record.key));
        known.map_or(Ok(()), |(key, service)| refuse(service, key))
    }
}
