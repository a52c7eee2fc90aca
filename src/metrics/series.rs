//! What the crate records into: a number of its own, which `stats()` reads, and the recorder's series if there is one.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::metrics::bounds::Bounds;
use crate::metrics::{BoundInstrument, Instrument, Metrics};
use crate::panics::catch;

/// A series of the recorder's, or none.
pub(crate) struct Bound(Option<Box<dyn BoundInstrument>>);

impl Bound {
    /// No series.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// Without metrics, or for an experimental instrument that nobody asked for, nothing is bound.
    ///
    /// This calls a user's code: no lock may be held.
    pub(crate) fn new(
        metrics: Option<&Metrics>,
        instrument: &'static Instrument,
        labels: &[(&'static str, &str)],
    ) -> Self {
        let Some(metrics) = metrics.filter(|metrics| metrics.experimental || !instrument.is_experimental) else {
            return Self(None);
        };
        match catch(|| metrics.recorder.bind(instrument, labels)) {
            Ok(bound) => Self(Some(bound)),
            Err(panic) => {
                tracing::error!(instrument = instrument.name, panic, "recorder of metrics has panicked");
                Self(None)
            }
        }
    }

    /// Whether anybody takes the values.
    pub(crate) fn is_bound(&self) -> bool {
        self.0.is_some()
    }

    #[inline]
    pub(crate) fn record(&self, value: f64) {
        if let Some(bound) = &self.0 {
            record(&**bound, value);
        }
    }
}

impl Drop for Bound {
    /// The recorder's series goes, which is a user's code too.
    fn drop(&mut self) {
        if let Some(bound) = self.0.take() {
            let _ = catch(|| drop(bound));
        }
    }
}

/// Out of line: without a recorder nothing of it runs.
#[cold]
fn record(bound: &dyn BoundInstrument, value: f64) {
    let _ = catch(|| bound.record(value)); // in a drop that unwinds, a second panic would end the process
}

/// A sum that only grows.
pub(crate) struct Counter {
    value: AtomicU64,
    bound: Bound,
}

impl Counter {
    pub(crate) fn new(bound: Bound) -> Self {
        Self { value: AtomicU64::new(0), bound }
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
        self.bound.record(count as f64);
    }

    pub(crate) fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// A sum that grows and shrinks. Its share of the recorder's series goes with it.
pub(crate) struct UpDownCounter {
    value: AtomicI64,
    bound: Bound,
}

impl UpDownCounter {
    pub(crate) fn new(bound: Bound) -> Self {
        Self { value: AtomicI64::new(0), bound }
    }

    pub(crate) fn add(&self, change: i64) {
        if change != 0 {
            self.value.fetch_add(change, Ordering::Relaxed);
            self.bound.record(change as f64);
        }
    }

    /// Sets the share of this one.
    pub(crate) fn set(&self, value: i64) {
        let before = self.value.swap(value, Ordering::Relaxed);
        if value != before {
            self.bound.record((value - before) as f64);
        }
    }

    pub(crate) fn value(&self) -> i64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Drop for UpDownCounter {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The present value, and 0 at its end. Several with the same labels overwrite each other.
pub(crate) struct Gauge(Bound);

impl Gauge {
    pub(crate) fn new(bound: Bound) -> Self {
        Self(bound)
    }

    /// Whether anybody takes the values.
    pub(crate) fn is_bound(&self) -> bool {
        self.0.is_bound()
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.record(value);
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.set(0.0);
    }
}

/// A distribution of whole numbers: of nanoseconds where the unit is a second. Its count is the sum of its buckets, so that a
/// snapshot is consistent.
pub(crate) struct Histogram {
    bounds: &'static Bounds,
    is_of_times: bool,
    /// One more than the instrument has bounds.
    buckets: Box<[AtomicU64]>,
    /// Of times in microseconds, whose sum overflows in half a million years of calls.
    sum: AtomicU64,
    bound: Bound,
}

/// How a time reads in seconds. Divided, because a product would move some bounds to the bucket above.
pub(crate) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

impl Histogram {
    pub(crate) fn new(instrument: &'static Instrument, bound: Bound) -> Self {
        let bounds = instrument.bounds;
        let buckets = (0..=bounds.values.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, is_of_times: instrument.unit == "s", buckets, sum: AtomicU64::new(0), bound }
    }

    /// Records a number.
    #[inline]
    pub(crate) fn record_count(&self, value: u64) {
        self.record_in(self.bounds.bucket_of(value), value);
        if self.bound.is_bound() {
            self.bound.record(value as f64);
        }
    }

    /// Records a time.
    #[inline]
    pub(crate) fn record_nanos(&self, nanos: u64) {
        self.record_in(self.bounds.bucket_of(nanos), nanos / 1_000);
        if self.bound.is_bound() {
            self.bound.record(seconds(nanos));
        }
    }

    #[inline]
    fn record_in(&self, bucket: usize, value: u64) {
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Release); // a bucket more than bounds
    }

    /// Records a time.
    pub(crate) fn record_time(&self, time: Duration) {
        self.record_nanos(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn distribution(&self) -> Distribution {
        // Who reads an end here reads the beginning before it afterwards.
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Acquire)).collect();
        let parts = if self.is_of_times { 1e6 } else { 1.0 };
        let sum = self.sum.load(Ordering::Relaxed) as f64 / parts;
        Distribution { bounds: self.bounds.values, buckets, sum }
    }
}

/// The values that a histogram has taken.
#[derive(Clone, PartialEq)]
pub struct Distribution {
    bounds: &'static [f64],
    buckets: Vec<u64>,
    sum: f64,
}

impl Distribution {
    /// Without a value.
    pub(crate) fn empty(instrument: &'static Instrument) -> Self {
        Self { bounds: instrument.bounds(), buckets: vec![0; instrument.bounds().len() + 1], sum: 0.0 }
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the values, in the unit of the instrument.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Returns each bucket with its upper bound, which belongs to it, and the number of values in it alone. The last bound is
    /// infinite.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (f64, u64)> {
        let last = self.bounds.len();
        self.buckets.iter().enumerate().map(move |(i, count)| {
            (if i == last { f64::INFINITY } else { self.bounds[i] }, *count) // a bucket more than bounds
        })
    }
}

impl fmt::Debug for Distribution {
    /// Empty buckets are left out: there are forty, and most are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filled: Vec<_> = self.buckets().filter(|(_, count)| *count > 0).collect();
        write!(f, "Distribution {{ count: {}, sum: {:?}, buckets: {filled:?} }}", self.count(), self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_prints_the_buckets_that_hold_something() {
        let (bounds, buckets) = (crate::metrics::bounds::RETRIES.values, vec![0, 2, 0, 0, 0, 1]);
        let distribution = Distribution { bounds, buckets, sum: 11.0 };
        assert_eq!(format!("{distribution:?}"), "Distribution { count: 3, sum: 11.0, buckets: [(2.0, 2), (inf, 1)] }");
    }
}
