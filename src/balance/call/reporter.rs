//! Who answers a call, and what the call tells of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::balance::channel::Inner;
use crate::balance::policy::{AttemptEnd, AttemptResult, Picker};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::subchannel::cost::Peers;
use crate::panics::catch;

/// One attempt at one server, from when it is sent. Dropping it before the head of the answer came tells the server's cost that
/// the caller gave up.
pub(crate) struct AttemptReporter {
    pub(crate) member: Arc<ReadySubchannel>,
    /// Told when the attempt has ended.
    picker: Arc<dyn Picker>,
    pub(crate) inner: Arc<Inner>,
    /// Since the channel's epoch.
    sent: Duration,
    /// The server's when it was sent.
    term: u32,
    /// How long the head of the answer took, once it has come.
    head: Option<Duration>,
    over: bool,
}

impl AttemptReporter {
    pub(crate) fn new(
        member: Arc<ReadySubchannel>,
        picker: Arc<dyn Picker>,
        inner: Arc<Inner>,
        sent: Duration,
    ) -> Self {
        member.subchannel.cost.sent(sent);
        let term = member.subchannel.term();
        Self { member, picker, inner, sent, term, head: None, over: false }
    }

    /// The head of an answer has come; `well` where it says nothing bad.
    pub(crate) fn head(&mut self, well: bool) {
        let now = self.now();
        let (server, took) = (&self.member.subchannel, now.saturating_sub(self.sent));
        server.cost.head_settled();
        self.head = Some(took);
        self.inner.pauses.runs(now);
        if well {
            server.cost.answered(took, now);
        }
    }

    /// The call has ended with this code.
    pub(crate) fn judge(&mut self, code: Code) {
        let now = self.now();
        let server = &self.member.subchannel;
        if code == Code::Ok {
            self.inner.budget.succeeded();
            server.cost.succeeded(now.saturating_sub(self.sent), || self.peers(now));
        } else {
            self.bad(now);
        }
        let failures = server.count_end(code, self.term);
        if failures > 0
            && let Some(detection) = self.inner.settings.outlier_detection
            && detection.is_suspicious(failures, server.is_on_probation())
        {
            self.inner.ground.changed.notify_one();
        }
        self.end_at(AttemptResult::Status(code), now);
    }

    /// The server has not taken the call.
    pub(crate) fn refused(&mut self) {
        let now = self.now();
        self.bad(now);
        self.end_at(AttemptResult::NotProcessed, now);
    }

    /// How the call went says nothing of the server.
    pub(crate) fn end(&mut self, result: AttemptResult) {
        self.end_at(result, self.now());
    }

    #[inline]
    fn end_at(&mut self, result: AttemptResult, now: Duration) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        if self.head.is_none() {
            self.member.subchannel.cost.head_settled();
        }
        let server = &self.member.server;
        let time_to_end = now.saturating_sub(self.sent);
        let end = AttemptEnd { server, result, time_to_head: self.head, time_to_end };
        if std::thread::panicking() {
            let _ = catch(|| self.picker.ended(&end)); // a second panic would end the process
        } else {
            self.picker.ended(&end);
        }
    }

    fn bad(&self, now: Duration) {
        let (server, age) = (&self.member.subchannel, now.saturating_sub(self.sent));
        server.cost.failed(age, self.head.unwrap_or(age), now, &self.peers(now));
    }

    /// The time since the channel's epoch.
    fn now(&self) -> Duration {
        self.inner.since_epoch(Instant::now())
    }

    fn peers(&self, now: Duration) -> Peers {
        let server = &self.member.subchannel;
        let ready = self.inner.ready.load();
        let all = ready.servers.iter().map(|ready| (&ready.subchannel.cost, ready.connection.in_flight()));
        self.inner.fleet.peers_of(&server.cost, now, all)
    }
}

impl Drop for AttemptReporter {
    #[inline]
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let now = self.now();
        if self.head.is_none() {
            self.bad(now);
        }
        self.end_at(AttemptResult::Dropped, now);
    }
}
