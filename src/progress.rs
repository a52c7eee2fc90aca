//! Whether a background task runs: its runtime may exist and be driven by nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A shorter wait proves nothing: a busy runtime runs each task late.
const LEAST: Duration = Duration::from_millis(250);

/// Counts the iterations of a task's loop.
#[derive(Default)]
pub(crate) struct Progress(AtomicU64);

impl Progress {
    /// The task is running. Called once in each iteration.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Release);
    }

    /// The count. Read it before the task is woken, and give it to [`Progress::stall_message`]
    /// after a wait.
    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// What to tell the user where the task was woken at the count `before` and has not run in a
    /// wait of this length. `doing` continues "the tokio runtime …".
    pub(crate) fn stall_message(&self, before: u64, waited: Duration, doing: &str) -> Option<String> {
        (waited >= LEAST && self.now() == before).then(|| {
            format!(
                "the tokio runtime {doing} did not run in that time: drive it (a `current_thread` runtime runs only inside \
                 `block_on`), or use a runtime that is driven"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_a_turn_stands_still() {
        let turns = Progress::default();
        let before = turns.now();
        assert!(turns.stall_message(before, LEAST, "of it").is_some_and(|text| text.contains("did not run")));
        assert_eq!(turns.stall_message(before, LEAST / 2, "of it"), None, "too short to know");
        turns.count();
        assert_eq!(turns.stall_message(before, LEAST, "of it"), None);
    }
}
