//! Why there is no server, in a sentence. Made when somebody asks, and once for all who ask before anything changes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::channel::Inner;
use super::server::LinkState;

/// The last text, and what it was made from.
#[derive(Default)]
pub(crate) struct Reason(Mutex<Option<(Seen, Arc<str>)>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// The number of the outlook.
    outlook: u64,
    /// Attempts to connect that had failed.
    failures: u64,
}

impl Inner {
    /// Why there is no server, with what last went wrong.
    pub(crate) fn explain(&self) -> Arc<str> {
        let outlook = self.outlook.borrow().clone();
        let seen = Seen { outlook: outlook.number, failures: self.ground.failures.load(Ordering::Relaxed) };
        let mut last = self.reason.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, text)) if *of == seen => text.clone(),
            _ => {
                let text: Arc<str> = outlook.explain(self.last_error().as_deref()).into();
                *last = Some((seen, text.clone()));
                text
            }
        }
    }

    /// What went wrong with the server whose state has changed last, among those that are not connected.
    fn last_error(&self) -> Option<String> {
        let lanes = self.lanes.load();
        let states = lanes.iter().map(|(server, _)| (server, server.link()));
        let failed = states.filter(|(_, link)| link.state != LinkState::Ready && link.error.is_some());
        let (server, link) = failed.max_by_key(|(_, link)| link.since)?;
        link.error.map(|error| format!("{}: {error}", server.address()))
    }
}
