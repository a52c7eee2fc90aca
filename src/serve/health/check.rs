//! Checks of the user's: whether a server may be registered, and whether it may stay.
//!
//! A check is user code. It runs in the future of [`Serve::serve`](crate::Serve::serve), beside the
//! server: a check that blocks the thread delays the accept loop. A check that hangs is dropped
//! after 5 s, and one that panics has failed.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{BoxError, Error};
use crate::panics::catch_panic;
use crate::serve::control::ServeControl;
use crate::serve::state::ServeState;

/// How long a check may take. A longer one has failed: 5 s is more than a healthy dependency needs,
/// and soon enough for the server to leave before its callers' deadlines.
const LIMIT: Duration = Duration::from_secs(5);

/// The future of one run.
type CheckFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A check of the user's, which can be run again and again.
#[derive(Clone)]
pub(crate) struct Check(Arc<dyn Fn() -> CheckFuture + Send + Sync>);

impl Check {
    pub(crate) fn new<F, Fut, E>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move || {
            let run = check();
            Box::pin(async move { run.await.map_err(Into::into) })
        }))
    }

    /// Runs the check. One that panics has failed; `what` names it in the error.
    async fn run(&self, what: &'static str) -> Result<(), Error> {
        match timeout(LIMIT, catch_panic(async { (self.0)().await })).await {
            Ok(Ok(result)) => result.map_err(|error| Error::check(what, error)),
            Ok(Err(text)) => Err(Error::check(what, format!("it panicked: {text}").into())),
            Err(_) => Err(Error::timeout(format!("the {what}"), LIMIT, None)),
        }
    }
}

/// Runs a check until it passes, with growing waits. The control shows each failure.
pub(crate) async fn pass(control: &ServeControl, what: &'static str, check: &Check) {
    let (mut backoff, began, mut warned) = (Backoff::new(fastrand::u64(..)), Instant::now(), false);
    while let Err(error) = check.run(what).await {
        let wait = backoff.fail(began.elapsed(), false);
        let retry_in_ms = wait.as_millis();
        if std::mem::replace(&mut warned, true) {
            tracing::debug!(?error, retry_in_ms, "check failed again, not registering yet");
        } else {
            tracing::warn!(?error, retry_in_ms, "check failed, not registering yet");
        }
        control.set_state(ServeState::Starting { why: Some(error) });
        sleep(wait).await;
    }
    if warned {
        control.set_state(ServeState::Starting { why: None });
    }
}

/// Runs a check for ever, with a wait of `every` before each run, and reports each result.
pub(crate) async fn repeat(every: Duration, check: &Check, report: impl Fn(bool)) -> Infallible {
    let mut passes = true;
    loop {
        sleep(every).await;
        let result = check.run("health check").await;
        match &result {
            Err(error) if passes => tracing::warn!(?error, "health check failed, leaving the directory"),
            Ok(()) if !passes => tracing::info!("health check passes again, returning to the directory"),
            _ => {}
        }
        passes = result.is_ok();
        report(passes);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Mutex, PoisonError};

    use test_support::Log;

    use super::*;

    /// F63: a check that panics has failed, wherever in it that happens.
    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let before = Check::new(|| -> std::future::Ready<Result<(), BoxError>> { panic!("at {}", "once") });
        let within = Check::new(|| async { if true { panic!("within") } else { Ok::<_, BoxError>(()) } });
        for (check, text) in [(before, "at once"), (within, "within")] {
            for _ in 0..2 {
                let error = format!("{:?}", check.run("health check").await.unwrap_err());
                assert!(error.contains("it panicked") && error.contains(text), "{error}");
            }
        }
        Check::new(|| async { Ok::<_, BoxError>(()) }).run("health check").await.unwrap();
    }

    /// F63: one warning, however often it panics, and the server is told each time.
    #[tokio::test(start_paused = true)]
    async fn panics_in_a_row_are_one_warning() {
        let (log, _guard) = Log::begin();
        let asked = Arc::new(Mutex::new(0));
        let check = Check::new(move || {
            let time = {
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                *asked += 1;
                *asked
            };
            async move { if time % 10 < 8 { panic!("time {time}") } else { Ok::<_, BoxError>(()) } }
        });
        let told = RefCell::new(Vec::new());
        let every = Duration::from_secs(1);
        drop(timeout(19 * every, repeat(every, &check, |passes| told.borrow_mut().push(passes))).await);
        let told: String = told.borrow().iter().map(|passes| if *passes { '+' } else { '-' }).collect();
        assert!("-------++--------++".starts_with(&told) && told.len() >= 18, "{told}");
        assert_eq!((log.warned(""), log.count("health check passes again")), (2, 2));
    }
}
