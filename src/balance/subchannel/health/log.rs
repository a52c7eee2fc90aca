//! How loud changes of a server's health are logged. PURE.

use std::time::Duration;

/// What was logged of a server's health.
#[derive(Debug, Default)]
pub(in crate::balance::subchannel) struct HealthLog {
    /// It was logged that the server's health cannot be checked.
    pub(super) has_warned: bool,
    /// While the server is unhealthy: how loud that was logged.
    unhealthy: Option<Level>,
    /// When the present period began, and how often the server has become unhealthy in it.
    period: Duration,
    times: u32,
}

/// How loud a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Debug,
}

/// A server that becomes unhealthy more often than [`MOST`] times within this time …
const PERIOD: Duration = Duration::from_secs(60);
/// … is logged at DEBUG for the rest of it: one that flips several times a second would fill the log.
const MOST: u32 = 5;

impl HealthLog {
    /// The server is unhealthy. Returns how loud to log that, if it is news.
    pub(super) fn unhealthy(&mut self, now: Duration) -> Option<Level> {
        if self.unhealthy.is_some() {
            return None;
        }
        if now.saturating_sub(self.period) >= PERIOD {
            (self.period, self.times) = (now, 0);
        }
        self.times += 1;
        self.unhealthy = Some(if self.times <= MOST { Level::Info } else { Level::Debug });
        self.unhealthy
    }

    /// The server is healthy. Returns how loud to log that, if it is news: as loud as the news before.
    pub(super) fn healthy(&mut self) -> Option<Level> {
        self.unhealthy.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_flips_is_logged_a_few_times_a_minute() {
        let mut log = HealthLog::default();
        assert_eq!(log.healthy(), None);
        let mut loud = 0;
        for tenth in 0..1_200 {
            let now = Duration::from_secs(7) + Duration::from_millis(100) * tenth;
            let level = log.unhealthy(now);
            assert_eq!(log.unhealthy(now), None, "no news");
            assert_eq!(log.healthy(), level, "as loud as the news before");
            loud += u32::from(level == Some(Level::Info));
        }
        assert_eq!(loud, 3 * MOST, "the first minute is nearly over when it begins");
        assert_eq!(log.unhealthy(Duration::from_secs(1_000)), Some(Level::Info));
    }
}
