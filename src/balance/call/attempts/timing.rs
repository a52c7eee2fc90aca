//! The settings of a retry policy that send a further attempt because of the time: attempt timeout and hedging.

use std::time::Duration;

use crate::balance::call::retry::RetryPolicy;
use crate::error::Error;

/// The shortest time that tokio's timers can tell.
const MIN_TIME: Duration = Duration::from_millis(1);
/// A longer time is a mistake.
const MAX_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// When declared calls get a further attempt although none has failed. Never by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) hedge: Option<HedgeDelay>,
}

/// How long a call waits for its response before it is hedged.
#[derive(Clone, Copy, Debug)]
pub(super) enum HedgeDelay {
    After(Duration),
    /// The time in which this part of the calls end, and no less than this time.
    Quantile(f64, Duration),
}

impl Timing {
    /// Hedges after this time, as a service config says; 0 counts as the shortest time.
    pub(crate) fn hedging(delay: Duration) -> Self {
        Self { attempt_timeout: None, hedge: Some(HedgeDelay::After(delay.clamp(MIN_TIME, MAX_TIME))) }
    }

    /// Whether declared calls have further attempts because of the time.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.attempt_timeout.is_some() || self.hedge.is_some()
    }

    /// Whether the durations of calls are needed.
    pub(crate) fn has_quantile(&self) -> bool {
        matches!(self.hedge, Some(HedgeDelay::Quantile(..)))
    }

    /// Refuses settings outside of their ranges.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let check_time = |setting, time: Duration| {
            let is_valid = (MIN_TIME..=MAX_TIME).contains(&time);
            let reason = "it must be from 1 ms to 24 h";
            if is_valid { Ok(()) } else { Err(Error::invalid(setting, format!("{time:?}"), reason)) }
        };
        if let Some(timeout) = self.attempt_timeout {
            check_time("attempt_timeout of the retry policy", timeout)?;
        }
        match self.hedge {
            None => Ok(()),
            Some(HedgeDelay::After(delay)) => check_time("hedge_after of the retry policy", delay),
            Some(HedgeDelay::Quantile(quantile, at_least)) => {
                if !(quantile > 0.0 && quantile < 1.0) {
                    let setting = "quantile of hedge_after_quantile of the retry policy";
                    let reason = "it must be above 0 and below 1";
                    return Err(Error::invalid(setting, quantile.to_string(), reason));
                }
                check_time("at_least of hedge_after_quantile of the retry policy", at_least)
            }
        }
    }
}

impl RetryPolicy {
    /// Gives up an attempt that lasts longer than this, and sends the next one to another server. None by default. From 1 ms to
    /// 24 h.
    ///
    /// The time counts from when the attempt is sent. It ends with the whole response ([`RetryPolicy::repeatable`]), or with its
    /// head ([`RetryPolicy::repeatable_streaming`]). The next attempt is sent at once if all of these hold:
    ///
    /// - a server that this call has not tried yet is ready and has room;
    /// - fewer than [`RetryPolicy::max_attempts`] attempts were sent;
    /// - the [budget](RetryPolicy::budget) allows a retry. The next attempt takes one token;
    /// - the whole request was read and is kept ([`replay_limit`](crate::BalancedChannelBuilder::replay_limit));
    /// - the call's deadline has not passed, and no server has forbidden further attempts (`grpc-retry-pushback-ms`).
    ///
    /// Otherwise the attempt goes on, and at most until the call's own deadline: this timeout alone never fails a call. The
    /// channel looks again when the attempt is twice as old, and so on. Only an unread request is looked at again at once when
    /// it was read. So a call without a deadline on a server that hangs waits without limit if no other attempt can be sent: give
    /// it a deadline too.
    ///
    /// An attempt that is given up is cancelled ([Cancelled calls](crate::BalancedChannel#cancelled-calls)). In the load of its
    /// server it counts as at least as slow as it lasted; for outlier detection it counts for nothing.
    /// [`ServerStatus::attempt_timeouts`](crate::ServerStatus::attempt_timeouts) counts it. The servers still get what is left of
    /// the call's own deadline as `grpc-timeout`.
    ///
    /// Set it well above the time that the method usually takes: it is for servers that hang, and each attempt begins the work
    /// anew. It is the counterpart of Envoy's `per_try_timeout`, which fails a call when no attempt is left.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.timing.attempt_timeout = Some(timeout);
        self
    }

    /// Sends one more attempt beside those in flight if a call has no response after this time, and again after each further such
    /// time (hedging, `hedgingDelay` in gRFC A6). None by default. From 1 ms to 24 h. It replaces an earlier
    /// [`RetryPolicy::hedge_after_quantile`].
    ///
    /// The same conditions hold as for [`RetryPolicy::attempt_timeout`], but no attempt is given up for a hedge. If no hedge can
    /// be sent, the channel looks again when twice the time has passed since the last attempt was sent. A hedge never waits for a
    /// server. Each hedge takes one token of the budget when it is sent: more than A6 asks, which counts failures only. So servers
    /// that are all slow do not get twice the load.
    ///
    /// The first whole response wins; for [`RetryPolicy::repeatable_streaming`] the first head does. A response with one of
    /// [`RetryPolicy::retryable_codes`] does not end the other attempts: it counts as a failed attempt, and only if it was the
    /// last in flight, the call is retried or ends with it. A response with any other code ends the call. A server may delay the
    /// next hedge, or forbid further ones (`grpc-retry-pushback-ms`). A6 sends the next hedge at once after a failure; here it
    /// keeps its time.
    ///
    /// An attempt that no server has processed is sent again beside those in flight, for no token and at once, to a server that was
    /// not tried. After a backoff it may also go to one that was: as without hedging
    /// ([Retries](crate::BalancedChannel#retries)).
    ///
    /// The attempts that lose are cancelled as those of [`RetryPolicy::attempt_timeout`] are. If the deadline passes, the oldest
    /// attempt without a head counts as failed for its server; the others are cancelled.
    /// [`ServerStatus::hedges`](crate::ServerStatus::hedges) counts hedges at their server, and `grpc-previous-rpc-attempts` in
    /// a hedge tells how many attempts were sent before it.
    ///
    /// With both settings a hedge comes first, and [`RetryPolicy::attempt_timeout`] counts for each attempt from when it was sent. If
    /// hedges are sent, it is rarely reached.
    #[must_use]
    pub fn hedge_after(mut self, delay: Duration) -> Self {
        self.timing.hedge = Some(HedgeDelay::After(delay));
        self
    }

    /// As [`RetryPolicy::hedge_after`], after the time in which this part of the calls end, and at least after `at_least`. It
    /// replaces an earlier [`RetryPolicy::hedge_after`].
    ///
    /// `quantile` is above 0 and below 1: with 0.95 about one call in twenty is hedged. It is taken over the calls of the last
    /// minute (50 to 60 s) of what was declared, a method or a service, that ended with OK; of streaming methods it is the time
    /// to the head of the response. The time of a call counts from its first attempt. It is computed anew twice a second at
    /// most, and is up to an eighth too long. No call is hedged before 100 calls have ended with OK within the last minute.
    /// `at_least` is from 1 ms to 24 h.
    #[must_use]
    pub fn hedge_after_quantile(mut self, quantile: f64, at_least: Duration) -> Self {
        self.timing.hedge = Some(HedgeDelay::Quantile(quantile, at_least));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_outside_of_their_ranges_are_refused_by_name() {
        let second = Duration::from_secs(1);
        let policy = RetryPolicy::new;
        for (policy, named) in [
            (policy().attempt_timeout(Duration::ZERO), "attempt_timeout"),
            (policy().attempt_timeout(Duration::MAX), "attempt_timeout"),
            (policy().hedge_after(Duration::from_micros(999)), "hedge_after"),
            (policy().hedge_after_quantile(0.5, Duration::ZERO), "at_least"),
            (policy().hedge_after_quantile(0.0, second), "quantile"),
            (policy().hedge_after_quantile(1.0, second), "quantile"),
            (policy().hedge_after_quantile(f64::NAN, second), "quantile"),
            (policy().hedge_after_quantile(-1.0, second), "quantile"),
        ] {
            let error = policy.check().unwrap_err();
            assert!(error.is_invalid_argument() && error.to_string().contains(named), "{error}");
        }
        policy().attempt_timeout(second).hedge_after(MIN_TIME).check().unwrap();
        policy().hedge_after_quantile(0.99, MAX_TIME).check().unwrap();
    }

    #[test]
    fn the_later_of_the_two_hedge_settings_holds() {
        let second = Duration::from_secs(1);
        assert!(!RetryPolicy::new().hedge_after_quantile(0.5, second).hedge_after(second).timing.has_quantile());
        assert!(RetryPolicy::new().hedge_after(second).hedge_after_quantile(0.5, second).timing.has_quantile());
        assert!(!RetryPolicy::new().timing.is_set());
    }
}
