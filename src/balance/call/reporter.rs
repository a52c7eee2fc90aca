//! Who answers a call, and what the call tells of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::channel::Inner;
use crate::balance::policy::ready::ReadySubchannel;
use crate::balance::subchannel::CallResult;
use crate::balance::subchannel::cost::Peers;

/// One attempt at one server, from when it is sent. Dropping it before the head of the answer came tells the server's cost that
/// the caller gave up.
pub(crate) struct AttemptReporter {
    pub(crate) member: Arc<ReadySubchannel>,
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
    pub(crate) fn new(member: Arc<ReadySubchannel>, inner: Arc<Inner>, sent: Duration) -> Self {
        member.server.cost.sent(sent);
        let term = member.server.term();
        Self { member, inner, sent, term, head: None, over: false }
    }

    /// The head of an answer has come; `well` where it says nothing bad.
    pub(crate) fn head(&mut self, well: bool) {
        let now = self.now();
        let (server, took) = (&self.member.server, now.saturating_sub(self.sent));
        server.cost.no_longer_awaited();
        self.head = Some(took);
        self.inner.pauses.runs(now);
        if well {
            server.cost.head(took, now);
        }
    }

    /// The call has ended.
    pub(crate) fn judge(&mut self, verdict: CallResult) {
        let now = self.now();
        let server = &self.member.server;
        if verdict == CallResult::Success {
            self.inner.budget.succeeded();
            server.cost.ok(now.saturating_sub(self.sent), || self.peers(now));
        } else {
            self.bad(now);
        }
        let in_a_row = server.judge(verdict, self.term);
        if in_a_row > 0
            && let Some(ejection) = self.inner.settings.ejection
            && ejection.is_suspicious(in_a_row, server.is_on_probation())
        {
            self.inner.ground.changed.notify_one();
        }
        self.end();
    }

    /// The server has not taken the call.
    pub(crate) fn refused(&mut self) {
        self.bad(self.now());
        self.end();
    }

    /// How the call went says nothing of the server.
    #[inline]
    pub(crate) fn end(&mut self) {
        if self.head.is_none() && !self.over {
            self.member.server.cost.no_longer_awaited();
        }
        self.over = true;
    }

    fn bad(&self, now: Duration) {
        let (server, age) = (&self.member.server, now.saturating_sub(self.sent));
        server.cost.bad(age, self.head.unwrap_or(age), now, &self.peers(now));
    }

    /// The time since the channel's epoch.
    fn now(&self) -> Duration {
        self.inner.since_epoch(Instant::now())
    }

    fn peers(&self, now: Duration) -> Peers {
        let server = &self.member.server;
        let ready = self.inner.ready.load();
        let all = ready.servers.iter().map(|ready| (&ready.0.server.cost, ready.0.connection.in_flight()));
        self.inner.fleet.peers_of(&server.cost, now, all)
    }
}

impl Drop for AttemptReporter {
    #[inline]
    fn drop(&mut self) {
        if !self.over && self.head.is_none() {
            self.refused();
        }
    }
}
