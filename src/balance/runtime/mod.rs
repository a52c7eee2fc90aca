//! The tokio runtime that calls need. Its absence is an error and no panic.
//!
//! - `mod.rs` checks for a runtime and for timers.
//! - `nanos.rs` is a time of half the size.
//! - `timer.rs` is a timer that moves between runtimes with its owner.
//! - `pause.rs` notices runtimes that were not driven for a while.

pub(crate) mod nanos;
pub(super) mod pause;
pub(super) mod timer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use crate::balance::status;

/// Checks that the code runs inside a runtime.
///
/// # Errors
/// `INTERNAL` if it does not.
#[inline]
pub(crate) fn require_runtime() -> Result<(), Status> {
    // A task has a runtime: to look at its id costs less than a handle of the runtime.
    if tokio::task::try_id().is_some() {
        return Ok(());
    }
    Handle::try_current().map(drop).map_err(|_| status("a call needs a tokio runtime: poll it inside one"))
}

/// Makes a timer.
///
/// # Errors
/// `INTERNAL` if there is no runtime, or one whose timers are off.
fn new_timer(at: Instant) -> Result<Pin<Box<Sleep>>, Status> {
    require_runtime()?;
    // tokio panics where timers are off, and has no way to ask.
    catch_unwind(AssertUnwindSafe(|| Box::pin(sleep_until(at))))
        .map_err(|_| status("a call needs a tokio runtime with timers: enable_time, or enable_all"))
}

/// Checks that timers can be made.
///
/// # Errors
/// `INTERNAL` if there is no runtime, or one whose timers are off.
pub(crate) fn require_timers() -> Result<(), Status> {
    new_timer(Instant::now()).map(drop)
}

fn status(text: &str) -> Status {
    status::without_server(Code::Internal, text.to_owned(), text)
}
