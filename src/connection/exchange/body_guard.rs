//! Keeps panics of a request's body, which is the user's code, from the task that polls it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::failure::{Failure, FailureKind};

/// Calls the body. After a panic the body must not be polled again.
///
/// # Errors
/// [`FailureKind::RequestBodyPanic`].
pub(super) fn guard<T>(call: impl FnOnce() -> T) -> Result<T, Failure> {
    let failure = |_| Failure::new(FailureKind::RequestBodyPanic, "the request's stream panicked");
    catch_unwind(AssertUnwindSafe(call)).map_err(failure)
}

/// What is known of a request's body that is sent by a task of its own. The task writes it, the
/// response's body reads it.
#[derive(Clone, Default)]
pub(super) struct BodyFailure(Arc<SentByTask>);

#[derive(Default)]
struct SentByTask {
    failure: Mutex<Option<Failure>>,
    /// What the body itself counts.
    count: AtomicU64,
}

/// What the body of a request counts while a task sends it.
#[derive(Clone, Default)]
pub(crate) struct SentCounter(Arc<SentByTask>);

impl SentCounter {
    pub(crate) fn add(&self, count: u64) {
        self.0.count.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }
}

impl BodyFailure {
    /// For the body.
    pub(super) fn counter(&self) -> SentCounter {
        SentCounter(self.0.clone())
    }

    /// Called before the stream is reset.
    pub(super) fn set(&self, failure: Failure) {
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// Called when the response ends.
    pub(super) fn take(&self) -> Option<Failure> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
