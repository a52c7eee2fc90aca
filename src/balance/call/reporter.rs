//! What an attempt reports: to the counters and the cost of its server, and to the retry budget.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Address;
use crate::balance::policy::ready::ReadySubchannel;
use crate::balance::shared::ChannelShared;
use crate::balance::subchannel::CallResult;
use crate::balance::subchannel::cost::Peers;

/// Reports one attempt at one server, from the moment it is sent. It belongs to the attempt and then to the response's body.
///
/// ```text
/// sent ─▶ head_received ─▶ report          the end of the response
///   │           └────────▶ dropped         given up after the head: counts for nothing
///   ├─▶ report                             it ended without a response
///   ├─▶ report_not_processed               the server did not take it
///   ├─▶ discard                            its end says nothing about the server
///   └─▶ dropped                            given up before the head: as if it were not processed
/// ```
///
/// At most one of the ends is reported: each of them is called once, and `is_over` keeps the drop from counting again.
pub(crate) struct AttemptReporter {
    pub(crate) subchannel: Arc<ReadySubchannel>,
    pub(crate) shared: Arc<ChannelShared>,
    /// Since the channel's epoch.
    sent_at: Duration,
    /// The server's count of ejections when the attempt was sent: results from before an ejection do not count after it.
    ejection_term: u32,
    /// The time from `sent_at` to the head of the response, once it has come.
    time_to_head: Option<Duration>,
    is_over: bool,
}

impl AttemptReporter {
    /// Tells the server's cost that an attempt is sent. `sent_at` counts from the channel's epoch.
    pub(crate) fn new(subchannel: Arc<ReadySubchannel>, shared: Arc<ChannelShared>, sent_at: Duration) -> Self {
        subchannel.server.cost.sent(sent_at);
        let ejection_term = subchannel.server.term();
        Self { subchannel, shared, sent_at, ejection_term, time_to_head: None, is_over: false }
    }

    pub(crate) fn address(&self) -> &Address {
        self.subchannel.server.address()
    }

    /// Reports the head of a response. Only a head that is no failure counts for the server's latency.
    pub(crate) fn head_received(&mut self, is_success: bool) {
        let now = self.now();
        let (server, latency) = (&self.subchannel.server, now.saturating_sub(self.sent_at));
        server.cost.no_longer_awaited();
        self.time_to_head = Some(latency);
        self.shared.pause_detector.mark_running(now);
        if is_success {
            server.cost.head(latency, now);
        }
    }

    /// Reports the end of the call: to cost, retry budget and outlier detection.
    pub(crate) fn report(&mut self, result: CallResult) {
        let now = self.now();
        let server = &self.subchannel.server;
        if result == CallResult::Success {
            self.shared.retry_budget.on_success();
            server.cost.ok(now.saturating_sub(self.sent_at), || self.peers(now));
        } else {
            self.add_failure_cost(now);
        }
        let in_a_row = server.judge(result, self.ejection_term);
        if in_a_row > 0
            && let Some(ejection) = self.shared.settings.ejection
            && ejection.is_suspicious(in_a_row, server.is_on_probation())
        {
            self.shared.connect_context.changed.notify_one(); // the pool decides about ejections
        }
        self.discard();
    }

    /// Reports that the server has not processed the call. It costs as a failure, so that a server which refuses calls does not
    /// look idle, and does not count for outlier detection.
    pub(crate) fn report_not_processed(&mut self) {
        self.add_failure_cost(self.now());
        self.discard();
    }

    /// Ends the attempt without a report: how it ended says nothing about the server.
    #[inline]
    pub(crate) fn discard(&mut self) {
        if self.time_to_head.is_none() && !self.is_over {
            self.subchannel.server.cost.no_longer_awaited();
        }
        self.is_over = true;
    }

    fn add_failure_cost(&self, now: Duration) {
        let (server, age) = (&self.subchannel.server, now.saturating_sub(self.sent_at));
        server.cost.bad(age, self.time_to_head.unwrap_or(age), now, &self.peers(now));
    }

    /// Returns the time since the channel's epoch.
    fn now(&self) -> Duration {
        self.shared.since_epoch(Instant::now())
    }

    /// Returns what the other ready servers do, as the measure for this one.
    fn peers(&self, now: Duration) -> Peers {
        let server = &self.subchannel.server;
        let ready = self.shared.ready.load();
        let all = ready.servers.iter().map(|ready| (&ready.0.server.cost, ready.0.connection.in_flight()));
        self.shared.fleet.peers_of(&server.cost, now, all)
    }
}

impl Drop for AttemptReporter {
    #[inline]
    fn drop(&mut self) {
        if !self.is_over && self.time_to_head.is_none() {
            self.report_not_processed();
        }
    }
}
