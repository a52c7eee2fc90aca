//! The connections of one server, as its supervisor holds them.

use std::cmp::Reverse;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::metrics::OpenConnection;
use crate::balance::subchannel::SubchannelState;
use crate::balance::subchannel::health::{Asked, ConnectionHealth, Health, state_of};
use crate::connection::{CloseReason, Connection, Disconnect};

/// How often further connections are looked at within the time after which they count as unused. So one closes up to a tenth of
/// that time late.
const CHECKS: u32 = 10;

/// The oldest first. Never more than a few.
pub(super) struct HeldConnections {
    all: Vec<Held>,
    /// A further connection without a call for so long is closed.
    unused_after: Duration,
    next_check: Instant,
}

/// One connection.
pub(super) struct Held {
    connection: Connection,
    health: ConnectionHealth,
    /// Why it takes no more calls.
    closing: Pin<Box<dyn Future<Output = CloseReason> + Send>>,
    /// When the attempt began that gave it.
    began: Instant,
    /// It was made while the server had another one.
    is_further: bool,
    open: OpenConnection,
    /// It is such a one, and nobody was told yet whether it is healthy.
    is_untold: bool,
    /// As far as the last check has seen: how many calls were begun over it, …
    calls: u32,
    /// … and since when there was none.
    unused_since: Instant,
}

/// What has become of a connection.
pub(super) enum HeldEvent {
    /// The one at this index takes no more calls.
    Closing(usize, CloseReason),
    /// The health of one or more has changed.
    Health,
}

impl Held {
    /// Its health is checked in this way. `open` counts it as open.
    pub(super) fn new(
        connection: Connection,
        began: Instant,
        is_further: bool,
        asked: Asked,
        open: OpenConnection,
    ) -> Self {
        let closing = Box::pin(connection.closing());
        let health = ConnectionHealth::of_new(&connection, asked);
        let is_untold = is_further;
        Self { connection, health, closing, began, is_further, open, is_untold, calls: 0, unused_since: Instant::now() }
    }

    /// It takes no more calls, for this reason. Returns when its attempt began, and whether it is a further one.
    pub(super) fn end(self, reason: Disconnect) -> (Instant, bool) {
        self.open.ended(reason);
        (self.began, self.is_further)
    }

    /// Whether there was no call for so long.
    fn is_unused(&mut self, now: Instant, unused_after: Duration) -> bool {
        let calls = self.connection.begun();
        if calls != self.calls || self.connection.in_flight() > 0 {
            (self.calls, self.unused_since) = (calls, now);
        }
        now.duration_since(self.unused_since) >= unused_after
    }
}

impl HeldConnections {
    pub(super) fn new(first: Held, unused_after: Duration) -> Self {
        Self { all: vec![first], unused_after, next_check: Instant::now() }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The state of their server, and why it is unhealthy if it is.
    pub(super) fn state(&self) -> (SubchannelState, Option<String>) {
        state_of(&self.all.iter().map(|held| (&held.connection, &held.health)))
    }

    /// Whether the health of one is awaited: calls may go over it in a moment.
    pub(super) fn is_checking(&self) -> bool {
        self.all.iter().any(|held| held.health.health() == Health::Unknown)
    }

    /// Whether a further connection is healthy, once that is known and was not told yet.
    ///
    /// # Errors
    /// Why it is unhealthy.
    pub(super) fn take_news(&mut self) -> Option<Result<(), String>> {
        let is_news = |held: &&mut Held| held.is_untold && held.health.health() != Health::Unknown;
        let held = self.all.iter_mut().find(is_news)?;
        held.is_untold = false;
        Some(match held.health.health() {
            Health::Unhealthy => Err(held.health.error().unwrap_or_default().to_owned()),
            Health::Healthy | Health::Unknown => Ok(()),
        })
    }

    /// Why the server's health cannot be checked, if it cannot over one of them.
    pub(super) fn health_not_supported(&self) -> Option<&str> {
        self.all.iter().find_map(|held| held.health.not_supported())
    }

    /// Whether the server says over one of them that it serves.
    pub(super) fn is_health_confirmed(&self) -> bool {
        self.all.iter().any(|held| held.health.is_confirmed())
    }

    /// Checks the health of all in this way from now on.
    pub(super) fn check_health(&mut self, asked: &Asked) {
        self.all.iter_mut().for_each(|held| held.health.follow(&held.connection, asked.clone()));
    }

    /// Adds one as the youngest.
    pub(super) fn push(&mut self, held: Held) {
        if self.all.len() == 1 {
            self.next_check = Instant::now() + self.unused_after / CHECKS;
        }
        self.all.push(held);
    }

    /// Waits until one takes no more calls, or its health changes.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it loses nothing. One that it says is closing has to be removed.
    pub(super) async fn event(&mut self) -> HeldEvent {
        std::future::poll_fn(|cx| {
            let mut all = self.all.iter_mut().enumerate();
            let closing = all.find_map(|(index, held)| match held.closing.as_mut().poll(cx) {
                Poll::Ready(reason) => Some(HeldEvent::Closing(index, reason)),
                Poll::Pending => None,
            });
            if let Some(closing) = closing {
                return Poll::Ready(closing);
            }
            let changed = self.all.iter_mut().filter_map(|held| held.health.poll_changed(cx).is_ready().then_some(()));
            if changed.count() > 0 { Poll::Ready(HeldEvent::Health) } else { Poll::Pending }
        })
        .await
    }

    /// Removes the one at this index. The next one is the first, if it was that.
    pub(super) fn remove(&mut self, index: usize) -> Held {
        self.all.remove(index)
    }

    /// Removes those beyond so many: the unhealthy ones first, then those whose health is not known, then the youngest. The calls
    /// over them go on: each closes after its last.
    pub(super) fn keep(&mut self, most: usize) {
        let value = |held: &Held| match held.health.health() {
            Health::Healthy => 2,
            Health::Unknown => 1,
            Health::Unhealthy => 0,
        };
        while self.all.len() > most.max(1) {
            let all = self.all.iter().enumerate();
            let Some((index, _)) = all.min_by_key(|(index, held)| (value(held), Reverse(*index))) else { return };
            self.all.remove(index);
        }
    }

    /// When to call [`HeldConnections::take_unused`]. Never, while there is one.
    pub(super) fn next_check(&self) -> Option<Instant> {
        (self.all.len() > 1).then_some(self.next_check)
    }

    /// Removes those that nobody uses, but the oldest healthy one, or the oldest if none is. Calls that have just begun over one go on:
    /// it closes after the last.
    pub(super) fn take_unused(&mut self) -> Vec<Held> {
        let (now, unused_after) = (Instant::now(), self.unused_after);
        self.next_check = now + unused_after / CHECKS;
        let is_healthy = |held: &Held| held.health.health() == Health::Healthy;
        let (kept, mut index) = (self.all.iter().position(is_healthy).unwrap_or(0), 0);
        let is_over = |held: &mut Held| {
            index += 1;
            // Asked of each: it also notes the calls.
            held.is_unused(now, unused_after) && index - 1 != kept
        };
        self.all.extract_if(.., is_over).collect()
    }
}
