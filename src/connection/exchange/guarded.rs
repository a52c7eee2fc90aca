//! The request's body is its owner's code: where it panics, the exchange fails, and whoever polls it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::failure::{Failure, Kind};

/// What the body says to `ask`. One that has panicked or failed must not be asked again.
pub(crate) fn ask<T>(ask: impl FnOnce() -> T) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(ask)).map_err(|_| panicked())
}

fn panicked() -> Failure {
    Failure::new(Kind::Panicked, "the request's stream panicked")
}

/// Where a body that fails beside its answer leaves why.
#[derive(Clone, Default)]
pub(crate) struct BodyFailure(Arc<Mutex<Option<Failure>>>);

impl BodyFailure {
    pub(crate) fn set(&self, failure: Failure) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    pub(crate) fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
