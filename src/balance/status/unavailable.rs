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

struct Cached {
    version: Version,
    made: Instant,
    texts: Arc<UnavailableTexts>,
}

/// The texts are current as long as neither number has changed, and for [`MAX_AGE`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    /// [`ChannelStatus::version`].
    status: u64,
    /// The number of attempts to connect that have failed: each may bring another last error.
    connect_failures: u64,
}

/// What the texts say beside the status.
pub(crate) struct Details {
    /// Which limits the ready servers are at. `None` if one has room, or none is ready.
    pub(crate) limits: Option<String>,
    /// The last error of a connection or an attempt, and whose it is.
    pub(crate) last_error: Option<(Address, String)>,
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
            Some(known) if known.version == version && known.made.elapsed() < MAX_AGE => known.texts.clone(),
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
