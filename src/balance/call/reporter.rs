//! What an attempt reports: to the counters and the cost of its server, to the picker, to the retry budget, and to the metrics.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::address::Address;
use crate::balance::call::spans::AttemptSpan;
use crate::balance::metrics::AttemptRecord;
use crate::balance::partition::Partition;
use crate::balance::policy::{AttemptEnd, AttemptResult, Picker};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::subchannel::cost::Peers;
use crate::panics::catch;

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
/// While the channel itself waits for the end of a response ([`AttemptReporter::is_end_awaited`]), giving up after the head is as
/// giving up before it.
///
/// At most one of the ends is reported: each of them is called once, and `is_over` keeps the drop from counting again.
pub(crate) struct AttemptReporter {
    pub(crate) subchannel: Arc<ReadySubchannel>,
    /// The picker that picked the server gets the end of the attempt.
    picker: Arc<dyn Picker>,
    pub(crate) shared: Arc<Partition>,
    /// Since the channel's epoch.
    sent_at: Nanos,
    /// The time from `sent_at` to the head of the response, once it has come. `Nanos::MAX` before.
    time_to_head: Nanos,
    /// For metrics, which get the end of the attempt.
    pub(crate) record: AttemptRecord,
    /// How long the attempt has waited for its server, in nanoseconds. Short, because the future of a call has no room.
    waited: f32,
    /// The server's count of ejections when the attempt was sent: results from before an ejection do not count after it.
    ejection_term: u16,
    /// The channel, and not a reader, waits for the end of the response.
    pub(crate) is_end_awaited: bool,
    pub(crate) is_over: bool,
    /// Ends with the attempt.
    span: AttemptSpan,
}

impl AttemptReporter {
    /// Tells the server's cost that an attempt is sent. `sent_at` counts from the channel's epoch.
    pub(crate) fn new(
        subchannel: Arc<ReadySubchannel>,
        picker: Arc<dyn Picker>,
        shared: Arc<Partition>,
        sent_at: Nanos,
        (record, waited): (AttemptRecord, Nanos),
        span: AttemptSpan,
    ) -> Self {
        subchannel.subchannel.cost.sent(sent_at);
        let ejection_term = subchannel.subchannel.term();
        Self {
            subchannel,
            picker,
            shared,
            sent_at,
            time_to_head: Nanos::MAX,
            record,
            waited: if waited.0 == 0 { 0.0 } else { waited.0 as f32 },
            ejection_term,
            is_end_awaited: false,
            is_over: false,
            span,
        }
    }

    pub(crate) fn address(&self) -> &Address {
        self.subchannel.subchannel.address()
    }

    /// Reports the head of a response. Only a head that is no failure counts for the server's latency.
    pub(crate) fn head_received(&mut self, is_success: bool) {
        let now = self.now();
        let (server, latency) = (&self.subchannel.subchannel, now.since(self.sent_at));
        server.cost.head_settled();
        if server.cost.took_call() {
            self.shared.look_anew(); // its room is for the calls that were refused too
        }
        self.time_to_head = latency;
        self.shared.pause_detector.mark_running(now);
        if is_success {
            server.cost.answered(latency, now);
        }
    }

    /// Reports the end of the attempt with this code: to cost, retry budget, outlier detection, picker and metrics. Returns
    /// when that was, as all ends do.
    pub(crate) fn report(&mut self, code: Code) -> Nanos {
        self.report_as(code, code, 0)
    }

    /// The same, after so many bytes of messages. Metrics get what the caller is told, which may be something else than the server
    /// has said.
    pub(crate) fn report_as(&mut self, code: Code, told: Code, received: u64) -> Nanos {
        let now = self.now();
        let server = &self.subchannel.subchannel;
        if code == Code::Ok {
            self.shared.retry_budget.on_success();
            server.cost.succeeded(now.since(self.sent_at), || self.peers(now.time()));
        } else {
            self.add_failure_cost(now);
        }
        let failures = server.count_end(code, self.ejection_term);
        if failures > 0
            && let Some(detection) = &*self.shared.outlier_detection.load()
            && detection.is_suspicious(failures, server.is_on_probation())
        {
            self.shared.connect_context.suspicious.notify_one(); // the pool decides about ejections
        }
        self.end(AttemptResult::Status(code), told, received, now)
    }

    /// Reports that the server has not processed the call. It costs as a failure, so that a server which refuses calls does not
    /// look idle, and does not count for outlier detection.
    pub(crate) fn report_not_processed(&mut self, told: Code) {
        let now = self.now();
        self.add_failure_cost(now);
        self.end(AttemptResult::NotProcessed, told, 0, now);
    }

    /// Ends the attempt without a report to cost and counters: how it ended says nothing about the server.
    pub(crate) fn discard(&mut self, result: AttemptResult, told: Code, received: u64) -> Nanos {
        self.end(result, told, received, self.now())
    }

    /// Ends an attempt that is given up.
    #[inline]
    pub(crate) fn give_up(&mut self, told: Code, received: u64) -> Nanos {
        let now = self.now();
        if !self.is_over && (self.time_to_head().is_none() || self.is_end_awaited) {
            self.add_failure_cost(now);
        }
        self.end(AttemptResult::Dropped, told, received, now)
    }

    #[inline]
    fn end(&mut self, result: AttemptResult, told: Code, received: u64, now: Nanos) -> Nanos {
        if std::mem::replace(&mut self.is_over, true) {
            return now;
        }
        let (time_to_head, time_to_end) = (self.time_to_head(), now.since(self.sent_at));
        let mut duration = time_to_end.0;
        if self.waited > 0.0 {
            duration += self.waited as u64; // as far as the clock goes, it fits
        }
        self.record.end(told, duration, received, &self.subchannel);
        if time_to_head.is_none() {
            self.subchannel.subchannel.cost.head_settled();
        }
        let end = AttemptEnd { server: &self.subchannel.server, result, time_to_head, time_to_end: time_to_end.time() };
        if std::thread::panicking() {
            let _ = catch(|| self.picker.ended(&end)); // a second panic would end the process
        } else {
            self.picker.ended(&end);
        }
        self.span.end(told);
        now
    }

    #[inline]
    fn time_to_head(&self) -> Option<Duration> {
        (self.time_to_head != Nanos::MAX).then(|| self.time_to_head.time())
    }

    fn add_failure_cost(&self, now: Nanos) {
        let (server, age, now) = (&self.subchannel.subchannel, now.since(self.sent_at).time(), now.time());
        server.cost.failed(age, self.time_to_head().unwrap_or(age), now, &self.peers(now));
    }

    /// Returns the time since the channel's epoch.
    fn now(&self) -> Nanos {
        Nanos::new(self.shared.since_epoch(Instant::now()))
    }

    /// Returns what the other ready servers do, as the measure for this one.
    fn peers(&self, now: Duration) -> Peers {
        let server = &self.subchannel.subchannel;
        let ready = self.shared.ready.load();
        let all = ready.servers.iter().map(|server| (&server.first.subchannel.cost, server.first.server.in_flight()));
        self.shared.fleet.peers_of(&server.cost, now, all)
    }
}

impl Drop for AttemptReporter {
    #[inline]
    fn drop(&mut self) {
        if !self.is_over {
            self.give_up(Code::Cancelled, 0);
        }
    }
}
