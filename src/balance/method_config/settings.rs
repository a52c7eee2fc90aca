//! What calls read of the settings of their method. Immutable: a change makes others, and holds for calls that begin after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use crate::balance::builder::call_options::CallTimeout;
use crate::balance::call::attempts::durations::Durations;
use crate::balance::call::attempts::timing::Timing;
use crate::balance::call::retry::{RetryPolicy, RetryScope, service_of};
use crate::balance::method_config::message_limit::MessageLimit;
use crate::service_config::MethodParams;

/// The settings of all methods of a channel.
#[derive(Default)]
pub(crate) struct CallSettings {
    /// Of methods that `by_path` does not have.
    pub(super) default: MethodSettings,
    /// By path: `/package.Service/Method`, or `/package.Service/` for all methods of a service.
    pub(super) by_path: BTreeMap<String, MethodSettings>,
    /// The durations of earlier calls, by the method or service that the user's code declares with a quantile.
    pub(super) durations: BTreeMap<String, Arc<Durations>>,
}

/// What holds for the calls of one method.
#[derive(Clone, Default)]
pub(crate) struct MethodSettings {
    /// The maximum time of a call. `None` is no limit.
    pub(crate) timeout: Option<Duration>,
    /// That of the service config, which nothing lifts.
    pub(crate) document_timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
    /// The largest message of a request, and of a response.
    pub(crate) max_request: MessageLimit,
    pub(crate) max_response: MessageLimit,
    /// How its calls are retried after a server may have processed them. `None`, if they are not.
    pub(crate) retry: Option<Arc<MethodRetry>>,
}

/// How the calls of a declared method are retried. Calls keep it to their end.
pub(crate) struct MethodRetry {
    pub(crate) scope: RetryScope,
    /// The codes after which they are, as bits by number.
    pub(super) codes: u32,
    pub(crate) max_attempts: u32,
    pub(super) initial_backoff: Duration,
    pub(super) max_backoff: Duration,
    pub(super) backoff_multiplier: f64,
    pub(crate) timing: Timing,
    /// What hedging after a quantile needs to know of earlier calls.
    pub(crate) durations: Option<Arc<Durations>>,
}

impl MethodSettings {
    /// The maximum time of a call that has this limit of its own in place of the code's, if it has one.
    #[inline]
    pub(crate) fn time_limit(&self, own: Option<CallTimeout>) -> Option<Duration> {
        let limit = own.map_or(self.timeout, |CallTimeout(own)| own);
        match (limit, self.document_timeout) {
            (Some(limit), Some(document)) => Some(limit.min(document)),
            (limit, document) => limit.or(document),
        }
    }
}

impl CallSettings {
    /// Returns what holds for a method: its own settings, else its service's, else the channel's.
    #[inline]
    pub(crate) fn of(&self, path: &str) -> &MethodSettings {
        if self.by_path.is_empty() {
            return &self.default;
        }
        self.by_path.get(path).or_else(|| self.by_path.get(service_of(path))).unwrap_or(&self.default)
    }
}

impl MethodRetry {
    /// As a policy of the user's says.
    pub(super) fn of(policy: &RetryPolicy, scope: RetryScope, durations: impl FnOnce() -> Arc<Durations>) -> Self {
        Self {
            scope,
            codes: bits_of(policy.codes.iter().copied()),
            max_attempts: policy.max_attempts,
            initial_backoff: policy.initial_backoff,
            max_backoff: policy.max_backoff,
            backoff_multiplier: 2.0,
            timing: policy.timing,
            durations: policy.timing.has_quantile().then(durations),
        }
    }

    /// As a service config says, if it does.
    pub(super) fn of_document(params: &MethodParams) -> Option<Self> {
        let codes = |codes: &[u8]| codes.iter().fold(0, |bits, code| bits | 1 << code);
        let defaults = RetryPolicy::new();
        if let Some(retry) = &params.retry {
            return Some(Self {
                scope: RetryScope::UntilHead,
                codes: codes(&retry.codes),
                max_attempts: retry.max_attempts,
                initial_backoff: retry.initial_backoff,
                max_backoff: retry.max_backoff,
                backoff_multiplier: retry.backoff_multiplier,
                timing: Timing::default(),
                durations: None,
            });
        }
        let hedging = params.hedging.as_ref()?;
        Some(Self {
            scope: RetryScope::UntilComplete,
            codes: codes(&hedging.non_fatal_codes),
            max_attempts: hedging.max_attempts,
            initial_backoff: defaults.initial_backoff,
            max_backoff: defaults.max_backoff,
            backoff_multiplier: 2.0,
            timing: Timing::hedging(hedging.hedging_delay),
            durations: None,
        })
    }

    /// Whether a call that ended with this code is retried.
    pub(crate) fn has_code(&self, code: Code) -> bool {
        self.codes & (1 << code as u32) != 0
    }

    /// Returns the pause after so many attempts. `random` is drawn from 0 to 1.
    pub(crate) fn pause(&self, attempts: u32, random: f64) -> Duration {
        let factor = self.backoff_multiplier.powi(attempts.saturating_sub(1).min(1_000).cast_signed());
        let pause = (self.initial_backoff.as_secs_f64() * factor).min(self.max_backoff.as_secs_f64());
        // No more than `max_backoff`, which is a duration.
        Duration::try_from_secs_f64(pause * random).unwrap_or(self.max_backoff)
    }
}

/// Codes as bits by their numbers, which are below 17.
pub(super) fn bits_of(codes: impl IntoIterator<Item = Code>) -> u32 {
    codes.into_iter().fold(0, |bits, code| bits | 1 << code as u32)
}
