//! One server of a set, as policies see it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::balance::subchannel::cost::LatencyEstimate;
use crate::instance::Instance;

/// A server that is connected, as a policy sees it. Its numbers are live: they change from pick to
/// pick. Cheap to clone; it holds no connection open.
#[derive(Clone)]
pub struct ReadyServer(Arc<dyn ServerMetrics>);

/// Where the numbers of a [`ReadyServer`] come from: a subchannel and its connections, or a test.
pub(crate) trait ServerMetrics: Send + Sync {
    /// The address of this server; its instance may name several.
    fn address(&self) -> &Address;
    /// The instance that was put last of those that name the address.
    fn instance(&self) -> &Instance;
    /// See [`ReadyServer::in_flight`].
    fn in_flight(&self) -> usize;
    /// Read twice for each pick of [`LeastRequest`](crate::policy::LeastRequest), so it has to be
    /// cheap. See [`ReadyServer::load`].
    fn load(&self) -> u64;
    /// See [`ReadyServer::latency`].
    fn latency(&self) -> Option<Duration>;
    /// See [`ReadyServer::latency_estimate`].
    fn latency_estimate(&self) -> LatencyEstimate;
}

impl ReadyServer {
    pub(crate) fn new(metrics: Arc<dyn ServerMetrics>) -> Self {
        Self(metrics)
    }

    /// The server's address.
    pub fn address(&self) -> &Address {
        self.0.address()
    }

    /// The instance with the server's address: its weight, zone, version and metadata. If several
    /// instances have this address, it is the one that was put last.
    pub fn instance(&self) -> &Instance {
        self.0.instance()
    }

    /// The number of calls in flight over all connections of the server, from their start to the end
    /// of their responses. Cancelled calls count until their streams are reset (see
    /// [`BalancedChannel`](crate::BalancedChannel#cancelled-calls)).
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// The load that [`LeastRequest`](crate::policy::LeastRequest) compares: calls in flight, and
    /// calls that failed recently. A call fails here if it ends with another code than OK, is
    /// refused, reset or lost, or is cancelled before its response begins. It then counts as load
    /// for some time more, so that a server that fails calls at once does not look idle:
    ///
    /// - **How much:** as two calls in flight, from its failure on.
    /// - **How long:** let u be the usual time of an OK call at the other servers, and t the longer of
    ///   u and the time of the failed call. The failure counts for about 20 t, but no longer than
    ///   20 u (or 2 s, if that is longer), and never longer than 60 s.
    /// - **When it counts less:** when the server ends another call with OK, the failed call counts as
    ///   one call in place of two, and not at all once the usual length of a call has passed since the
    ///   failure. The usual length is that of the server's OK calls, or u if it has none; 2 s at most.
    ///   This does not hold while the server's success rate is below half of that of the others.
    ///
    /// If all servers fail alike, each keeps its share of the calls.
    pub fn load(&self) -> u64 {
        self.0.load()
    }

    /// The moving average of the server's latency, as of its last response: from a call's start to
    /// the headers of a response that is no error. `None` before the first such response.
    pub fn latency(&self) -> Option<Duration> {
        self.0.latency()
    }

    /// The latency to expect of a further call, which [`PeakEwma`](crate::policy::PeakEwma)
    /// compares. It is the average of [`latency`](Self::latency), and more if the last call failed.
    /// It falls while the server gets no calls, so that a server that was slow is tried again.
    pub fn latency_estimate(&self) -> LatencyEstimate {
        self.0.latency_estimate()
    }
}

impl fmt::Debug for ReadyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyServer").field("address", self.address()).field("in_flight", &self.in_flight()).finish()
    }
}
