//! The task of one server: connects, watches the connection, and connects again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::connecting::Rank;
use super::places::Places;
use super::queue::Queue;
use super::server::{LinkState, Server};
use crate::connection::{Connection, Destination, End, Failure, Options, Stage, Transport, caught};

/// As in gRPC's connection-backoff document, with shorter times: etcd takes a dead server out within its TTL, so that a
/// refused connection mostly means one that is just starting.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
const FACTOR: f64 = 1.6;
const JITTER: f64 = 0.2;
/// A connection that lasted so long, or that answered a call, was a good one: the next is made at once.
const GOOD: Duration = Duration::from_millis(500);
/// How often in a row a connection may be a short one before calls fail and do not wait for the next.
const FLAPS: i32 = 3;

/// An attempt that fails within so long was refused.
const REFUSAL: Duration = Duration::from_secs(1);
/// A timer that is so late means that nobody drove the runtime: what is known of the server is old.
const LATE: Duration = Duration::from_millis(50);

/// What all supervisors of a channel share.
pub(crate) struct Ground {
    pub(crate) transport: Transport,
    pub(crate) options: Options,
    /// Who is connected to first, and how many at once.
    pub(crate) places: Places,
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

    fn set(&self, connection: Option<Connection>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = connection;
    }
}

/// Never ends; it is aborted when the server is removed.
pub(crate) async fn supervise(ground: Arc<Ground>, server: Arc<Server>, to: Destination, link: Arc<Link>) {
    let mut options = ground.options.clone();
    let (mut rank, mut failures, mut warned) = (Rank::New, 0, false);
    // Whether the last connection was a good one: a server that restarts refuses the first that follows it.
    let mut was_good = false;
    // Whether the last failure was put down to the runtime: not twice in a row.
    let mut was_excused = false;
    loop {
        let (began, result) = connect(&ground, &to, &options, rank).await;
        match result {
            Ok(connection) => {
                rank = Rank::Connected;
                was_excused = false;
                let (connected, answered) = (Instant::now(), server.succeeded());
                if std::mem::take(&mut warned) {
                    tracing::info!(server = %server.address(), "connected again");
                } else {
                    tracing::debug!(server = %server.address(), "connected");
                }
                let mut stages = connection.stages();
                server.set_link(LinkState::Ready, None);
                link.set(Some(connection));
                ground.changed.notify_one();
                let over = stages.wait_for(|stage| matches!(stage, Stage::Draining(_) | Stage::Closed(_))).await;
                let end = over.map_or_else(|_| None, |stage| stage.end().cloned());
                link.set(None);
                let why = end.as_ref().map_or("the connection is gone", |end| &end.why);
                if end.as_ref().is_some_and(|end| end.silent) {
                    warned = true;
                    tracing::warn!(server = %server.address(), why, "taken for dead");
                } else {
                    tracing::debug!(server = %server.address(), why, "disconnected");
                }
                if end.as_ref().is_some_and(|end| end.too_many_pings) {
                    options.keep_alive = options.keep_alive.map(crate::connection::KeepAlive::doubled);
                    tracing::warn!(server = %server.address(), "the server complained of pings: half as many from now on");
                }
                if connected.elapsed() >= GOOD || server.succeeded() > answered {
                    (failures, was_good) = (0, true);
                    server.set_link(LinkState::Connecting, Some(why.to_owned()));
                    ground.changed.notify_one();
                    continue;
                }
                // Calls wait a while for one that comes and goes, as in gRPC, and not for ever.
                let state = if failures < FLAPS { LinkState::Connecting } else { LinkState::Failing };
                server.set_link(state, Some(why.to_owned()));
                ground.changed.notify_one();
            }
            Err(why) => {
                if failures == 0 {
                    warned = true;
                    tracing::warn!(server = %server.address(), error = why, "cannot connect; trying on");
                }
                let stood_still = began.elapsed() >= options.connect_timeout + LATE;
                let restarts = std::mem::take(&mut was_good) && began.elapsed() < REFUSAL;
                was_excused = restarts || (stood_still && !was_excused);
                let state = if was_excused { LinkState::Connecting } else { LinkState::Failing };
                // One that goes on failing changes nothing for anybody.
                let news = server.link_state() != state;
                server.set_link(state, Some(why));
                ground.failures.fetch_add(1, Ordering::Relaxed);
                if news {
                    ground.failing.notify_one();
                }
                rank = Rank::failing(i32::saturating_add(failures, 1));
            }
        }
        failures = i32::saturating_add(failures, 1);
        // From its beginning, so that an attempt that took long does not wait on top of that.
        let next = Instant::now() + backoff(failures, fastrand::f64()).saturating_sub(began.elapsed());
        sleep_until(next).await;
        if next.elapsed() >= LATE {
            server.set_link(LinkState::Connecting, None);
            ground.changed.notify_one();
        }
    }
}

/// One attempt, however often it has to give its place to another; also gives when it began.
async fn connect(
    ground: &Ground,
    to: &Destination,
    options: &Options,
    mut rank: Rank,
) -> (Instant, Result<Connection, String>) {
    loop {
        let place = ground.places.take(rank).await;
        let began = Instant::now();
        // Boxed: while a server is connected, its task is small. The user's code is in it: a connector's stream, what
        // verifies certificates.
        let attempt = caught(ground.transport.connect(to, options, ground.queue.clone()));
        tokio::select! {
            biased;
            result = attempt => return (began, ended(result)),
            () = place.cut() => rank = rank.next(),
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

fn backoff(failures: i32, random: f64) -> Duration {
    let grown = FIRST_BACKOFF.as_secs_f64() * FACTOR.powi(failures.saturating_sub(1).clamp(0, 64));
    let wait = grown.min(LAST_BACKOFF.as_secs_f64());
    Duration::from_secs_f64(wait * (1.0 + JITTER * (2.0 * random - 1.0)))
}

impl Stage {
    fn end(&self) -> Option<&End> {
        match self {
            Self::Draining(end) | Self::Closed(end) => Some(end),
            Self::Greeting | Self::Ready => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_cap_with_jitter() {
        let waits: Vec<_> = [1, 2, 3, 12, i32::MAX].iter().map(|n| backoff(*n, 0.5).as_millis()).collect();
        assert_eq!(waits, [100, 160, 256, 10_000, 10_000]);
        assert_eq!((backoff(1, 0.0).as_millis(), backoff(1, 1.0).as_millis()), (80, 120));
    }
}
