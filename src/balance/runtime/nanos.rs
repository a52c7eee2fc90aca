//! PURE: times in nanoseconds, half as large as a `Duration`: the future of a call has no room for more.

use std::time::Duration;

/// A time of up to 584 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(pub(crate) u64);

impl Nanos {
    /// The longest one.
    pub(crate) const MAX: Self = Self(u64::MAX);

    /// Returns the time, or the longest one if it is longer.
    #[inline]
    pub(crate) const fn new(time: Duration) -> Self {
        Self(time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64))
    }

    #[inline]
    pub(crate) const fn time(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Returns the time from an earlier one to this one.
    #[inline]
    pub(crate) const fn since(self, start: Self) -> Self {
        Self(self.0.saturating_sub(start.0))
    }
}
