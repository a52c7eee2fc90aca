//! The pauses between the further connections of a server.

use std::time::Duration;

use tokio::time::Instant;

use crate::balance::subchannel::connect_order::Rank;
use crate::balance::subchannel::reconnect::Reconnect;

/// The shortest pause after a further connection that is unhealthy: longer than after one that could not be made, because the server
/// is there, and has said no.
const UNHEALTHY_PAUSE: Duration = Duration::from_secs(1);

/// When the next further connection may be made. The backoff is as that of first ones, and counts for itself.
pub(super) struct Pause {
    backoff: Reconnect,
    pub(super) until: Option<Instant>,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { backoff: Reconnect::new(), until: None }
    }

    /// Of the next attempt.
    pub(super) fn rank(&self) -> Rank {
        self.backoff.further_rank()
    }

    /// A further connection was made, and calls go over it; or it is unhealthy: then they still wait, and the next one is probably as
    /// this one.
    pub(super) fn after_check(&mut self, is_healthy: bool, connect_timeout: Duration) {
        if is_healthy {
            return self.backoff.connected();
        }
        let next = self.backoff.failed(Duration::ZERO, connect_timeout, fastrand::f64());
        self.until = Some(Instant::now() + next.delay.max(UNHEALTHY_PAUSE));
    }

    /// The one that the attempt that `began` then gave has ended.
    pub(super) fn after_end(&mut self, began: Instant) {
        let next = self.backoff.ended(began.elapsed(), false, fastrand::f64());
        self.until = (!next.delay.is_zero()).then(|| began + next.delay);
    }

    /// The attempt that `began` then has failed. Returns how long the pause is from then on.
    pub(super) fn after_failure(&mut self, began: Instant, connect_timeout: Duration) -> Duration {
        let next = self.backoff.failed(began.elapsed(), connect_timeout, fastrand::f64());
        self.until = Some(began + next.delay);
        next.delay
    }
}
