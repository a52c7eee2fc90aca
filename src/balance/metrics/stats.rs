//! The numbers of a channel, as users read them.

use std::sync::Arc;
use std::sync::OnceLock;

use tonic::Code;

use crate::balance::channel::BalancedChannel;
use crate::balance::metrics::method::{AttemptEnds, CODES, MethodMetrics};
use crate::balance::metrics::{ChannelMetrics, MetricsContext};
use crate::metrics::{Distribution, Histogram, grpc};

impl BalancedChannel {
    /// Returns the numbers of the channel since it was built: what a [`Recorder`](crate::metrics::Recorder) gets, added up. They are
    /// counted with and without one, and all clones of a channel share them.
    ///
    /// The numbers are read one after the other while calls go on. What has ended in them has also begun in them, and the count of
    /// a distribution is the sum of its buckets.
    ///
    /// ```
    /// # fn print(channel: &tonic_etcd::BalancedChannel) {
    /// for method in channel.stats().methods() {
    ///     for (code, durations) in method.calls() {
    ///         println!("{} {code:?}: {} calls in {} s", method.name(), durations.count(), durations.sum());
    ///     }
    /// }
    /// # }
    /// ```
    pub fn stats(&self) -> ChannelStats {
        self.0.shared.metrics.stats()
    }
}

/// The numbers of a channel, as [`BalancedChannel::stats`] returns them. [`metrics`](crate::metrics) says what is counted.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelStats {
    target: Arc<str>,
    methods: Vec<MethodStats>,
}

/// The numbers of the calls of one method.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MethodStats {
    name: String,
    attempts_started: u64,
    attempts: Vec<(Code, AttemptStats)>,
    calls: Vec<(Code, Distribution)>,
    retries: Distribution,
    transparent_retries: Distribution,
    hedges: Distribution,
    retry_delay: Distribution,
}

/// The numbers of the attempts that have ended with one status.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AttemptStats {
    duration: Distribution,
    sent: Distribution,
    received: Distribution,
}

impl ChannelMetrics {
    pub(crate) fn stats(&self) -> ChannelStats {
        let MetricsContext { target, .. } = &*self.context;
        let methods = self.methods.load();
        let all = methods.iter().chain(self.other.get());
        let mut methods: Vec<_> = all.map(|method| MethodStats::of(method)).collect();
        methods.sort_by(|one, other| one.name.cmp(&other.name));
        ChannelStats { target: target.clone(), methods }
    }
}

impl ChannelStats {
    /// Returns the value of the label `grpc.target`: `etcd:///greeter`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the numbers of each method that was called, in the order of their names.
    pub fn methods(&self) -> impl ExactSizeIterator<Item = &MethodStats> {
        self.methods.iter()
    }

    /// Returns the numbers of the method with this name, if it was called: `helloworld.Greeter/SayHello`, or `other`.
    pub fn method(&self, name: &str) -> Option<&MethodStats> {
        self.methods.iter().find(|method| method.name == name)
    }
}

impl MethodStats {
    fn of(method: &MethodMetrics) -> Self {
        // What has ended first: whatever is read of it has begun by the time that the beginnings are read.
        let calls = by_code(&method.calls, Histogram::distribution);
        let attempts = by_code(&method.attempts, AttemptStats::of);
        let again = method.again.get();
        let of_again = |instrument, histogram: Option<&Histogram>| {
            histogram.map_or_else(|| Distribution::empty(instrument), Histogram::distribution)
        };
        Self {
            name: method.name(),
            attempts,
            calls,
            retries: of_again(&grpc::CALL_RETRIES, again.map(|again| &again.retries)),
            transparent_retries: of_again(
                &grpc::CALL_TRANSPARENT_RETRIES,
                again.map(|again| &again.transparent_retries),
            ),
            hedges: of_again(&grpc::CALL_HEDGES, again.map(|again| &again.hedges)),
            retry_delay: of_again(&grpc::CALL_RETRY_DELAY, again.map(|again| &again.retry_delay)),
            attempts_started: method.started.value(),
        }
    }

    /// Returns the value of the label `grpc.method`: `helloworld.Greeter/SayHello`, or `other` for all calls that no generated client
    /// has made.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the number of attempts that have begun: one for each call, and one for each retry, transparent retry and hedge.
    pub fn attempts_started(&self) -> u64 {
        self.attempts_started
    }

    /// Returns the attempts that have ended, by status.
    pub fn attempts(&self) -> impl ExactSizeIterator<Item = (Code, &AttemptStats)> {
        self.attempts.iter().map(|(code, attempts)| (*code, attempts))
    }

    /// Returns the durations of the calls that have ended, by status, in seconds.
    pub fn calls(&self) -> impl ExactSizeIterator<Item = (Code, &Distribution)> {
        self.calls.iter().map(|(code, durations)| (*code, durations))
    }

    /// Returns how many retries calls have had, those that had any.
    pub fn retries(&self) -> &Distribution {
        &self.retries
    }

    /// Returns how many transparent retries calls have had, those that had any.
    pub fn transparent_retries(&self) -> &Distribution {
        &self.transparent_retries
    }

    /// Returns how many hedges calls have had, those that had any.
    pub fn hedges(&self) -> &Distribution {
        &self.hedges
    }

    /// Returns the times in which none of a call's attempts was active, of calls that had any, in seconds.
    pub fn retry_delay(&self) -> &Distribution {
        &self.retry_delay
    }
}

impl AttemptStats {
    fn of(ends: &AttemptEnds) -> Self {
        let (duration, sent) = (ends.duration.distribution(), ends.sent.distribution());
        Self { duration, sent, received: ends.received.distribution() }
    }

    /// Returns their durations, in seconds, with the waits for their servers.
    pub fn duration(&self) -> &Distribution {
        &self.duration
    }

    /// Returns the bytes of their request messages, compressed if they were, without prefixes.
    pub fn sent(&self) -> &Distribution {
        &self.sent
    }

    /// Returns the bytes of their response messages, compressed if they were, without prefixes.
    pub fn received(&self) -> &Distribution {
        &self.received
    }
}

/// Returns what is there by status, in the order of the codes.
fn by_code<T, U>(all: &[OnceLock<Box<T>>; CODES], read: impl Fn(&T) -> U) -> Vec<(Code, U)> {
    let codes = (0..).map(Code::from_i32);
    codes.zip(all).filter_map(|(code, made)| Some((code, read(made.get()?)))).collect()
}
