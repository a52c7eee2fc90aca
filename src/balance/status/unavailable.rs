//! Why there is no server, in a sentence. Made when somebody asks, and once for all who ask before anything changes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::channel::Inner;
use crate::balance::status;
use crate::balance::subchannel::SubchannelState;

/// The last texts, and what they were made from.
#[derive(Default)]
pub(crate) struct Reason(Mutex<Option<(Seen, Arc<Texts>)>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The number of the outlook.
    outlook: u64,
    /// Attempts to connect that had failed.
    failures: u64,
}

struct Texts {
    with_addresses: String,
    without: String,
}

impl Inner {
    /// Why there is no server, with what last went wrong, and with addresses.
    pub(crate) fn explain(&self) -> String {
        self.texts().with_addresses.clone()
    }

    /// The status of a call that ends for that reason; `before` begins its text.
    pub(crate) fn status(&self, code: Code, before: &str) -> Status {
        let texts = self.texts();
        status::unplaced(code, format!("{before}{}", texts.with_addresses), &format!("{before}{}", texts.without))
    }

    fn texts(&self) -> Arc<Texts> {
        let outlook = self.outlook.borrow().clone();
        let seen = Seen { outlook: outlook.number, failures: self.ground.failures.load(Ordering::Relaxed) };
        let mut last = self.reason.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, texts)) if *of == seen => texts.clone(),
            _ => {
                let error = self.last_error();
                let text = |addresses| outlook.explain(error.as_ref(), addresses);
                let texts = Arc::new(Texts { with_addresses: text(true), without: text(false) });
                *last = Some((seen, texts.clone()));
                texts
            }
        }
    }

    /// What went wrong with the server whose state has changed last, among those that are not connected.
    fn last_error(&self) -> Option<(Address, String)> {
        let subchannels = self.subchannels.load();
        let statuses = subchannels.iter().map(|subchannel| (subchannel, subchannel.status()));
        let failed = statuses
            .filter(|(_, status)| !matches!(status.state, SubchannelState::Ready(_)) && status.last_error.is_some());
        let (subchannel, status) = failed.max_by_key(|(_, status)| status.since)?;
        status.last_error.map(|error| (subchannel.address().clone(), error))
    }
}
