//! One server of a channel: [`Subchannel`] is what its calls, its supervisor and the pool share.
//!
//! `supervisor.rs` is the task that connects it. It asks `reconnect.rs` what follows an attempt, and
//! `connect_permits.rs` for its turn; `connect_order/` decides the order of turns. `cost/` has the
//! recent costs of its calls, which pickers compare. `outlier/` decides which servers are ejected
//! because their calls fail. `further/` is the supervisor of a server with several connections. `health/` asks a server over each
//! connection whether it serves. `waiting.rs` is the queue of the calls that it has room for.

pub(crate) mod connect_order;
pub(super) mod connect_permits;
pub(crate) mod cost;
#[cfg(test)]
mod exhaustion_tests;
pub(super) mod further;
pub(crate) mod health;
pub(crate) mod outlier;
pub(crate) mod reconnect;
pub(super) mod supervisor;
pub(crate) mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::address::Address;
use crate::balance::metrics::{SeriesByServer, ServerConnections};
use crate::balance::pool::select::Reason as SelectionReason;
use crate::balance::subchannel::cost::Cost;
use crate::balance::subchannel::further::growth::Growth;
use crate::balance::subchannel::waiting::WaitingCalls;
use crate::balance::view::ServerSelection;
use crate::connection::{Connection, ServerStreams};

/// What a channel knows of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// The first connection, or the next after one that has ended, is being made, or its health check
    /// has not been answered yet, or has ended and is made again, or it is not known yet whether there is
    /// one, because the first service config is still to come from etcd. Calls may wait for it.
    Connecting,
    /// Connected: the server's SETTINGS have come, and it is healthy if that is checked. A server whose
    /// health cannot be checked, because it has no health service, counts as healthy: a WARN tells of
    /// it, and nothing here. Calls go to it.
    Ready,
    /// The last attempt to connect failed, or more than three connections in a row have ended
    /// within 500 ms and without an OK call. The channel goes on trying. A single refused attempt
    /// after a good connection still counts as [`ServerState::Connecting`], because the server may
    /// be restarting. A good connection is one that lasted 500 ms or had an OK call.
    TransientFailure,
    /// Connected, and left out for a while because its calls failed
    /// ([`OutlierDetection`](crate::balance::OutlierDetection)). Calls go to it only while no other
    /// server is ready.
    Ejected,
    /// Connected, and the health check that the channel was told to make
    /// ([`BalancedChannelBuilder::health_check`](crate::BalancedChannelBuilder::health_check), or
    /// `healthCheckConfig` of a service config) says that it does not serve, has ended (unless it was good
    /// for a second or more, which counts as [`ServerState::Connecting`] until it is made again), or was
    /// not answered in time. No call goes to it, also if no other server is ready, if it was ejected, or if
    /// etcd has lost it in a doubtful way. Calls in flight go on. [`ServerStatus::last_error`] has the
    /// reason. It becomes `Ready` when it says that it serves, or when it is not checked any more.
    Unhealthy,
    /// Connected, and no longer listed by etcd, which has lost it in a doubtful way
    /// ([`MassLoss`](crate::MassLoss)). The channel sends a PING over each of its connections when that
    /// happens. A connection over which nothing is read within a second takes no more calls; neither
    /// does one that was pinged as often as servers permit (gRFC A8). The channel makes no new
    /// connection. The server is removed when its connections have ended or it has sent GOAWAY, or when
    /// its loss is not doubtful any more, after 60 s by default. If it registers again, it is `Ready`.
    ///
    /// After a sudden loss it gets calls as before. After a gradual one it gets calls only while no
    /// server that etcd lists is ready.
    Held,
    /// Not connected, because the channel's selection leaves it out: [`ServerStatus::selection`] says why.
    Idle,
}

/// The channel's side of one server: its connections, its state, and the results of its calls.
///
/// The pool makes one for each address, and a [`supervisor`] keeps it connected. Calls, statuses
/// and pickers share it, and may keep it for longer than the pool does: a subchannel that is
/// removed from the pool is shut down, so that it holds no connection open.
pub(crate) struct Subchannel {
    address: Address,
    /// Where the clock of all subchannels of the channel begins.
    epoch: Instant,
    /// Written by the supervisor; read by the pool and by statuses, never by a call.
    status: Mutex<SubchannelStatus>,
    /// Counts the calls over all its connections; `None` if it has one at most, and no limit but its
    /// own.
    streams: Option<Arc<ServerStreams>>,
    /// The calls that it has room for.
    pub(crate) waiting: WaitingCalls,
    /// Whether it may get one more connection.
    pub(crate) growth: Growth,
    /// The recent costs of its calls, which pickers compare.
    pub(crate) cost: Cost,
    /// Calls that ended with another code than OK, since the channel began.
    failures: AtomicU64,
    /// Attempts that were sent to it beside another one of their call, and attempts at it that were given up after their time.
    pub(crate) hedges: AtomicU64,
    pub(crate) attempt_timeouts: AtomicU64,
    /// Series of the recorder's with its labels, where the user asks for those.
    pub(crate) series: SeriesByServer,
    /// What counts its connections.
    pub(crate) connections: ServerConnections,
    /// What outlier detection looks at.
    pub(crate) interval: IntervalCounts,
    /// Counts ejections and returns: odd while the server is ejected.
    term: AtomicU16,
    /// The server is back from an ejection, and has answered no call with OK since.
    on_probation: AtomicBool,
}

/// Of one moment.
#[derive(Clone)]
pub(crate) struct SubchannelStatus {
    pub(crate) state: SubchannelState,
    /// When the state was last another one.
    pub(crate) since: Instant,
    /// The last error of the connection; kept after it has recovered. Shared by all who read it.
    pub(crate) last_error: Option<Arc<str>>,
    /// The pool keeps it with the connections that it has: no other is made. Beside the state, so that
    /// either the pool sees that the connections have ended, or the supervisor that it makes no other.
    pub(crate) is_held: bool,
}

/// Whether a server is connected. In gRPC's words; a subchannel here is never idle.
///
/// ```text
/// Connecting ──connected──▶ Ready ──the connection ends──▶ Connecting, or TransientFailure after several short ones
///     │    ◀──the runtime stood still── TransientFailure ──connected──▶ Ready
///     └──an attempt fails──▶ TransientFailure, or Connecting if calls are to wait for the next attempt
/// Where health is checked: connected, it is Checking until the first answer, then Ready ◀──▶ Unhealthy as the answers say, and
/// Checking again while it has to be asked again
/// any ──removed from the pool──▶ Shutdown
/// ```
#[derive(Clone)]
pub(crate) enum SubchannelState {
    /// Calls wait for the attempt that is under way, or for the next.
    Connecting,
    /// The server has accepted these connections, and has yet to say whether it is healthy. Calls wait for
    /// it, as for one that connects.
    Checking(Arc<[Connection]>),
    /// The server has accepted these connections, the oldest first: its SETTINGS have come, and it is
    /// healthy over each if that is checked. There is one at least. The pool also checks that they have
    /// not ended since.
    Ready(Arc<[Connection]>),
    /// The server has accepted these connections, and is healthy over none of them. Calls do not wait
    /// for it.
    Unhealthy(Arc<[Connection]>),
    /// Calls do not wait for it; attempts go on.
    TransientFailure,
    /// Nothing follows.
    Shutdown,
}

impl SubchannelState {
    /// The connections that the server has accepted, as far as the state has them.
    pub(crate) fn connections(&self) -> &[Connection] {
        match self {
            Self::Checking(all) | Self::Ready(all) | Self::Unhealthy(all) => all,
            Self::Connecting | Self::TransientFailure | Self::Shutdown => &[],
        }
    }
}

/// The calls of one interval of outlier detection.
#[derive(Default)]
pub(crate) struct IntervalCounts {
    /// Attempts that ended with OK, and those that ended with another code.
    pub(crate) successes: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Failures since the last success, over intervals.
    pub(crate) consecutive_failures: AtomicU32,
}

impl Subchannel {
    /// A server that nobody has connected to yet. `epoch` is the channel's.
    pub(crate) fn new(
        address: Address,
        epoch: Instant,
        streams: Option<Arc<ServerStreams>>,
        waiting: WaitingCalls,
        connections: ServerConnections,
    ) -> Self {
        let status = SubchannelStatus {
            state: SubchannelState::Connecting,
            since: Instant::now(),
            last_error: None,
            is_held: false,
        };
        Self {
            address,
            epoch,
            status: Mutex::new(status),
            streams,
            waiting,
            growth: Growth::default(),
            cost: Cost::default(),
            failures: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            attempt_timeouts: AtomicU64::new(0),
            series: SeriesByServer::default(),
            connections,
            interval: IntervalCounts::default(),
            term: AtomicU16::new(0),
            on_probation: AtomicBool::new(false),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// What counts the calls over all its connections, if anything does.
    #[inline]
    pub(crate) fn streams(&self) -> Option<&Arc<ServerStreams>> {
        self.streams.as_ref()
    }

    /// The time since the epoch that the costs of all subchannels count from.
    pub(crate) fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, SubchannelStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the present status.
    pub(crate) fn status(&self) -> SubchannelStatus {
        self.lock().clone()
    }

    /// The state without the last error, which would be copied.
    pub(crate) fn state(&self) -> SubchannelState {
        self.lock().state.clone()
    }

    /// The same, and as users see it.
    pub(crate) fn states(&self) -> (SubchannelState, Option<ServerState>) {
        let status = self.lock();
        (status.state.clone(), self.server_state_of(&status))
    }

    /// When it began to be without a connection, and without a further one that calls have asked for, if an error is
    /// known.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        let status = self.lock();
        let is_ready = matches!(status.state, SubchannelState::Ready(_)) && !self.growth.has_failed();
        (!is_ready && status.last_error.is_some()).then_some(status.since)
    }

    /// The last error of the connection, if there was one.
    pub(crate) fn last_error(&self) -> Option<Arc<str>> {
        self.lock().last_error.clone()
    }

    /// The state of a copy as users see it. `None` for a server that was removed a moment ago.
    pub(crate) fn server_state_of(&self, status: &SubchannelStatus) -> Option<ServerState> {
        Some(match status.state {
            SubchannelState::Connecting | SubchannelState::Checking(_) => ServerState::Connecting,
            SubchannelState::TransientFailure => ServerState::TransientFailure,
            SubchannelState::Ready(_) if self.is_ejected() => ServerState::Ejected,
            SubchannelState::Ready(_) if status.is_held => ServerState::Held,
            SubchannelState::Ready(_) => ServerState::Ready,
            SubchannelState::Unhealthy(_) => ServerState::Unhealthy,
            SubchannelState::Shutdown => return None,
        })
    }

    /// Changes the state, and the last error if one is given. After a shutdown nothing changes:
    /// the supervisor may still be in the middle of a step when it is aborted.
    pub(crate) fn set_state(&self, state: SubchannelState, error: Option<&str>) {
        let mut status = self.lock();
        if matches!(status.state, SubchannelState::Shutdown) {
            drop(status); // before `state`, see below
            return;
        }
        if std::mem::discriminant(&status.state) != std::mem::discriminant(&state) {
            status.since = Instant::now();
        }
        let before = std::mem::replace(&mut status.state, state);
        // A server that is down mostly fails in the same way again.
        if error.is_some() && error != status.last_error.as_deref() {
            status.last_error = error.map(Arc::from);
        }
        // A connection is dropped after the lock: h2 logs that its last handle goes, and a subscriber may ask for this status.
        drop(status);
        drop(before);
    }

    /// Holds the server with the connections that it has, or no longer.
    pub(crate) fn set_held(&self, is_held: bool) {
        self.lock().is_held = is_held;
        // A server that may have several connections looks whether it may have another one.
        self.growth.set_held(is_held);
    }

    /// Whether no other connection is made.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().is_held
    }

    /// The number of its connections that take calls, and of the calls in flight over them. Counted
    /// without a clone of a connection: dropping the last handle takes h2's lock, which may be held when
    /// this is asked for.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let status = self.lock();
        let all = status.state.connections();
        let connections = if matches!(status.state, SubchannelState::Ready(_)) { all.len() } else { 0 };
        let in_flight = all.iter().map(Connection::in_flight).sum();
        drop(status);
        (connections, self.streams.as_ref().map_or(in_flight, |streams| streams.in_flight()))
    }

    /// Whether outlier detection has ejected it.
    pub(crate) fn is_ejected(&self) -> bool {
        self.term() % 2 == 1
    }

    /// Ejects the server or takes it back. Its counts begin anew: what it does while it is ejected
    /// counts for nothing, and once it is back, neither does what it did before.
    pub(crate) fn set_ejected(&self, ejected: bool) {
        if ejected != self.is_ejected() {
            self.term.fetch_add(1, Ordering::Relaxed);
        }
        self.interval.consecutive_failures.store(0, Ordering::Relaxed);
        self.interval.successes.store(0, Ordering::Relaxed);
        self.interval.failures.store(0, Ordering::Relaxed);
    }

    /// Whether it is back from an ejection and its next failure is to be looked at once.
    pub(crate) fn is_on_probation(&self) -> bool {
        self.on_probation.load(Ordering::Relaxed)
    }

    /// As the outlier detector says.
    pub(crate) fn set_on_probation(&self, on_probation: bool) {
        self.on_probation.store(on_probation, Ordering::Relaxed);
    }

    /// What an attempt notes when it begins, for [`Subchannel::count_end`].
    #[inline]
    pub(crate) fn term(&self) -> u16 {
        self.term.load(Ordering::Relaxed)
    }

    /// Counts the end of an attempt that began in this term; returns the number of failures in a
    /// row. Every code but OK is a failure, as in gRFC A50; outlier detection compares the server
    /// with its peers before it blames the server.
    pub(crate) fn count_end(&self, code: Code, term: u16) -> u32 {
        let failed = code != Code::Ok;
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        // An end while the server is ejected, or of an attempt from before, says nothing about how it is once it is back.
        if self.term() != term || term % 2 == 1 {
            return 0;
        }
        let counts = &self.interval;
        if failed {
            counts.failures.fetch_add(1, Ordering::Relaxed);
            return counts.consecutive_failures.fetch_add(1, Ordering::Relaxed) + 1;
        }
        counts.successes.fetch_add(1, Ordering::Relaxed);
        // Mostly 0 already: a load costs less than a store that all callers share.
        if counts.consecutive_failures.load(Ordering::Relaxed) != 0 {
            counts.consecutive_failures.store(0, Ordering::Relaxed);
        }
        0
    }

    /// Attempts that have ended, and those of them that failed.
    pub(crate) fn attempts(&self) -> (u64, u64) {
        let failures = self.failures.load(Ordering::Relaxed);
        (self.cost.ok_calls() + failures, failures)
    }
}

/// One server of a channel, at the time of [`BalancedChannel::servers`](crate::BalancedChannel::servers).
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub(crate) address: Address,
    pub(crate) state: ServerState,
    pub(crate) state_age: Duration,
    pub(crate) connections: usize,
    pub(crate) in_flight: usize,
    pub(crate) latency: Option<Duration>,
    pub(crate) attempts: u64,
    pub(crate) failures: u64,
    pub(crate) hedges: u64,
    pub(crate) attempt_timeouts: u64,
    pub(crate) last_error: Option<Arc<str>>,
    pub(crate) selection: ServerSelection,
}

impl ServerStatus {
    /// The server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The server's state.
    pub fn state(&self) -> ServerState {
        self.state
    }

    /// Why the channel has connected to the server, or has not: its filter, its values to route by, its zone, its subset.
    pub fn selection(&self) -> SelectionReason {
        self.selection.verdict.reason
    }

    /// The values of route keys whose calls alone go to the server, such as `lane="blue"`. `None` for a default server. With
    /// [`SelectionReason::BeyondRouteValues`] no calls go there.
    pub fn route(&self) -> Option<&str> {
        self.selection.route.as_deref()
    }

    /// How many groups of servers calls prefer to this one: 0 in the own zone, for all servers if the channel has no zone, and for a
    /// server that is not to be connected. While no server of the own zone is to be connected, the nearest other zone has 0.
    pub fn zone_distance(&self) -> usize {
        self.selection.verdict.tier
    }

    /// The part of its weight that the server has while it warms up, of 1.0 ([`SlowStart`](crate::SlowStart)). 1.0 once it is warm.
    pub fn slow_start_factor(&self) -> f64 {
        self.selection.verdict.factor
    }

    /// How long the server has been connecting, connected, unhealthy, failing, or left out. An ejection, or the end of one, does not reset it.
    pub fn state_age(&self) -> Duration {
        self.state_age
    }

    /// The number of connections that take calls: 0 or 1, or more with
    /// [`BalancedChannelBuilder::connections_per_server`](crate::balance::BalancedChannelBuilder::connections_per_server). 0 for a
    /// server in state [`ServerState::Unhealthy`]: it is connected, and its connections take none.
    pub fn connections(&self) -> usize {
        self.connections
    }

    /// The number of calls in flight, from their start to the end of their responses. Cancelled calls count until their streams
    /// are reset (see [`BalancedChannel`](crate::balance::BalancedChannel#cancelled-calls)).
    ///
    /// It is the sum over all connections of the server. Calls over a connection that has got a GOAWAY count only if the channel
    /// has several connections to a server, or a limit of its own
    /// ([`max_in_flight_per_server`](crate::balance::BalancedChannelBuilder::max_in_flight_per_server)).
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The moving average (peak EWMA) of the server's latency: from a call's start to the headers of a response that is no error.
    /// `None` before the first such response.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// The number of attempts that have ended with a status, a failure or a passed deadline. Attempts that the server did not
    /// process, that were cancelled (also because another attempt of their call won or took their place), or whose own requests
    /// failed do not count.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// The number of those [`ServerStatus::attempts`] that ended with another code than OK, lost connections, resets and passed
    /// deadlines included.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// The number of hedges that were sent to this server ([`RetryPolicy::hedge_after`](crate::RetryPolicy::hedge_after)). Those
    /// that lost are not among its [`ServerStatus::attempts`]. The sum over all servers is what hedging has cost in attempts, for
    /// the servers that the channel still has.
    pub fn hedges(&self) -> u64 {
        self.hedges
    }

    /// The number of attempts at this server that were given up after
    /// [`RetryPolicy::attempt_timeout`](crate::RetryPolicy::attempt_timeout). Each was sent again to another server. They are not
    /// among its [`ServerStatus::attempts`].
    pub fn attempt_timeouts(&self) -> u64 {
        self.attempt_timeouts
    }

    /// The last error of a connection, of its health check, or of an attempt to connect; kept after it has recovered. `None` if
    /// there was no error yet. So a server in state [`ServerState::Ready`] may have one here: of the time before, of one of several
    /// connections that it lost, or of a further one that could not be made. That of a health check names the service that was
    /// asked for.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
