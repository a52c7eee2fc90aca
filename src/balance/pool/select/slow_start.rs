//! [`SlowStart`]: how a server that has just become ready warms up. PURE.

use std::time::Duration;

/// The formula takes at least this time.
const LEAST: Duration = Duration::from_secs(1);
/// How often factors change.
const STEP: Duration = Duration::from_millis(100);
/// The longest window: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Gives a server that has just become ready a part of its calls only, which grows until it has warmed up
/// (Envoy's slow start). Off by default.
///
/// While a server warms up, its weight is multiplied by
/// `max(min_weight_percent / 100, (max(t, 1 s) / window) ^ (1 / aggression))`, where `t` is the time since
/// it became ready. The factor is computed anew every 100 ms.
///
/// - Servers of the channel's first set are warm: they may have run for long.
/// - A server that was not ready for more than a second warms up anew. A connection that a server ends
///   in order (GOAWAY) is replaced sooner, and changes nothing.
/// - No warm server takes more than twice the calls that it has without slow start. If so many servers
///   warm up that it would, their factors are raised. So a fleet of new servers is not served by one old
///   one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    window: Duration,
    aggression: f64,
    min_weight_percent: u32,
}

impl SlowStart {
    /// Servers warm up for this time, longer than 1 s and at most 365 days. As the formula takes at least
    /// 1 s, a shorter window has no effect.
    #[must_use]
    pub fn new(window: Duration) -> Self {
        Self { window, aggression: 1.0, min_weight_percent: 10 }
    }

    /// How fast the weight grows at first: a finite number greater than 0. 1.0 by default, as in Envoy: it
    /// grows in proportion to time. With more it grows faster at first, with less more slowly.
    #[must_use]
    pub fn aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// The least part of its weight that a server begins with, in percent from 1 to 100. 10 by default, as
    /// in Envoy. Envoy takes 0 too, with which a server may get no call to warm up by. It has an effect only with
    /// windows above `100 s / percent`: the formula takes at least 1 s, so a window of 6 s begins with 17 %.
    #[must_use]
    pub fn min_weight_percent(mut self, percent: u32) -> Self {
        self.min_weight_percent = percent;
        self
    }

    /// The first setting that is out of bounds: its name, its value, and the bound.
    pub(crate) fn invalid(&self) -> Option<(&'static str, String, &'static str)> {
        let checks = [
            (
                "window",
                format!("{} ms", self.window.as_millis()),
                "longer than 1 s, at most 365 days",
                self.window > LEAST && self.window <= LONGEST,
            ),
            (
                "aggression",
                self.aggression.to_string(),
                "a finite number greater than 0",
                self.aggression.is_finite() && self.aggression > 0.0,
            ),
            (
                "minimum weight percent",
                self.min_weight_percent.to_string(),
                "from 1 to 100",
                (1..=100).contains(&self.min_weight_percent),
            ),
        ];
        let failed = checks.into_iter().find(|(.., holds)| !holds);
        failed.map(|(setting, value, bound, _)| (setting, value, bound))
    }

    /// What the weight of a server is multiplied by that warms up since then: from 0.01 to 1. `None` if it has
    /// warmed up. It changes only when [`next_step`] is due.
    pub(super) fn factor(&self, since: Duration, now: Duration) -> Option<f64> {
        let time = step(now).saturating_sub(since);
        if time >= self.window {
            return None;
        }
        let grown = (time.max(LEAST).as_secs_f64() / self.window.as_secs_f64()).powf(self.aggression.recip());
        // In this order, so that no number that is out of bounds does harm.
        Some(grown.max(f64::from(self.min_weight_percent) / 100.0).clamp(0.01, 1.0))
    }
}

/// When factors change next.
pub(super) fn next_step(now: Duration) -> Duration {
    step(now).saturating_add(STEP)
}

/// When factors changed last. All servers have the same steps, so that one timer is enough.
fn step(now: Duration) -> Duration {
    now.saturating_sub(Duration::from_nanos(u64::from(now.subsec_nanos()) % 100_000_000))
}
