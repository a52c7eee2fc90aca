//! A lock for updates in which user code runs: one update after the other, and none within another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Orders updates. Unlike a [`Mutex`], it notices that the same thread locks it twice, as when the user's change of an
/// instance updates the same server.
#[derive(Default)]
pub(super) struct UpdateLock {
    /// The thread that updates.
    holder: Mutex<Option<ThreadId>>,
    free: Condvar,
}

/// An update in progress. It ends when the guard is dropped.
pub(super) struct UpdateGuard<'a>(&'a UpdateLock);

impl UpdateLock {
    /// Waits until no other thread updates. Returns `None` if this thread does, which would wait for itself.
    pub(super) fn lock(&self) -> Option<UpdateGuard<'_>> {
        let this = thread::current().id();
        let mut holder = self.holder();
        while let Some(thread) = *holder {
            if thread == this {
                return None;
            }
            holder = self.free.wait(holder).unwrap_or_else(PoisonError::into_inner);
        }
        *holder = Some(this);
        Some(UpdateGuard(self))
    }

    /// Locks the field for a moment, never for the length of an update.
    fn holder(&self) -> MutexGuard<'_, Option<ThreadId>> {
        // Nothing panics while it is held.
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UpdateGuard<'_> {
    fn drop(&mut self) {
        *self.0.holder() = None;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_wait_for_each_other_and_not_for_themselves() {
        let updates = UpdateLock::default();
        let first = updates.lock();
        assert!(first.is_some() && updates.lock().is_none(), "it would wait for itself");
        thread::scope(|scope| {
            let second = scope.spawn(|| updates.lock().is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(updates.lock().is_some());
    }
}
