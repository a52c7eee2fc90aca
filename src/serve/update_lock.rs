//! A lock for updates in which user code runs: one update after the other, and none within another.

use std::pin::pin;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use tokio::sync::Notify;

/// Orders updates: of two, the later one sees what the earlier one has changed. Unlike a [`Mutex`],
/// it notices that the same thread locks it twice, as when the user's change of an instance updates
/// the same server.
#[derive(Default)]
pub(super) struct UpdateLock {
    /// The thread that updates.
    holder: Mutex<Option<ThreadId>>,
    /// Wakes threads that wait.
    free: Condvar,
    /// Wakes tasks that wait.
    notify: Notify,
}

/// An update in progress. It ends when the guard is dropped.
pub(super) struct UpdateGuard<'a>(&'a UpdateLock);

impl UpdateLock {
    /// Waits until no other thread updates. Returns `None` if this thread does, which would wait
    /// for itself.
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

    /// Waits until nobody updates, without blocking the thread. The guard must be dropped before
    /// the next await, because it belongs to its thread.
    pub(super) async fn lock_async(&self) -> UpdateGuard<'_> {
        loop {
            // Enabled before the attempt: a release between the two would be missed otherwise.
            let mut released = pin!(self.notify.notified());
            released.as_mut().enable();
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            released.await;
        }
    }

    fn try_lock(&self) -> Option<UpdateGuard<'_>> {
        let mut holder = self.holder();
        if holder.is_some() {
            return None;
        }
        *holder = Some(thread::current().id());
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
        self.0.notify.notify_waiters();
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

    #[tokio::test]
    async fn who_waits_without_a_thread_is_told() {
        let updates = UpdateLock::default();
        let first = updates.lock();
        let mut second = pin!(updates.lock_async());
        tokio::select! {
            biased;
            _ = &mut second => panic!("there is one already"),
            () = std::future::ready(()) => {}
        }
        drop(first);
        let second = second.await;
        assert!(updates.try_lock().is_none());
        drop(second);
        assert!(updates.lock().is_some());
    }
}
