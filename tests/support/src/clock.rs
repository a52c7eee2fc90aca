//! The clock of the processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// User and system time that all threads of this process have had so far.
pub fn cpu_time() -> Duration {
    // It only ever grows from zero.
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).expect("a time that is not negative")
}
