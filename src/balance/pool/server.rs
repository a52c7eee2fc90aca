//! One server that the source names, connected or not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::address::Address;
use crate::balance::pool::entry::PoolEntry;
use crate::balance::pool::select::{CandidateState, RETRY_AFTER, Reason, Verdict, Warmth};
use crate::balance::subchannel::SubchannelState;
use crate::balance::view::{Listed, ServerSelection};
use crate::instance::Instance;

/// A server of the set. It has an entry, and so connections, while the selection has chosen it.
pub(super) struct PoolServer {
    pub(super) address: Address,
    /// The instance that was put last of those that name the address.
    pub(super) instance: Arc<Instance>,
    pub(super) entry: Option<PoolEntry>,
    /// What the last selection has decided.
    pub(super) verdict: Verdict,
    /// For the selection, if the channel has one.
    pub(super) traits: SelectTraits,
    /// Since when it has no entry.
    pub(super) idle_since: Instant,
    /// As it was last listed.
    listed: Option<Arc<Listed>>,
}

/// What a selection needs to know of a server beside its instance and its state.
#[derive(Clone, Copy)]
pub(super) struct SelectTraits {
    pub(super) matches_filter: bool,
    pub(super) rank: u64,
    pub(super) warmth: Warmth,
    /// When it was last seen to fail, since the channel's epoch. `None` once it is ready.
    pub(super) last_failure: Option<Duration>,
}

impl PoolServer {
    /// A server that nobody has connected to yet.
    pub(super) fn new(address: Address, instance: Arc<Instance>, traits: SelectTraits) -> Self {
        let verdict = Verdict { reason: Reason::Selected, partition: 0, tier: 0, factor: 1.0 };
        Self { address, instance, entry: None, verdict, traits, idle_since: Instant::now(), listed: None }
    }

    /// Gives it another instance with the same address. Its connections stay.
    pub(super) fn change_to(&mut self, instance: Arc<Instance>, traits: SelectTraits) {
        if let Some(entry) = &mut self.entry {
            entry.instance = instance.clone();
        }
        (self.instance, self.traits) = (instance, traits);
    }

    /// The server for users, with its values of route keys. The same one as before, unless anything of it has changed.
    pub(super) fn listed(&mut self, route: Option<Arc<str>>) -> Arc<Listed> {
        let now = Listed {
            address: self.address.clone(),
            subchannel: self.entry.as_ref().map(|entry| entry.subchannel.clone()),
            selection: ServerSelection { verdict: self.verdict, route },
            idle_since: self.idle_since,
        };
        let known = self.listed.take().filter(|known| known.is_same(&now));
        self.listed.insert(known.unwrap_or_else(|| Arc::new(now))).clone()
    }

    /// Tells the selection what has become of the server since it was last told.
    pub(super) fn observe(&mut self, now: Duration, epoch: Instant) -> CandidateState {
        let Some(entry) = &self.entry else {
            self.traits.warmth.down(now);
            return CandidateState::Idle;
        };
        let status = entry.subchannel.status();
        let failed = || {
            // One that goes on failing gives others their turn, when that time has passed.
            let since = status.since.saturating_duration_since(epoch);
            let turns = now.saturating_sub(since).as_secs() / RETRY_AFTER.as_secs();
            Some(since + RETRY_AFTER * u32::try_from(turns).unwrap_or(u32::MAX))
        };
        let state = match status.state {
            SubchannelState::Ready(_) if entry.subchannel.is_ejected() => CandidateState::Ejected,
            SubchannelState::Ready(_) => CandidateState::Ready,
            SubchannelState::Unhealthy(_) => {
                self.traits.last_failure = failed();
                CandidateState::Unhealthy
            }
            SubchannelState::TransientFailure => {
                self.traits.last_failure = failed();
                CandidateState::Failing
            }
            SubchannelState::Connecting | SubchannelState::Checking(_) | SubchannelState::Shutdown => {
                CandidateState::Connecting
            }
        };
        match state {
            CandidateState::Ready => {
                self.traits.warmth.ready(now);
                self.traits.last_failure = None;
            }
            // It has taken no calls for lack of OK, and knows its work.
            CandidateState::Ejected => {}
            _ => self.traits.warmth.down(now),
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_listed_anew_only_when_anything_of_it_has_changed() {
        let instance = Arc::new(Instance::new("h:1").unwrap());
        let warmth = Warmth::added(true);
        let traits = SelectTraits { matches_filter: true, rank: 0, warmth, last_failure: None };
        let mut server = PoolServer::new("h:1".parse().unwrap(), instance.clone(), traits);
        let first = server.listed(None);
        server.change_to(instance, traits);
        assert!(Arc::ptr_eq(&first, &server.listed(None)));
        let routed = server.listed(Some("lane=\"blue\"".into()));
        assert!(!Arc::ptr_eq(&first, &routed));
        server.verdict.factor = 0.5;
        assert!(!Arc::ptr_eq(&routed, &server.listed(Some("lane=\"blue\"".into()))));
    }
}
