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

/// Where the numbers of a [`ReadyServer`] come from: a subchannel and its connection, or a test.
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

    /// The instance that names the server: its weight, zone, version and metadata. Where several
    /// instances name one address, it is the one that was put last.
    pub fn instance(&self) -> &Instance {
        self.0.instance()
    }

    /// The number of calls from their start to the end of their answers, with those that were given
    /// up and whose streams are yet to be reset (see
    /// [`BalancedChannel`](crate::BalancedChannel#cancelled-calls)).
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// The load that [`LeastRequest`](crate::policy::LeastRequest) compares: calls in flight, and
    /// calls that ended badly a short while ago. A call ends badly when it ends with another code
    /// than OK, is refused, reset or lost, or is given up before its answer began. It goes on
    /// counting as if it were in flight, so that a server that fails at once does not look idle:
    ///
    /// - as long as if it had taken as long as the server's OK calls take (its peers' where it has
    ///   none; 2 s at most);
    /// - then for about twenty times as long as it took, or as an OK call takes at the peers,
    ///   whichever is more, and as two calls from its end on. That is 2 s at most, or twenty such
    ///   OK calls where they take longer, and never more than 60 s. It ends when the server answers
    ///   a call with OK, unless the server's share of OK is below half of its peers'.
    ///
    /// Where all servers fail alike, each keeps its share of the calls.
    pub fn load(&self) -> u64 {
        self.0.load()
    }

    /// The moving average of the server's latency, as it was when the last answer came: from a
    /// call's start to the head of an answer that says nothing bad. `None` before the first answer.
    pub fn latency(&self) -> Option<Duration> {
        self.0.latency()
    }

    /// The latency to expect of a further call, which [`PeakEwma`](crate::policy::PeakEwma)
    /// compares: the average of [`latency`](Self::latency), more where the last call ended badly,
    /// and fading while the server is not asked, so that a server that was slow gets another try.
    pub fn latency_estimate(&self) -> LatencyEstimate {
        self.0.latency_estimate()
    }
}

impl fmt::Debug for ReadyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyServer").field("address", self.address()).field("in_flight", &self.in_flight()).finish()
    }
}
