//! gRPC's service config of a channel: where its text comes from (`source.rs`), how it is put into force (`apply.rs`, and
//! `policy.rs` for the policy, which the pool follows), what of it has no effect (`unused.rs`), and what users see of it
//! ([`ServiceConfigStatus`]).
//!
//! ```text
//! code, file, watch channel, etcd ──ConfigText──▶ parsed ──▶ the settings of calls, the retry budget, the policy
//!                                                         └ refused: the last good one stays in force
//! ```

pub(crate) mod apply;
#[cfg(test)]
mod first_word_tests;
pub(crate) mod policy;
pub(crate) mod source;
mod unused;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub(crate) use crate::balance::config::source::{ConfigSource, ConfigText, ConfigTexts, TextError};

use crate::balance::method_config::CodeConfig;
use crate::error::Error;
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
        /// The revision of etcd at which the document was seen: that of its last put, or a later one. `None` where there is no
        /// document.
        revision: Option<i64>,
    },
}

impl fmt::Display for ServiceConfigSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code => f.write_str("code"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Updates => f.write_str("updates"),
            Self::Etcd { key, revision: Some(revision) } => write!(f, "etcd key {key}, revision {revision}"),
            Self::Etcd { key, revision: None } => write!(f, "etcd key {key}"),
        }
    }
}

impl ServiceConfigSource {
    /// The place alone, without a document there.
    fn without_revision(mut self) -> Self {
        if let Self::Etcd { revision, .. } = &mut self {
            *revision = None;
        }
        self
    }
}

/// The service config of a channel, at the time of
/// [`BalancedChannel::service_config`](crate::BalancedChannel::service_config).
#[derive(Clone, Debug, Default)]
pub struct ServiceConfigStatus {
    text: Option<Arc<str>>,
    source: Option<ServiceConfigSource>,
    error: Option<(ServiceConfigSource, Arc<str>)>,
    warnings: Arc<[String]>,
}

impl ServiceConfigStatus {
    /// The document in force, as it was written. `None` if there is none: the settings of the code alone hold.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Where the document in force comes from; while there is none, where one is looked for, then without a revision. `None` if
    /// the builder names no source, and until etcd or its cache has said whether there is a document.
    pub fn source(&self) -> Option<&ServiceConfigSource> {
        self.source.as_ref()
    }

    /// Why the last document was refused, with the path of what is wrong in it, such as
    /// `methodConfig[2].retryPolicy.maxAttempts: must be 2 or more`; or why it could not be read. `None` once a good one has come, or
    /// the document was deleted. The document in force, if there is one, is still [`text`](Self::text).
    pub fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(_, error)| &**error)
    }

    /// Where the document of [`error`](Self::error) comes from, with its own revision. [`source`](Self::source) stays that of the
    /// document in force.
    pub fn error_source(&self) -> Option<&ServiceConfigSource> {
        self.error.as_ref().map(|(source, _)| source)
    }

    /// What the document in force says and is probably not meant, or has no effect in this channel. Each begins with its path:
    ///
    /// - what [`check_service_config`] finds: `methodConfig[0].timeOut: is not known here, and is ignored`;
    /// - what the code does not let it say, or says itself: `methodConfig[0].retryPolicy: not used, …`.
    ///
    /// At most 16 of each are listed, then their number. Empty without a document.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Checks a service config before it is put where channels take it from, as
/// [`BalancedChannelBuilder::service_config_from_etcd`](crate::BalancedChannelBuilder::service_config_from_etcd).
///
/// Returns warnings: what is valid, and probably not meant. Each begins with its path. They are fields that are not known (gRPC
/// ignores them, so that a typo would silently set nothing), names with a slash, entries without a name, times and sizes of 0,
/// numbers that count as less, and a `healthCheckConfig` without a `serviceName`. At most 16 are listed, then their number.
///
/// Whether the code of a channel lets the document say all of it is not known here: [`ServiceConfigStatus::warnings`] tells that.
/// `maxAttempts` over 5 is warned of, although a channel whose code allows more attempts takes it as it is.
///
/// ```
/// let document = r#"{"methodConfig": [{"name": [{"service": "shop.Orders"}], "timeOut": "1.5s"}]}"#;
/// let warnings = tonic_etcd::check_service_config(document)?;
/// assert_eq!(warnings, ["methodConfig[0].timeOut: is not known here, and is ignored"]);
/// # Ok::<(), tonic_etcd::Error>(())
/// ```
///
/// # Errors
/// [`Error::is_invalid_argument`] if channels would refuse the document. The error names the path of what is wrong.
pub fn check_service_config(document: &str) -> Result<Vec<String>, Error> {
    check(document, CodeConfig::default().most_attempts())
}

/// The same for a channel whose code allows so many attempts.
pub(crate) fn check(document: &str, most_attempts: u32) -> Result<Vec<String>, Error> {
    match ServiceConfig::read(document.as_bytes(), most_attempts) {
        Ok((_, remarks)) => Ok(remarks.warnings),
        Err(invalid) if invalid.path().is_empty() => {
            let mut beginning: String = document.chars().take(LONGEST_SHOWN).collect();
            if beginning.len() < document.len() {
                beginning.push('…');
            }
            Err(Error::invalid("service config", beginning, invalid.to_string()))
        }
        Err(invalid) => Err(Error::invalid("service config", invalid.path(), invalid.reason())),
    }
}

/// The longest beginning of a document that an error shows, in letters.
const LONGEST_SHOWN: usize = 40;

/// How long a channel waits for the first word of its source. A cache file is used after 300 ms.
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
    /// When they do not wait any longer, counted from when somebody first waits: a runtime may be driven late.
    awaited_until: OnceLock<Instant>,
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

    /// When nobody waits for it any longer: a call is not to fail because nobody says how it is to be made. One time for all calls,
    /// so that the wait is not made again and again while the source is silent.
    pub(crate) fn awaited_until(&self) -> Instant {
        *self.awaited_until.get_or_init(|| Instant::now() + FIRST_WORD_WAIT)
    }

    /// Waits for it, until nobody does any longer, and until this time at most.
    pub(crate) async fn wait(&self, limit: Option<Instant>) {
        let come = self.has_come.notified();
        let mut come = std::pin::pin!(come);
        come.as_mut().enable();
        let until = self.awaited_until();
        let end = limit.map_or(until, |limit| limit.min(until));
        if self.is_awaited() && timeout_at(end, come).await.is_err() && end == until {
            self.go_on();
        }
    }

    /// It has come, and everybody follows it; or nobody waits any longer.
    pub(crate) fn go_on(&self) {
        if self.is_awaited.swap(false, Ordering::AcqRel) {
            self.has_come.notify_waiters();
        }
    }

    /// The document in force, if there is one.
    pub(crate) fn document(&self) -> Option<Arc<ServiceConfig>> {
        self.document.load_full()
    }
}
