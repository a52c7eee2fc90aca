//! Keeps panics of a request's body, which is the user's code, from the task that polls it.

use std::panic::{AssertUnwindSafe, catch_unwind};
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

/// The failure of a request's body that is sent by a task of its own. The task writes it, the
/// response's body reads it.
#[derive(Clone, Default)]
pub(super) struct BodyFailure(Arc<Mutex<Option<Failure>>>);

impl BodyFailure {
    /// Called before the stream is reset.
    pub(super) fn set(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    /// Called when the response ends.
    pub(super) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
