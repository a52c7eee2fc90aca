//! Turns at changing something, in which code of users runs: one after the other, and none within another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

#[derive(Default)]
pub(super) struct Turns {
    /// Whose turn it is.
    holder: Mutex<Option<ThreadId>>,
    free: Condvar,
}

/// Ends when it is dropped.
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn; none where this thread has one, which would wait for itself.
    pub(super) fn take(&self) -> Option<Turn<'_>> {
        let me = thread::current().id();
        let mut holder = self.lock();
        while let Some(other) = *holder {
            if other == me {
                return None;
            }
            holder = self.free.wait(holder).unwrap_or_else(PoisonError::into_inner);
        }
        *holder = Some(me);
        Some(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<ThreadId>> {
        // Nothing panics while it is held.
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_wait_for_each_other_and_not_for_themselves() {
        let turns = Turns::default();
        let first = turns.take();
        assert!(first.is_some() && turns.take().is_none(), "it would wait for itself");
        thread::scope(|scope| {
            let second = scope.spawn(|| turns.take().is_some());
            drop(first);
            assert!(second.join().unwrap());
        });
        assert!(turns.take().is_some());
    }
}
