//! The time that all processes of a scenario share.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds of the system's clock: the processes run on one machine, and nobody sets it meanwhile.
pub(crate) fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
