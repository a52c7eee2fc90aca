//! gRPC's service config of a channel: where its text comes from (`source.rs`), how it is put into force (`apply.rs`, and
//! `policy.rs` for the policy, which the pool follows), and what users see of it ([`ServiceConfigStatus`]).
//!
//! ```text
//! code, file, watch channel, etcd ──ConfigText──▶ parsed ──▶ the settings of calls, the retry budget, the policy
//!                                                         └ refused: the last good one stays in force
//! ```

pub(crate) mod apply;
pub(crate) mod policy;
pub(crate) mod source;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::timeout;

pub(crate) use crate::balance::config::source::{ConfigSource, ConfigText, ConfigTexts};

use crate::service_config::ServiceConfig;

/// Where a service config comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceConfigSource {
    /// [`BalancedChannelBuilder::service_config`](crate::BalancedChannelBuilder::service_config).
    Code,
    /// [`BalancedChannelBuilder::service_config_file`](crate::BalancedChannelBuilder::service_config_file), with the file's path.
    File(Arc<str>),
    /// [`BalancedChannelBuilder::service_config_updates`](crate::BalancedChannelBuilder::service_config_updates).
    Updates,
    /// [`BalancedChannelBuilder::service_config_from_etcd`](crate::BalancedChannelBuilder::service_config_from_etcd).
    #[non_exhaustive]
    Etcd {
        /// The etcd key.
        key: Arc<str>,
        /// The revision of etcd at which the document was seen.
        revision: i64,
    },
}

impl fmt::Display for ServiceConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code => f.write_str("code"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Updates => f.write_str("updates"),
            Self::Etcd { key, revision } => write!(f, "etcd key {key}, revision {revision}"),
        }
    }
}

/// The service config of a channel, at the time of
/// [`BalancedChannel::service_config`](crate::BalancedChannel::service_config).
#[derive(Clone, Debug, Default)]
pub struct ServiceConfigStatus {
    text: Option<Arc<str>>,
    source: Option<ServiceConfigSource>,
    error: Option<Arc<str>>,
}

impl ServiceConfigStatus {
    /// The document in force, as it was written. `None` if there is none: the settings of the code alone hold.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Where the channel takes its document from. `None` if the builder names no source.
    pub fn source(&self) -> Option<&ServiceConfigSource> {
        self.source.as_ref()
    }

    /// Why the last document was refused, with the path of what is wrong in it, such as
    /// `methodConfig[2].retryPolicy.maxAttempts: must be 2 or more`; or why it could not be read. `None` once a good one has come.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

/// How long a call waits for the first word of the source. A cache file is used after 300 ms.
const FIRST_WORD_WAIT: Duration = Duration::from_secs(1);

/// What a channel keeps of its service config.
#[derive(Default)]
pub(crate) struct AppliedConfig {
    /// For users.
    status: Mutex<ServiceConfigStatus>,
    /// For the pool.
    document: ArcSwapOption<ServiceConfig>,
    /// The first word of the source is still to come, and calls wait for it.
    is_awaited: AtomicBool,
    has_come: Notify,
}

impl AppliedConfig {
    pub(crate) fn status(&self) -> ServiceConfigStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets calls wait for the first word of the source.
    pub(crate) fn expect(&self) {
        self.is_awaited.store(true, Ordering::Release);
    }

    /// Whether it is still to come.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Acquire)
    }

    /// Waits for it, but not for long: a call is not to fail because nobody says how it is to be made.
    pub(crate) async fn wait(&self) {
        let come = self.has_come.notified();
        let mut come = std::pin::pin!(come);
        come.as_mut().enable();
        if self.is_awaited() {
            let _ = timeout(FIRST_WORD_WAIT, come).await;
        }
    }

    /// It has come.
    fn on_word(&self) {
        if self.is_awaited.swap(false, Ordering::AcqRel) {
            self.has_come.notify_waiters();
        }
    }

    /// The document in force, if there is one.
    pub(crate) fn document(&self) -> Option<Arc<ServiceConfig>> {
        self.document.load_full()
    }
}
