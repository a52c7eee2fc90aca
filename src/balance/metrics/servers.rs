//! The servers of a channel as a whole: their states, their ejections (gRFC A91), and the calls that wait for one.

use std::array;
use std::sync::{Arc, OnceLock};

use crate::balance::metrics::MetricsContext;
use crate::balance::metrics::method::get_or_make;
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::ServerState;
use crate::balance::subchannel::outlier::{DetectionMethod, Ejection};
use crate::metrics::{Counter, UpDownCounter, grpc, own};

/// All states of a server, with their names in the label `state`.
pub(super) const STATES: [(ServerState, &str); 7] = [
    (ServerState::Connecting, "connecting"),
    (ServerState::Ready, "ready"),
    (ServerState::TransientFailure, "transient_failure"),
    (ServerState::Ejected, "ejected"),
    (ServerState::Unhealthy, "unhealthy"),
    (ServerState::Held, "held"),
    (ServerState::Idle, "idle"),
];

/// How many methods of detection there are.
const METHODS: usize = 3;

/// How many servers are in each state, in the order of [`STATES`].
#[derive(Default)]
pub(crate) struct StateCounts([i64; STATES.len()]);

impl StateCounts {
    pub(crate) fn add(&mut self, server: ServerState) {
        let index = STATES.iter().position(|(state, _)| *state == server);
        index.into_iter().for_each(|index| self.0[index] += 1); // all states are there
    }
}

/// The numbers of a channel that are of no method and of no connection.
pub(crate) struct ServerMetrics {
    context: Arc<MetricsContext>,
    /// In the order of [`STATES`].
    pub(super) by_state: [UpDownCounter; STATES.len()],
    pub(super) waiting: UpDownCounter,
    pub(super) leaving_zone: UpDownCounter,
    /// By method. Each is made by the first of them.
    pub(super) ejections: [OnceLock<Box<Counter>>; METHODS],
    pub(super) unenforced: [OnceLock<Box<Counter>>; METHODS],
}

impl ServerMetrics {
    /// Binds series: this runs the recorder's code.
    pub(super) fn new(context: Arc<MetricsContext>) -> Self {
        let bind = |instrument, labels: &[(&'static str, &str)]| UpDownCounter::new(context.bind(instrument, labels));
        Self {
            by_state: array::from_fn(|index| bind(&own::CHANNEL_SERVERS, &[(own::STATE, STATES[index].1)])),
            waiting: bind(&own::CHANNEL_WAITING, &[]),
            leaving_zone: bind(&own::CHANNEL_LEAVING_ZONE, &[]),
            ejections: [const { OnceLock::new() }; METHODS],
            unenforced: [const { OnceLock::new() }; METHODS],
            context,
        }
    }

    /// Takes in how many servers are in each state, and whether calls leave the channel's zone. A recorder is told of
    /// what changes.
    pub(crate) fn set(&self, StateCounts(counts): &StateCounts, is_leaving_zone: bool) {
        self.by_state.iter().zip(counts).for_each(|(counter, count)| counter.set(*count));
        self.leaving_zone.set(is_leaving_zone.into());
    }

    /// Counts what outlier detection has decided.
    pub(crate) fn count_ejections(&self, ejections: impl IntoIterator<Item = Ejection>) {
        for Ejection { method, is_enforced } in ejections {
            let index = method as usize;
            let name = match method {
                DetectionMethod::ConsecutiveFailures => "consecutive_failures",
                DetectionMethod::SuccessRate => "success_rate",
                DetectionMethod::FailurePercentage => "failure_percentage",
            };
            let labels = [(grpc::DETECTION_METHOD, name), (grpc::UNENFORCED_REASON, "max_ejection_overflow")];
            let (counters, instrument) = if is_enforced {
                (&self.ejections, &grpc::EJECTIONS_ENFORCED)
            } else {
                (&self.unenforced, &grpc::EJECTIONS_UNENFORCED)
            };
            get_or_make(&counters[index], || Counter::new(self.context.bind(instrument, &labels))).add(1);
        }
    }
}

/// A call that waits for a server.
pub(crate) struct WaitingCall(Arc<ChannelShared>);

impl WaitingCall {
    pub(crate) fn new(shared: Arc<ChannelShared>) -> Self {
        shared.metrics.servers.waiting.add(1);
        Self(shared)
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        self.0.metrics.servers.waiting.add(-1);
    }
}
