//! The task of one server: connects, watches the connection, and connects again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::balance::pool::connect_order::Rank;
use crate::balance::pool::connect_permits::Permits;
use crate::balance::queue::Queue;
use crate::balance::subchannel::reconnect::{LATE, Next, Reconnect};
use crate::balance::subchannel::{LinkState, Server};
use crate::connection::{CloseKind, Connection, Destination, Failure, KeepAlive, Options, Transport, catch_panic};

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

/// Where the pool finds the connection, while there is one.
#[derive(Default)]
pub(crate) struct Link(Mutex<Option<Connection>>);

impl Link {
    pub(crate) fn get(&self) -> Option<Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the connection, which is not held for it: whoever lets the last handle go takes h2's lock, and this may be asked from
    /// within.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, Connection::in_flight)
    }

    fn set(&self, connection: Option<Connection>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), connection);
        drop(before); // after the lock: h2 says that its last handle goes, and whoever hears it may look here
    }
}

/// Never ends; it is aborted when the server is removed.
pub(crate) async fn supervise(ground: Arc<ConnectContext>, server: Arc<Server>, to: Destination, link: Arc<Link>) {
    let (mut options, service) = (ground.options.clone(), &*ground.service);
    let (mut reconnect, mut warned) = (Reconnect::new(), false);
    loop {
        let (began, result) = connect(&ground, &to, &options, reconnect.rank()).await;
        let next = match result {
            Ok(connection) => {
                reconnect.connected();
                let (connected, answered) = (Instant::now(), server.succeeded());
                if std::mem::take(&mut warned) {
                    tracing::info!(parent: None, service, server = %server.address(), "connected again");
                } else {
                    tracing::debug!(parent: None, service, server = %server.address(), "connected");
                }
                let closing = connection.closing();
                server.set_link(LinkState::Ready, None);
                link.set(Some(connection));
                ground.changed.notify_one();
                let reason = closing.await;
                link.set(None);
                let why = reason.to_string();
                if reason.kind == CloseKind::Unresponsive {
                    warned = true;
                    tracing::warn!(parent: None, service, server = %server.address(), why, "taken for dead");
                } else {
                    tracing::debug!(parent: None, service, server = %server.address(), why, "disconnected");
                }
                if reason.kind == CloseKind::TooManyPings {
                    options.keep_alive = options.keep_alive.map(KeepAlive::with_doubled_interval);
                    tracing::warn!(parent: None, service, server = %server.address(), "the server complained of pings: half as many from now on");
                }
                let next = reconnect.ended(connected.elapsed(), server.succeeded() > answered, fastrand::f64());
                server.set_link(next.link_state(), Some(why));
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
                let news = server.link_state() != next.link_state();
                server.set_link(next.link_state(), Some(why));
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
            server.set_link(LinkState::Connecting, None);
            ground.changed.notify_one();
        }
    }
}

impl Next {
    fn link_state(&self) -> LinkState {
        if self.awaited { LinkState::Connecting } else { LinkState::Failing }
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
        let attempt = catch_panic(ground.transport.connect(to, options, ground.queue.clone()));
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
