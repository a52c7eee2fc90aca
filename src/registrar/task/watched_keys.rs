//! Which keys are to be watched, from the registrar's task to the watcher's: the changes that the watcher has not taken
//! yet, one for each key.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::registrar::lease::Id;

/// For each key that has changed, the registration for which it is to be watched, or `None` if it is not.
pub(super) type KeyChanges = BTreeMap<Vec<u8>, Option<Id>>;

/// The changes, as both tasks hold them. A later change of a key replaces an earlier one, so that a slow watcher skips
/// to the latest.
#[derive(Clone, Default)]
pub(super) struct WatchedKeys(Arc<Inner>);

#[derive(Default)]
struct Inner {
    changes: Mutex<KeyChanges>,
    changed: Notify,
}

impl WatchedKeys {
    /// Tells the watcher what has changed.
    pub(super) fn change(&self, changes: Vec<(Vec<u8>, Option<Id>)>) {
        if !changes.is_empty() {
            self.locked().extend(changes);
            self.0.changed.notify_one();
        }
    }

    /// Waits until something has changed.
    ///
    /// # Cancel safety
    /// Dropping it loses no change.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// What has changed since the last call.
    pub(super) fn take(&self) -> KeyChanges {
        std::mem::take(&mut *self.locked())
    }

    fn locked(&self) -> MutexGuard<'_, KeyChanges> {
        // Nothing panics while it is held.
        self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
