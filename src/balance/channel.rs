//! What all clones of a channel share.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use http::uri::Authority;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use crate::address::Address;
use crate::balance::builder::timeouts::Timeouts;
use crate::balance::call::retry::{Budget, RetryPolicy};
use crate::balance::connectivity::ChannelStatus;
use crate::balance::policy::{PickNotifier, Policy};
use crate::balance::pool::ready::Published;
use crate::balance::queue::Queue;
use crate::balance::runtime::pause::PauseDetector;
use crate::balance::status::call_error::CallError;
use crate::balance::status::unavailable::Reason;
use crate::balance::subchannel::Subchannel;
use crate::balance::subchannel::cost::Fleet;
use crate::balance::subchannel::outlier::OutlierDetection;
use crate::balance::subchannel::supervisor::ConnectContext;

pub(crate) struct Inner {
    pub(crate) ready: ArcSwap<Published>,
    /// All servers, connected or not.
    pub(crate) subchannels: ArcSwap<Vec<Arc<Subchannel>>>,
    pub(crate) outlook: watch::Sender<ChannelStatus>,
    pub(crate) ground: Arc<ConnectContext>,
    pub(crate) settings: Settings,
    /// Wakes calls that wait because the picker said so.
    pub(crate) pick_notifier: PickNotifier,
    pub(crate) pauses: PauseDetector,
    pub(crate) budget: Budget,
    /// Where the clock of the servers' costs begins, and that of pauses.
    pub(crate) epoch: Instant,
    pub(super) fleet: Fleet,
    /// Where calls wait for a server: who comes later waits behind them.
    pub(crate) queue: Arc<Queue>,
    pub(crate) reason: Reason,
}

impl Inner {
    /// The time since its epoch, at that time.
    pub(crate) fn since_epoch(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }
}

/// What does not change while a channel lives.
pub(crate) struct Settings {
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) retry: RetryPolicy,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) timeouts: Timeouts,
    pub(crate) wait_for_ready: bool,
    pub(crate) wait_limit: Duration,
    pub(crate) replay_limit: usize,
    pub(crate) authority: Option<Authority>,
    pub(crate) user_agent: HeaderValue,
    pub(crate) addresses_in_statuses: bool,
}

impl Settings {
    /// A status as callers get it.
    pub(crate) fn tell(&self, status: Status) -> Status {
        if self.addresses_in_statuses { CallError::exposed(status) } else { status }
    }

    /// What stands in `:authority`; every parsed address has one.
    pub(crate) fn authority_of(&self, address: &Address) -> Option<Authority> {
        self.authority.clone().or_else(|| address.authority().parse().ok())
    }
}
