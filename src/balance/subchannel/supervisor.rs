//! The task of one server: it connects, watches the connection, and connects again.
//!
//! It runs from when the pool learns of the server until the pool drops it. Its only output is [`Subchannel::set_state`], after which it wakes the pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::balance::subchannel::connect_order::Rank;
use crate::balance::subchannel::connect_permits::ConnectPermits;
use crate::balance::subchannel::health::{HealthChecks, HealthLog};
use crate::balance::subchannel::reconnect::{LATE, NextAttempt, Reconnect};
use crate::balance::subchannel::{Subchannel, SubchannelState};
use crate::connection::{
    CloseKind, CloseReason, Connection, Destination, Failure, KeepAlive, Options, Transport, catch_panic,
};

/// What all supervisors of a channel share.
pub(crate) struct ConnectContext {
    /// The service, for the log.
    pub(crate) service: Arc<str>,
    /// TCP, Unix sockets or the user's connector, and TLS.
    pub(crate) transport: Transport,
    /// What the user has set of connections.
    pub(crate) options: Options,
    /// Limit and order the attempts of all servers.
    pub(crate) permits: ConnectPermits,
    /// Wakes the pool when a connection comes or goes, so that a server can be used or no longer
    /// can.
    pub(crate) changed: Notify,
    /// Wakes the pool, less urgently, when a server begins to fail, or to connect again, that could not be used before
    /// either. Servers that do so within some milliseconds are published together.
    pub(crate) failing: Notify,
    /// Wakes the pool when a server has failed so many calls that it may be ejected.
    pub(crate) suspicious: Notify,
    /// Counts failed attempts: with each the reason why there is no server may be another one.
    pub(crate) failures: AtomicU64,
    /// How many connections a server may have at most. The supervisors follow it.
    pub(crate) connections_per_server: watch::Sender<usize>,
    /// Whether that is, or may become, more than one.
    pub(crate) may_have_several: bool,
    /// A connection beyond a server's first closes after so long without a call.
    pub(crate) unused_after: Duration,
    /// Whether and how servers are asked for their health.
    pub(crate) health: HealthChecks,
}

/// The supervisor of one server.
pub(super) struct Supervisor {
    pub(super) context: Arc<ConnectContext>,
    pub(super) subchannel: Arc<Subchannel>,
    /// Where the server is.
    to: Destination,
    /// The channel's, with a longer keep-alive interval once the server has complained of pings, and
    /// what counts the server's streams.
    pub(super) options: Options,
    /// Decides what follows.
    reconnect: Reconnect,
    /// A warning was logged, so that the next success is worth an INFO.
    has_warned: bool,
    /// What was logged of the server's health.
    pub(super) health_log: HealthLog,
}

/// Keeps one server connected. The pool aborts it when the server is removed. It ends by itself when the connections of a
/// server that is held have ended.
pub(crate) async fn supervise(context: Arc<ConnectContext>, subchannel: Arc<Subchannel>, to: Destination) {
    let options = Options { server_streams: subchannel.streams().cloned(), ..context.options.clone() };
    let reconnect = Reconnect::new();
    let health_log = HealthLog::default();
    let mut supervisor = Supervisor { context, subchannel, to, options, reconnect, has_warned: false, health_log };
    loop {
        let (began, result) = supervisor.attempt(supervisor.reconnect.rank()).await;
        let next = match result {
            Ok(connection) => supervisor.watch(began, connection).await,
            Err(error) => supervisor.failed(began, &error),
        };
        if supervisor.subchannel.is_held() {
            return; // the pool removes the server, or begins anew with it
        }
        supervisor.pause(began, next).await;
    }
}

impl Supervisor {
    /// Makes one attempt, however often its permit is revoked. Also returns when it began.
    pub(super) fn attempt(
        &self,
        mut rank: Rank,
    ) -> impl Future<Output = (Instant, Result<Connection, String>)> + Send + use<> {
        let (context, to, options) = (self.context.clone(), self.to.clone(), self.options.clone());
        let waiting = self.subchannel.waiting.listener();
        async move {
            loop {
                let permit = context.permits.acquire(rank).await;
                let began = Instant::now();
                // Boxed, so that the task is small while the server is connected. It runs code of the user: a connector, a
                // verifier of certificates.
                let attempt = context.transport.connect(&to, &options, waiting.clone());
                tokio::select! {
                    biased; // a connection that has come is not thrown away
                    result = catch_panic(attempt) => return (began, without_panic(result)),
                    () = permit.revoked() => rank = rank.next(),
                }
            }
        }
    }

    /// Publishes the connection, and waits until it, and any that were made beside it, take no more calls.
    async fn watch(&mut self, began: Instant, connection: Connection) -> NextAttempt {
        let (service, server) = (&*self.context.service, self.subchannel.address().clone());
        self.reconnect.connected();
        let open = self.subchannel.connections.succeeded();
        let (connected, ok_calls) = (Instant::now(), self.subchannel.cost.ok_calls());
        if std::mem::take(&mut self.has_warned) {
            tracing::info!(parent: None, service, %server, "server connected again");
        } else {
            tracing::debug!(parent: None, service, %server, "server connected");
        }
        let reason = if self.context.may_have_several {
            Box::pin(self.watch_several(began, connection, open)).await
        } else {
            let reason = self.watch_one(connection).await;
            open.ended(reason.disconnect);
            reason
        };
        let (service, error) = (&*self.context.service, reason.to_string());
        if reason.kind == CloseKind::Unresponsive && !self.subchannel.is_held() {
            self.has_warned = true;
            tracing::warn!(parent: None, service, %server, error, "server silent, connecting again");
        } else {
            tracing::debug!(parent: None, service, %server, error, "server disconnected");
        }
        self.heed_pings(&reason);
        let had_ok_call = self.subchannel.cost.ok_calls() > ok_calls;
        let next = self.reconnect.ended(connected.elapsed(), had_ok_call, fastrand::f64());
        self.subchannel.set_state(next.state(), Some(&error));
        self.context.changed.notify_one();
        next
    }

    /// Sends half as many PINGs to a server that complained of them.
    pub(super) fn heed_pings(&mut self, reason: &CloseReason) {
        if reason.kind == CloseKind::TooManyPings {
            let (service, server) = (&*self.context.service, self.subchannel.address());
            self.options.keep_alive = self.options.keep_alive.map(KeepAlive::with_doubled_interval);
            tracing::warn!(parent: None, service, %server, "server complained of pings, sending half as many");
        }
    }

    /// An attempt that began then has failed. Logged at WARN for the first failure after all was
    /// well, because a server may go on failing for days.
    fn failed(&mut self, began: Instant, error: &str) -> NextAttempt {
        let was_well = self.reconnect.is_well();
        self.subchannel.connections.failed();
        let next = self.reconnect.failed(began.elapsed(), self.options.connect_timeout, fastrand::f64());
        if was_well {
            self.has_warned = true;
            let (service, server, retry_in_ms) =
                (&*self.context.service, self.subchannel.address(), millis(next.delay));
            tracing::warn!(parent: None, service, %server, error, retry_in_ms, "server cannot be connected, retrying");
        }
        // The pool and the calls need to hear of it only if it changes what calls do: a server that goes on failing changes nothing.
        let was_failing = matches!(self.subchannel.state(), SubchannelState::TransientFailure);
        self.subchannel.set_state(next.state(), Some(error));
        self.context.failures.fetch_add(1, Ordering::Relaxed);
        if was_failing == next.calls_wait {
            self.context.failing.notify_one();
        }
        next
    }

    /// Waits for the next attempt.
    async fn pause(&self, began: Instant, next: NextAttempt) {
        if next.delay.is_zero() {
            return;
        }
        let at = Instant::now() + next.delay.saturating_sub(began.elapsed());
        sleep_until(at).await;
        if at.elapsed() >= LATE {
            // The runtime stood still, so the last failure may be old: let calls wait for this attempt.
            self.subchannel.set_state(SubchannelState::Connecting, None);
            self.context.failing.notify_one();
        }
    }
}

impl NextAttempt {
    /// The state of the subchannel until then.
    fn state(&self) -> SubchannelState {
        if self.calls_wait { SubchannelState::Connecting } else { SubchannelState::TransientFailure }
    }
}

/// An attempt that panicked has failed.
fn without_panic(result: Result<Result<Connection, Failure>, String>) -> Result<Connection, String> {
    match result {
        Ok(result) => result.map_err(|failure| failure.to_string()),
        Err(panic) => Err(format!("connecting panicked: {panic}")),
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
