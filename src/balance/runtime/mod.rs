//! The tokio runtime that calls need: looked for, so that its absence is an error and no panic.

pub(super) mod pause;
pub(super) mod timer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::balance::status;

/// Whether a runtime is there.
///
/// # Errors
/// `INTERNAL` where none is.
#[inline]
pub(crate) fn here() -> Result<(), Status> {
    match Handle::try_current() {
        Ok(_) => Ok(()),
        Err(_) => Err(without("a call needs a tokio runtime: poll it inside one")),
    }
}

/// A timer.
///
/// # Errors
/// `INTERNAL` where there is no runtime, or one whose timers are off.
pub(crate) fn timer(at: Instant) -> Result<Pin<Box<Sleep>>, Status> {
    here()?;
    match catch_unwind(AssertUnwindSafe(|| Box::pin(sleep_until(at)))) {
        Ok(sleep) => Ok(sleep),
        Err(_) => Err(without("a call needs a tokio runtime with timers: enable_time, or enable_all")),
    }
}

/// Whether timers are there.
///
/// # Errors
/// As [`timer`].
pub(crate) fn timers() -> Result<(), Status> {
    timer(Instant::now()).map(drop)
}

fn without(text: &str) -> Status {
    status::unplaced(Code::Internal, text.to_owned(), text)
}
