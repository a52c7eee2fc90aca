//! A cache of the text that explains why no server takes a call.
//!
//! Thousands of waiting calls may fail at the same moment. The text lists states and the last error, and searching an error for
//! addresses is slow, so that it is made once for all of them.

use std::sync::{Arc, Mutex, PoisonError};

use crate::address::Address;
use crate::balance::connectivity::ChannelStatus;

/// The last texts, with the version of the state that they describe.
#[derive(Default)]
pub(crate) struct UnavailableText(Mutex<Option<(Version, Arc<UnavailableTexts>)>>);

/// The texts are current as long as neither number has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    /// [`ChannelStatus::version`].
    status: u64,
    /// The number of attempts to connect that have failed: each may bring another last error.
    connect_failures: u64,
}

/// One explanation in two forms: the source of a status holds addresses, its message does not.
pub(crate) struct UnavailableTexts {
    pub(crate) with_addresses: String,
    pub(crate) without_addresses: String,
}

impl UnavailableText {
    /// Returns the texts for this status. `last_error` is called only if they have to be made anew.
    pub(crate) fn get(
        &self,
        status: &ChannelStatus,
        connect_failures: u64,
        last_error: impl FnOnce() -> Option<(Address, String)>,
    ) -> Arc<UnavailableTexts> {
        let version = Version { status: status.version, connect_failures };
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((of, texts)) if *of == version => texts.clone(),
            _ => {
                let error = last_error();
                let text = |addresses| status.explain(error.as_ref(), addresses);
                let texts = Arc::new(UnavailableTexts { with_addresses: text(true), without_addresses: text(false) });
                *cached = Some((version, texts.clone()));
                texts
            }
        }
    }
}
