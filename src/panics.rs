//! Code of users that panics: the background task that runs it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// As [`catch`], for a future.
pub(crate) use crate::connection::catch_panic;
use crate::connection::panic_message;

/// Runs code of a user. Its panic is the error, with the text of the panic. With `panic = "abort"`
/// the process ends instead.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}
