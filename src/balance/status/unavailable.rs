//! A cache of the text that explains why no server takes a call.
//!
//! Thousands of waiting calls may fail at the same moment. The text lists states and the last error, and searching an error for
//! addresses is slow, so that it is made once for all of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Address;
use crate::balance::connectivity::ChannelStatus;

/// The last texts, with the version of the state that they describe.
#[derive(Default)]
pub(crate) struct UnavailableText(Mutex<Option<Cached>>);

/// How long texts are used at most: how full servers are changes with each call.
const MAX_AGE: Duration = Duration::from_millis(50);
/// How long they are used at least, whatever the last error is by now: while thousands of servers are down, there is
/// another one all the time, and it takes a look at all of them to find it.
const PACE: Duration = Duration::from_millis(10);

struct Cached {
    version: Version,
    made: Instant,
    texts: Arc<UnavailableTexts>,
}

/// The texts are current as long as neither number has changed, and for [`MAX_AGE`]; for [`PACE`] also if servers have
/// failed since.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    /// [`ChannelStatus::version`].
    status: u64,
    /// The number of attempts to connect that have failed: each may bring another last error.
    connect_failures: u64,
}

impl Cached {
    fn is_current(&self, version: Version) -> bool {
        let lasts = if self.version == version { MAX_AGE } else { PACE };
        self.version.status == version.status && self.made.elapsed() < lasts
    }
}

/// What the texts say beside the status.
pub(crate) struct Details {
    /// Which limits the ready servers are at. `None` if one has room, or none is ready.
    pub(crate) limits: Option<String>,
    /// The last error of a connection or an attempt, and whose it is.
    pub(crate) last_error: Option<(Address, Arc<str>)>,
}

/// One explanation in two forms: the source of a status holds addresses, its message does not.
pub(crate) struct UnavailableTexts {
    pub(crate) with_addresses: String,
    pub(crate) without_addresses: String,
}

impl UnavailableText {
    /// Returns the texts for this status. `details` is called only if they have to be made anew.
    pub(crate) fn get(
        &self,
        status: &ChannelStatus,
        connect_failures: u64,
        details: impl FnOnce() -> Details,
    ) -> Arc<UnavailableTexts> {
        let version = Version { status: status.version, connect_failures };
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some(known) if known.is_current(version) => known.texts.clone(),
            _ => {
                let details = details();
                let text = |addresses| status.explain(&details, addresses);
                let texts = Arc::new(UnavailableTexts { with_addresses: text(true), without_addresses: text(false) });
                *cached = Some(Cached { version, made: Instant::now(), texts: texts.clone() });
                texts
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::advance;

    use super::*;
    use crate::balance::connectivity::DirectoryStatus;

    /// Thousands of servers that are down fail all the time: not each of them is looked for.
    #[tokio::test(start_paused = true)]
    async fn texts_are_made_anew_at_once_for_another_status_and_at_a_pace_for_another_error() {
        let texts = UnavailableText::default();
        let mut status = ChannelStatus::new(Arc::new(DirectoryStatus::new("greeter", None)));
        let made = Cell::new(0);
        let get = |status: &ChannelStatus, failures| {
            texts.get(status, failures, || {
                made.set(made.get() + 1);
                Details { limits: None, last_error: None }
            });
            made.get()
        };
        (0..1_000).for_each(|failures| assert_eq!(get(&status, failures), 1));
        advance(PACE).await;
        assert_eq!([get(&status, 1_000), get(&status, 1_001)], [2, 2]);
        status.version += 1;
        assert_eq!(get(&status, 1_001), 3, "at once");
        advance(PACE * 4).await; // less than MAX_AGE
        assert_eq!(get(&status, 1_001), 3, "nothing has changed");
        advance(PACE).await;
        assert_eq!(get(&status, 1_001), 4, "but how full servers are");
    }
}
