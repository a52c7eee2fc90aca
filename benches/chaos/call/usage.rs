//! What this process holds: memory, tasks, file descriptors, and the CPU time that it took.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::outcome::Sample;

/// How often samples are taken.
const EVERY: Duration = Duration::from_millis(50);

/// Takes samples until the runtime ends.
pub(crate) fn sample(began: Instant) -> Arc<Mutex<Vec<Sample>>> {
    let samples = Arc::new(Mutex::new(Vec::with_capacity(1024)));
    let taken = samples.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            let sample = Sample {
                at_ms: began.elapsed().as_millis() as u64,
                memory_kb: memory_kb(),
                tasks: Handle::current().metrics().num_alive_tasks() as u64,
                files: fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64,
            };
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    });
    samples
}

fn memory_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|kb| kb.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Of all threads that live, in the kernel's nanoseconds.
pub(crate) fn cpu_seconds() -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}
