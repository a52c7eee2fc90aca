//! Checks of the user's: may it be registered, and may it stay?

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::control::{ServeControl, ServeState};
use crate::backoff::Backoff;
use crate::error::{BoxError, Error};

/// How long a check may take: longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

type Answer = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

/// A check of the user's.
#[derive(Clone)]
pub(super) struct Check(Arc<dyn Fn() -> Answer + Send + Sync>);

impl Check {
    pub(super) fn new<F, Fut, E>(check: F) -> Self
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

    async fn ask(&self, what: &'static str) -> Result<(), Error> {
        match timeout(LIMIT, (self.0)()).await {
            Ok(answer) => answer.map_err(|error| Error::check(what, error)),
            Err(_) => Err(Error::timeout(format!("the {what}"), LIMIT, None)),
        }
    }
}

/// Asks checks, and shows what they say.
pub(super) struct Checked {
    control: ServeControl,
}

impl Checked {
    pub(super) fn new(control: ServeControl) -> Self {
        Self { control }
    }

    /// Asks until it passes, ever more slowly.
    pub(super) async fn pass(&self, what: &'static str, check: &Check) {
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
    }

    /// Asks again and again, and tells each answer.
    pub(super) async fn watch(&self, every: Duration, check: &Check, tell: impl Fn(bool)) -> Infallible {
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
