//! User code that panics: whoever runs it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The same for a future.
pub(crate) use crate::connection::catch_panic;
use crate::connection::panic_message;

/// Runs user code; its panic is the error, with the text of the panic. With `panic = "abort"` the process ends instead.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_message)
}
