//! The task of one server: connects, watches the connection, and connects again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use super::server::{LinkState, Server};
use crate::connection::{Connection, Destination, End, Options, Stage, Transport};

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
/// How long an attempt counts among those that are made at once; one that takes longer is waiting for nobody here.
const COUNTED: Duration = Duration::from_secs(1);

/// A timer that is so late means that nobody drove the runtime: what is known of the server is old.
const LATE: Duration = Duration::from_millis(50);

/// What all supervisors of a channel share.
pub(crate) struct Ground {
    pub(crate) transport: Transport,
    pub(crate) options: Options,
    /// How many connect at once.
    pub(crate) connecting: Semaphore,
    /// Told when a connection comes or goes.
    pub(crate) changed: Notify,
    /// Told when a server that was at its limit has room.
    pub(crate) room: Arc<Notify>,
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
    let (mut failures, mut warned) = (0, false);
    // Whether the last connection was a good one: a server that restarts refuses the first that follows it.
    let mut was_good = false;
    // Whether the last failure was put down to the runtime: not twice in a row.
    let mut was_excused = false;
    loop {
        let began = Instant::now();
        match connect(&ground, &to, &options).await {
            Ok(connection) => {
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
            }
            Err((why, stood_still)) => {
                if failures == 0 {
                    warned = true;
                    tracing::warn!(server = %server.address(), error = why, "cannot connect; trying on");
                }
                let is_refusal = began.elapsed() < COUNTED;
                let restarts = std::mem::take(&mut was_good) && is_refusal;
                was_excused = restarts || (stood_still && !was_excused);
                let state = if was_excused { LinkState::Connecting } else { LinkState::Failing };
                server.set_link(state, Some(why));
            }
        }
        ground.changed.notify_one();
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

/// One attempt. Its failure comes with whether nobody drove the runtime meanwhile, so that it says nothing of the server.
async fn connect(ground: &Ground, to: &Destination, options: &Options) -> Result<Connection, (String, bool)> {
    // Closed never; an error would only mean not to count.
    let permit = ground.connecting.acquire().await.ok();
    let began = Instant::now();
    let mut attempt = Box::pin(ground.transport.connect(to, options, ground.room.clone()));
    let early = timeout(COUNTED, &mut attempt).await;
    drop(permit);
    let result = match early {
        Ok(result) => result,
        Err(_) => attempt.await,
    };
    let stood_still = || began.elapsed() >= options.connect_timeout + LATE;
    result.map_err(|failure| (failure.to_string(), stood_still()))
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
