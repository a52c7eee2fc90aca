//! The task of one server: connects, watches the connection, and connects again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::balance::queue::Queue;
use crate::balance::subchannel::connect_order::Rank;
use crate::balance::subchannel::connect_permits::Permits;
use crate::balance::subchannel::reconnect::{LATE, Next, Reconnect};
use crate::balance::subchannel::{Subchannel, SubchannelState};
use crate::connection::{CloseReason, Connection, ConnectionState, Destination, Failure, Options, Transport, caught};

/// What all supervisors of a channel share.
pub(crate) struct ConnectContext {
    /// The service, for the log.
    pub(crate) service: Arc<str>,
    pub(crate) transport: Transport,
    pub(crate) options: Options,
    /// Who is connected to first, and how many at once.
    pub(crate) permits: Permits,
    /// Told when a connection comes or goes: when a server can be used, or no longer.
    pub(crate) changed: Notify,
    /// Told when a server that could not be used has begun to fail.
    pub(crate) failing: Notify,
    /// Attempts that failed: with each of them there is something new to be said of why there is no server.
    pub(crate) failures: AtomicU64,
    /// Where calls wait, told when a server has room.
    pub(crate) queue: Arc<Queue>,
}

/// Never ends; it is aborted when the server is removed.
pub(crate) async fn supervise(ground: Arc<ConnectContext>, server: Arc<Subchannel>, to: Destination) {
    let (mut options, service) = (ground.options.clone(), &*ground.service);
    let (mut reconnect, mut warned) = (Reconnect::new(), false);
    loop {
        let (began, result) = connect(&ground, &to, &options, reconnect.rank()).await;
        let next = match result {
            Ok(connection) => {
                reconnect.connected();
                let (connected, answered) = (Instant::now(), server.cost.ok_calls());
                if std::mem::take(&mut warned) {
                    tracing::info!(parent: None, service, server = %server.address(), "connected again");
                } else {
                    tracing::debug!(parent: None, service, server = %server.address(), "connected");
                }
                let mut stages = connection.stages();
                server.set_state(SubchannelState::Ready(connection), None);
                ground.changed.notify_one();
                let over = stages
                    .wait_for(|stage| matches!(stage, ConnectionState::Draining(_) | ConnectionState::Closed(_)))
                    .await;
                let end = over.map_or_else(|_| None, |stage| stage.end().cloned());
                let why = end.as_ref().map_or("the connection is gone", |end| &end.why);
                if end.as_ref().is_some_and(|end| end.silent) {
                    warned = true;
                    tracing::warn!(parent: None, service, server = %server.address(), why, "taken for dead");
                } else {
                    tracing::debug!(parent: None, service, server = %server.address(), why, "disconnected");
                }
                if end.as_ref().is_some_and(|end| end.too_many_pings) {
                    options.keep_alive = options.keep_alive.map(crate::connection::KeepAlive::doubled);
                    tracing::warn!(parent: None, service, server = %server.address(), "the server complained of pings: half as many from now on");
                }
                let next = reconnect.ended(connected.elapsed(), server.cost.ok_calls() > answered, fastrand::f64());
                server.set_state(next.state(), Some(why.to_owned()));
                ground.changed.notify_one();
                next
            }
            Err(why) => {
                if reconnect.is_well() {
                    warned = true;
                    tracing::warn!(parent: None, service, server = %server.address(), error = why, "cannot connect; trying on");
                }
                let next = reconnect.failed(began.elapsed(), options.connect_timeout, fastrand::f64());
                // One that goes on failing changes nothing for anybody.
                let was_failing = matches!(server.state(), SubchannelState::TransientFailure);
                let news = was_failing == next.awaited;
                server.set_state(next.state(), Some(why));
                ground.failures.fetch_add(1, Ordering::Relaxed);
                if news {
                    ground.failing.notify_one();
                }
                next
            }
        };
        if next.after.is_zero() {
            continue;
        }
        let at = Instant::now() + next.after.saturating_sub(began.elapsed());
        sleep_until(at).await;
        if at.elapsed() >= LATE {
            // Nobody drove the runtime: what is known of the server is old.
            server.set_state(SubchannelState::Connecting, None);
            ground.changed.notify_one();
        }
    }
}

impl Next {
    fn state(&self) -> SubchannelState {
        if self.awaited { SubchannelState::Connecting } else { SubchannelState::TransientFailure }
    }
}

/// One attempt, however often its permit goes to another; also gives when it began.
async fn connect(
    ground: &ConnectContext,
    to: &Destination,
    options: &Options,
    mut rank: Rank,
) -> (Instant, Result<Connection, String>) {
    loop {
        let permit = ground.permits.acquire(rank).await;
        let began = Instant::now();
        // Boxed: while a server is connected, its task is small. The user's code is in it: a connector's stream, what
        // verifies certificates.
        let attempt = caught(ground.transport.connect(to, options, ground.queue.clone()));
        tokio::select! {
            biased;
            result = attempt => return (began, ended(result)),
            () = permit.revoked() => rank = rank.next(),
        }
    }
}

/// An attempt that panicked has failed.
fn ended(result: Result<Result<Connection, Failure>, String>) -> Result<Connection, String> {
    match result {
        Ok(result) => result.map_err(|failure| failure.to_string()),
        Err(panic) => Err(format!("connecting panicked: {panic}")),
    }
}

impl ConnectionState {
    fn end(&self) -> Option<&CloseReason> {
        match self {
            Self::Draining(end) | Self::Closed(end) => Some(end),
            Self::Greeting | Self::Ready => None,
        }
    }
}
