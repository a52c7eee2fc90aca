//! Whether the runtime has timers. Looked for first, so that their absence is an error and not a
//! panic of tokio.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use crate::error::Error;

/// The calling tokio runtime, which has timers. `what` starts the text of the error, such as
/// `resolving`.
///
/// # Errors
/// When there is no runtime, or its timers are off.
pub(crate) fn runtime(what: &'static str) -> Result<Handle, Error> {
    let runtime = Handle::try_current().map_err(|_| Error::no_runtime(what))?;
    match catch_unwind(AssertUnwindSafe(|| drop(sleep_until(Instant::now())))) {
        Ok(()) => Ok(runtime),
        Err(_) => Err(Error::no_timers(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_without_timers_is_an_error() {
        let find = || runtime("this").map(drop).map_err(|error| error.to_string());
        assert!(find().unwrap_err().starts_with("this needs"));
        let without = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert!(without.block_on(async { find() }).unwrap_err().contains("timers"));
        let with = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        with.block_on(async { find() }).unwrap();
    }
}
