//! User code that panics: whoever runs it goes on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::connection::panic_text;

/// Runs user code; its panic is the error, with the text of the panic. With `panic = "abort"` the process ends instead.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_text)
}
