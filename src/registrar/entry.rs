//! One registration as handles and task share it: the desired state, and the published one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::codec::Record;
use crate::registrar::handle::state::{Published, RegistrationState};
use crate::registrar::lease::{Conflict, Desired};
use crate::registrar::pause::PauseReasons;
use crate::secret::shown_key;
use crate::target::Target;

/// One registration. Handles change what is desired; the task reads that and sets the state.
pub(super) struct Entry {
    pub(super) target: Target,
    pub(super) records: Vec<Arc<Record>>,
    pub(super) conflict: Conflict,
    /// The id of the instance.
    pub(super) instance_id: Option<Box<str>>,
    pub(super) leaving: bool,
    pub(super) pauses: PauseReasons,
    /// Counts the changes of the desired state, so that the task sees which of them the machine knows.
    pub(super) version: u64,
    pub(super) put_started: PutStarted,
    published: Published,
    sender: watch::Sender<Published>,
}

/// Whether any put of a registration was ever sent. Set before the first one is, so that a server that leaves knows
/// whether clients may have seen it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PutStarted(Arc<AtomicBool>);

impl PutStarted {
    /// Called by the task right before it sends a put.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether clients may know the instance. False means that no put was ever sent, so nobody has
    /// to be given time to see that it left.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A new state that is sent to the handles once no lock is held: a woken task may use any handle at once.
#[must_use = "the state is not published before `send`"]
pub(crate) struct Publication {
    sender: watch::Sender<Published>,
    published: Published,
}

impl Publication {
    /// Publishes the state, unless a newer one was published already.
    pub(crate) fn send(self) {
        let Self { sender, mut published } = self;
        // Handles and task send without the lock, so their publications race: the number decides.
        sender.send_if_modified(|current| {
            let is_newer = current.number < published.number;
            if is_newer {
                std::mem::swap(current, &mut published);
            }
            is_newer
        });
    }
}

impl Entry {
    pub(super) fn new(
        target: Target,
        records: Vec<Arc<Record>>,
        instance_id: Option<Box<str>>,
        conflict: Conflict,
        pauses: PauseReasons,
    ) -> Self {
        let published = Published::first();
        Self {
            target,
            records,
            conflict,
            instance_id,
            leaving: false,
            pauses,
            version: 0,
            put_started: PutStarted::default(),
            sender: watch::Sender::new(published.clone()),
            published,
        }
    }

    /// A receiver of the published states. It ends when the entry is dropped, which is after its
    /// last state.
    pub(super) fn subscribe(&self) -> watch::Receiver<Published> {
        self.sender.subscribe()
    }

    /// The state that was set last. It may not be published yet.
    pub(super) fn state(&self) -> &RegistrationState {
        &self.published.state
    }

    /// Sets the state and gives it the next number. The caller sends the publication once it holds
    /// no lock.
    pub(super) fn set_state(&mut self, state: RegistrationState) -> Publication {
        self.published = Published { number: self.published.number + 1, state };
        Publication { sender: self.sender.clone(), published: self.published.clone() }
    }

    /// The desired state has changed. A registration that was as desired is updating from now on, so that whoever waits for
    /// it waits for this change.
    pub(super) fn mark_changed(&mut self) -> Option<Publication> {
        self.version += 1;
        self.state().is_as_desired().then(|| self.set_state(RegistrationState::Updating { why: None }))
    }

    /// Its keys, as they may be shown.
    pub(super) fn shown_keys(&self) -> impl Iterator<Item = String> {
        self.records.iter().map(|record| shown_key(&record.key))
    }

    /// The desired state as the machine takes it.
    pub(super) fn desired(&self) -> Desired {
        Desired {
            records: self.records.clone(),
            conflict: self.conflict,
            id: self.instance_id.clone(),
            paused: !self.pauses.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F15: what was found out under the lock earlier is told later without it, and must not cover what is newer.
    #[test]
    fn an_older_publication_covers_no_newer_one() {
        let target = "s".parse::<Target>().unwrap();
        let mut entry = Entry::new(target, Vec::new(), None, Conflict::TakeOver, PauseReasons::default());
        let seen = entry.subscribe();
        let registered = entry.set_state(RegistrationState::Registered);
        let updating = entry.mark_changed().expect("it stood");
        updating.send();
        registered.send();
        assert!(matches!(seen.borrow().state, RegistrationState::Updating { .. }));
    }
}
