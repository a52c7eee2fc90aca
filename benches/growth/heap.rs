//! What is held of memory, by the counting allocator.

use std::time::Duration;

use crate::lapse::wait;

/// Counts what is allocated while it lives.
pub(crate) fn profiler() -> dhat::Profiler {
    dhat::Profiler::builder().testing().trim_backtraces(Some(2)).build()
}

/// The blocks that were allocated since the profiler was made. A block that is made larger counts once.
pub(crate) fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// The bytes that are held once what was needed in passing has been freed: when the count stands still.
pub(crate) async fn held_when_settled() -> f64 {
    let (mut last, mut still) = (usize::MAX, 0);
    while still < 20 {
        wait(Duration::from_millis(10)).await;
        let now = dhat::HeapStats::get().curr_bytes;
        still = if now == last { still + 1 } else { 0 };
        last = now;
    }
    last as f64
}
