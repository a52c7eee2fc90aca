//! The numbers of a channel, as users read them.

use std::sync::Arc;
use std::sync::OnceLock;

use tonic::Code;

use crate::balance::channel::BalancedChannel;
use crate::balance::metrics::ChannelMetrics;
use crate::balance::metrics::connections::{Connections, LABELS};
use crate::balance::metrics::method::{AttemptEnds, CODES, MethodMetrics};
use crate::balance::metrics::servers::STATES;
use crate::balance::subchannel::ServerState;
use crate::metrics::{ByState, Counter, Distribution, Histogram, UpDownCounter, grpc};

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
    connections: ConnectionStats,
    servers: ByState<{ STATES.len() }>,
    waiting: usize,
    is_leaving_zone: bool,
    ejections: u64,
    unenforced_ejections: u64,
}

/// The numbers of the connections of a channel. Attempts that were given up count nowhere: it was the turn of others, or nobody
/// wanted the connection any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionStats {
    succeeded: u64,
    failed: u64,
    disconnections: Vec<(&'static str, u64)>,
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
        let (servers, count) = (&self.servers, |count: &UpDownCounter| usize::try_from(count.value()).unwrap_or(0));
        let sum = |counters: &[OnceLock<Box<Counter>>]| {
            counters.iter().filter_map(OnceLock::get).map(|counter| counter.value()).sum()
        };
        let methods = self.methods.load();
        let all = methods.iter().chain(self.other.get());
        let mut methods: Vec<_> = all.map(|method| MethodStats::of(method)).collect();
        methods.sort_by(|one, other| one.name.cmp(&other.name));
        ChannelStats {
            target: self.context.target.clone(),
            methods,
            connections: ConnectionStats::of(&self.connections),
            servers: ByState { names: STATES.map(|(_, name)| name), counts: servers.by_state.each_ref().map(count) },
            waiting: count(&servers.waiting),
            is_leaving_zone: servers.leaving_zone.value() > 0,
            ejections: sum(&servers.ejections),
            unenforced_ejections: sum(&servers.unenforced),
        }
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

impl ChannelStats {
    /// Returns the numbers of the connections to all servers.
    pub fn connections(&self) -> &ConnectionStats {
        &self.connections
    }

    /// Returns how many servers are in this state, as of the last change that the channel has seen.
    pub fn servers(&self, state: ServerState) -> usize {
        STATES.iter().zip(self.servers.counts).filter(|((known, _), _)| *known == state).map(|(_, count)| count).sum()
    }

    /// Returns the number of calls that wait for a server, or for their next [transparent
    /// retry](BalancedChannel#transparent-retries).
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether calls go to servers outside of the channel's [zone](crate::BalancedChannelBuilder::zone), because none of its own is
    /// ready. Calls that leave a busy zone are not meant.
    pub fn is_leaving_zone(&self) -> bool {
        self.is_leaving_zone
    }

    /// Returns how often servers were ejected ([`OutlierDetection`](crate::OutlierDetection)).
    pub fn ejections(&self) -> u64 {
        self.ejections
    }

    /// Returns how often a server was not ejected although that was due, because too many were ejected or no other was left.
    pub fn unenforced_ejections(&self) -> u64 {
        self.unenforced_ejections
    }
}

impl ConnectionStats {
    fn of(connections: &Connections) -> Self {
        // What has ended first.
        let counts = LABELS.iter().zip(&connections.disconnections);
        let counts = counts.filter_map(|(label, counter)| Some((*label, counter.get()?.value())));
        let disconnections = counts.filter(|(_, count)| *count > 0).collect();
        Self { disconnections, failed: connections.failed.value(), succeeded: connections.succeeded.value() }
    }

    /// Returns how many connections are open.
    pub fn open(&self) -> u64 {
        self.succeeded.saturating_sub(self.disconnections().map(|(_, count)| count).sum())
    }

    /// Returns how many attempts to connect have succeeded.
    pub fn succeeded(&self) -> u64 {
        self.succeeded
    }

    /// Returns how many attempts to connect have failed.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Returns how many connections have ended, by the values of `grpc.disconnect_error`: `GOAWAY NO_ERROR`, `connection reset`.
    /// With its GOAWAY a connection has ended, also if its calls go on.
    pub fn disconnections(&self) -> impl ExactSizeIterator<Item = (&'static str, u64)> {
        self.disconnections.iter().copied()
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::discover::Change;

    use super::*;
    use crate::instance::Instance;

    #[tokio::test]
    async fn debug_names_the_states() {
        let discover = tokio_stream::pending::<Result<Change<u8, Instance>, Infallible>>();
        let channel = BalancedChannel::builder().build_with_discovery("greeter", discover).unwrap();
        let mut stats = channel.stats();
        stats.servers.counts[1] = 2;
        let shown = format!("{stats:?}");
        assert!(shown.contains(r#"servers: {"ready": 2}"#), "{shown}");
    }
}
