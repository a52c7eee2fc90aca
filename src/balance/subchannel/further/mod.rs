//! A server that may have several connections: the part of its supervisor that runs while it has at least one.
//!
//! - `mod.rs`: which connections come and go, and when.
//! - `growth.rs`: how calls ask for one more.
//! - `held.rs`: the connections that there are.
//! - `pause.rs`: when the next one may be made.
//!
//! A further connection never changes the state of its server for the worse: the server is ready as long as one is left that is
//! healthy, and the oldest one of those is the first. Each ends for itself.

pub(in crate::balance) mod growth;
mod held;
mod pause;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::balance::metrics::OpenConnection;
use crate::balance::subchannel::further::held::{Held, HeldConnections, HeldEvent};
use crate::balance::subchannel::further::pause::Pause;
use crate::balance::subchannel::supervisor::{Supervisor, millis};
use crate::connection::{CloseKind, CloseReason, Connection};

/// The default of [`ConnectContext::unused_after`](super::supervisor::ConnectContext::unused_after): as long as a connection may
/// be silent before it is checked.
pub(in crate::balance) const UNUSED_AFTER: Duration = Duration::from_secs(5 * 60);

/// An attempt to make a further connection.
type Attempt = Pin<Box<dyn Future<Output = (Instant, Result<Connection, String>)> + Send>>;

/// What may happen while the server is connected.
enum Event {
    /// The connection at this index takes no more calls.
    Closing(usize, CloseReason),
    /// The health of a connection has changed.
    Health,
    /// Another service's health counts from now on.
    OtherService,
    /// Another number of connections is permitted from now on.
    OtherLimit,
    /// Calls wait, and no server has room.
    Asked,
    /// An attempt that began then has ended.
    Attempted(Instant, Result<Connection, String>),
    /// The backoff is over.
    MayTryAgain,
    /// It is time to look for connections that nobody uses.
    Check,
}

impl Supervisor {
    /// Keeps a server that has its first connection, until the last one takes no more calls. Returns why that one does not.
    ///
    /// Further ones are made one at a time, when calls ask: the next one once the health of the last one is known. The backoff between
    /// those that fail, are short or are unhealthy is as usual, and theirs alone.
    pub(super) async fn watch_several(
        &mut self,
        began: Instant,
        first: Connection,
        open: OpenConnection,
    ) -> CloseReason {
        let context = self.context.clone();
        let subchannel = self.subchannel.clone();
        let mut services = context.health.service.subscribe();
        let mut limits = context.connections_per_server.subscribe();
        let mut held =
            HeldConnections::new(Held::new(first, began, false, self.asked(&mut services), open), context.unused_after);
        let mut pause = Pause::new();
        let mut attempt: Option<Attempt> = None;
        let mut error = None;
        let mut is_news = true;
        subchannel.growth.forget();
        loop {
            let limit = *limits.borrow_and_update();
            let has_place = held.len() < limit && !subchannel.is_held();
            if let Some(news) = held.take_news() {
                pause.after_check(news.is_ok(), self.options.connect_timeout);
                subchannel.growth.set_failed(news.is_err());
                error = news.err().or(error);
            }
            // One that calls may use in a moment is as good as one that is being made.
            let is_making = attempt.is_some() || held.is_checking();
            let may_begin = !is_making && pause.until.is_none() && has_place;
            subchannel.growth.set(is_making, may_begin);
            if std::mem::replace(&mut is_news, true) {
                let (state, unhealthy) = held.state();
                self.log_health(&state, unhealthy.as_deref(), held.health_not_supported(), held.is_health_confirmed());
                subchannel.set_state(state, unhealthy.or_else(|| error.take()).as_deref());
                // After both: the pool publishes the connections, and asks for another one if calls still wait.
                context.changed.notify_one();
            }
            let next_check = held.next_check();
            let event = tokio::select! {
                biased; // what has ended is told first
                event = held.event() => match event {
                    HeldEvent::Closing(index, reason) => Event::Closing(index, reason),
                    HeldEvent::Health => Event::Health,
                },
                Ok(()) = services.changed() => Event::OtherService,
                Ok(()) = limits.changed() => Event::OtherLimit,
                () = subchannel.growth.asked(), if attempt.is_none() => Event::Asked,
                (began, result) = ended(&mut attempt) => Event::Attempted(began, result),
                () = reached(pause.until) => Event::MayTryAgain,
                () = reached(next_check) => Event::Check,
            };
            match event {
                Event::Closing(index, reason) => {
                    let (began, is_further) = held.remove(index).end(reason.disconnect);
                    if held.len() == 0 {
                        subchannel.growth.set(false, false);
                        return reason;
                    }
                    self.one_ended(&reason, held.len());
                    error = Some(reason.to_string());
                    if is_further {
                        pause.after_end(began);
                    }
                }
                Event::Health => {}
                Event::OtherService => held.check_health(&self.asked(&mut services)),
                Event::OtherLimit => held.keep(*limits.borrow()),
                // Whoever asked may have found room meanwhile.
                Event::Asked if !subchannel.waiting.has_waiters() => {
                    // A call that has begun to wait just now took this one for asked for: the pool asks again.
                    subchannel.growth.set(false, true);
                    fence(Ordering::SeqCst); // as where a call asks, in `Partition::count_room`
                    is_news = subchannel.waiting.has_waiters();
                }
                // It is held, or it was released a moment ago.
                Event::Asked if !may_begin || subchannel.is_held() => {}
                Event::Asked => {
                    attempt = Some(Box::pin(self.attempt(pause.rank())));
                    is_news = false;
                }
                // Whoever etcd does not list gets no connection, and nobody more than is permitted by now.
                Event::Attempted(_, Ok(_)) if !has_place || subchannel.is_held() => attempt = None,
                Event::Attempted(began, Ok(connection)) => {
                    attempt = None;
                    let open = subchannel.connections.succeeded();
                    held.push(Held::new(connection, began, true, self.asked(&mut services), open));
                    let (service, server, connections) = (&*context.service, subchannel.address(), held.len());
                    tracing::debug!(parent: None, service, %server, connections, "further connection made");
                }
                Event::Attempted(began, Err(failure)) => {
                    attempt = None;
                    subchannel.connections.failed();
                    let retry_in_ms = millis(pause.after_failure(began, self.options.connect_timeout));
                    self.further_failed(&failure, retry_in_ms);
                    context.failures.fetch_add(1, Ordering::Relaxed);
                    subchannel.growth.set_failed(true);
                    error = Some(failure);
                }
                Event::MayTryAgain => pause.until = None,
                Event::Check => {
                    let unused = held.take_unused().len();
                    is_news = unused > 0;
                    if is_news {
                        let (service, server, connections) = (&*context.service, subchannel.address(), held.len());
                        tracing::debug!(
                            parent: None, service, %server, unused, connections, "further connections unused, closing"
                        );
                    }
                }
            }
        }
    }

    /// A further connection could not be made.
    fn further_failed(&self, error: &str, retry_in_ms: u64) {
        let (service, server) = (&*self.context.service, self.subchannel.address());
        tracing::debug!(parent: None, service, %server, error, retry_in_ms, "further connection failed");
    }

    /// One of several connections has ended.
    fn one_ended(&mut self, reason: &CloseReason, left: usize) {
        let (service, server) = (&*self.context.service, self.subchannel.address());
        let error = reason.to_string();
        if reason.kind == CloseKind::Unresponsive {
            tracing::warn!(parent: None, service, %server, error, left, "connection silent, the server has others");
        } else {
            tracing::debug!(parent: None, service, %server, error, left, "connection ended, the server has others");
        }
        self.heed_pings(reason);
    }
}

/// The end of the attempt. Never, if there is none.
async fn ended(attempt: &mut Option<Attempt>) -> (Instant, Result<Connection, String>) {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Waits until this time. For ever, if there is none.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
