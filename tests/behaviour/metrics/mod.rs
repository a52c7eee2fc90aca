//! Metrics of resolvers and registrars, and in `serve/metrics.rs` of servers: what a recorder is given, and that `stats()` says the
//! same.
#![allow(clippy::float_cmp)] // counts, which are whole numbers

mod registrar;
mod resolver;
mod users;

use std::time::Duration;

use test_support::Recorder;
use tokio::time::{Instant, sleep};

use crate::support::PATIENCE;

/// Waits until a series has this value.
pub(crate) async fn shows(recorder: &Recorder, series: &str, value: f64) {
    until_metrics(recorder, &format!("{series} {value}"), || recorder.value(series) == value).await;
}

/// Waits until the recorder is as wanted. What it has then is in the message of a failure.
async fn until_metrics(recorder: &Recorder, what: &str, wanted: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !wanted() {
        assert!(Instant::now() < end, "not in time: {what}\n{}", recorder.text());
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until all handles are dropped: then all that counts what is there now is 0, and nothing was recorded against the rules.
pub(crate) async fn ended(recorder: &Recorder) {
    until_metrics(recorder, "the end of all series", || recorder.bound() == 0).await;
    let counts_events = |line: &str| {
        ["relists{", "changes{", "leases_lost{", "keys_repaired{", "duration{"].iter().any(|name| line.contains(name))
    };
    let left: Vec<_> = recorder.text().lines().filter(|line| !counts_events(line)).map(str::to_owned).collect();
    assert!(left.iter().all(|line| line.ends_with("} 0")), "{left:#?}");
    assert_eq!(recorder.faults(), Vec::<String>::new());
}
