//! Checks of the user's: may it be registered, and may it stay?

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::error::{BoxError, Error};
use crate::panics::catch_panic;
use crate::serve::control::{ServeControl, ServeState};

/// How long a check may take: longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

type Answer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A check of the user's.
#[derive(Clone)]
pub(crate) struct Check(Arc<dyn Fn() -> Answer + Send + Sync>);

impl Check {
    pub(crate) fn new<F, Fut, E>(check: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        Self(Arc::new(move || {
            let checked = check();
            Box::pin(async move { checked.await.map_err(Into::into) })
        }))
    }

    /// One that panics has failed.
    async fn ask(&self, what: &'static str) -> Result<(), Error> {
        match timeout(LIMIT, catch_panic(async { (self.0)().await })).await {
            Ok(Ok(answer)) => answer.map_err(|error| Error::check(what, error)),
            Ok(Err(text)) => Err(Error::check(what, format!("it panicked: {text}").into())),
            Err(_) => Err(Error::timeout(format!("the {what}"), LIMIT, None)),
        }
    }
}

/// Asks checks, and shows what they say.
pub(crate) struct Checked {
    control: ServeControl,
}

impl Checked {
    pub(crate) fn new(control: ServeControl) -> Self {
        Self { control }
    }

    /// Asks until it passes, ever more slowly.
    pub(crate) async fn pass(&self, what: &'static str, check: &Check) {
        let (mut backoff, began) = (Backoff::new(fastrand::u64(..)), Instant::now());
        let mut failures = 0_u32;
        while let Err(error) = check.ask(what).await {
            failures = failures.saturating_add(1);
            if failures == 1 {
                tracing::warn!(?error, "not ready yet: it is not registered");
            } else {
                tracing::debug!(?error, failures, "still not ready");
            }
            self.control.show(ServeState::Starting { why: Some(error) });
            sleep(backoff.fail(began.elapsed(), false)).await;
        }
        if failures > 0 {
            self.control.show(ServeState::Starting { why: None });
        }
    }

    /// Asks again and again, and tells each answer.
    pub(crate) async fn watch(&self, every: Duration, check: &Check, tell: impl Fn(bool)) -> Infallible {
        let mut passes = true;
        loop {
            sleep(every).await;
            let answer = check.ask("health check").await;
            match &answer {
                Err(error) if passes => tracing::warn!(?error, "no longer healthy: it leaves the directory"),
                Ok(()) if !passes => tracing::info!("healthy again: it returns to the directory"),
                _ => {}
            }
            passes = answer.is_ok();
            tell(passes);
        }
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
                let error = format!("{:?}", check.ask("health check").await.unwrap_err());
                assert!(error.contains("it panicked") && error.contains(text), "{error}");
            }
        }
        Check::new(|| async { Ok::<_, BoxError>(()) }).ask("health check").await.unwrap();
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
        let (checked, told) = (Checked::new(ServeControl::new()), RefCell::new(Vec::new()));
        let every = Duration::from_secs(1);
        drop(timeout(19 * every, checked.watch(every, &check, |passes| told.borrow_mut().push(passes))).await);
        let told: String = told.borrow().iter().map(|passes| if *passes { '+' } else { '-' }).collect();
        assert!("-------++--------++".starts_with(&told) && told.len() >= 18, "{told}");
        assert_eq!((log.warned(""), log.count("healthy again")), (2, 2));
    }
}
