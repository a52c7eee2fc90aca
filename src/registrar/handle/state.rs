//! The state of a registration, as its user sees it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;
use crate::registrar::lease::RegistrationStatus;

/// The state of a registration.
///
/// "In etcd" means that etcd has acknowledged the keys and that their lease has not ended. A key
/// that somebody deletes or overwrites by hand is put again: at once if the role may watch it;
/// otherwise within a minute, and the state stays `Registered` meanwhile. If that happens again and
/// again, the key is put once a second.
///
/// | state | in etcd | what the registrar does |
/// |---|---|---|
/// | `Registering` | no | puts the keys, with retries |
/// | `Registered` | yes | renews the lease and watches the keys |
/// | `Updating` | yes, without the last change | puts the new version, or deletes the keys for a pause |
/// | `Renewing` | yes | renews the lease again, sooner |
/// | `Lost` | no, or not known | puts the keys again, under a new lease if the old one has ended |
/// | `HeldByOther` | no, another instance has the key | waits until the key is free |
/// | `Paused` | no | renews the lease |
/// | `Closed` | no | nothing |
///
/// [`RegistrationState::why`] has the error or the reason of a state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Not in etcd yet. The registrar retries until it is. Usually `Registered` or `HeldByOther` follows.
    #[non_exhaustive]
    Registering {
        /// The last error, if there was one.
        why: Option<Error>,
    },
    /// In etcd, with the last change.
    Registered,
    /// In etcd, but without the last change (an update or a pause). Usually `Registered` or
    /// `Paused` follows.
    #[non_exhaustive]
    Updating {
        /// The last error, if there was one.
        why: Option<Error>,
    },
    /// In etcd, but the last renewal of the lease failed. The registrar retries. `Registered`
    /// follows, or `Lost` once the lease may have ended.
    #[non_exhaustive]
    Renewing {
        /// Why the renewal failed.
        why: Error,
    },
    /// No longer in etcd, or not known to be there because the lease was not renewed in time. It is
    /// registered again, unless the runtime that maintained it has ended: then this is the last
    /// state.
    #[non_exhaustive]
    Lost {
        /// What happened.
        why: Error,
    },
    /// Another instance holds the key: see [`Conflict`](crate::Conflict). This one is registered
    /// once the key is free.
    #[non_exhaustive]
    HeldByOther {
        /// Which instance holds it.
        why: Error,
    },
    /// Not in etcd, because it is paused or its health check fails.
    #[non_exhaustive]
    Paused {
        /// The reasons.
        why: Error,
    },
    /// Deregistered. This is the last state.
    Closed,
}

impl RegistrationState {
    /// The state for a status of the machine. `why` is present for each status that needs one.
    pub(crate) fn new(status: RegistrationStatus, why: Option<Error>) -> Self {
        let known = |why: Option<Error>| why.unwrap_or_else(|| Error::closed("the lease"));
        match status {
            RegistrationStatus::Pending => Self::Registering { why },
            RegistrationStatus::Registered => Self::Registered,
            RegistrationStatus::Updating => Self::Updating { why },
            RegistrationStatus::HeldByOther => Self::HeldByOther { why: known(why) },
            RegistrationStatus::Paused => Self::Paused { why: known(why) },
            RegistrationStatus::Renewing => Self::Renewing { why: known(why) },
            RegistrationStatus::Lost => Self::Lost { why: known(why) },
            RegistrationStatus::Closed => Self::Closed,
        }
    }

    /// Whether the instance is in etcd, as far as is known: registered, and perhaps being updated
    /// or renewed.
    pub fn is_in_etcd(&self) -> bool {
        self.is_as_desired() || matches!(self, Self::Updating { .. })
    }

    /// The error of the state, or what keeps the instance out of etcd.
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Registering { why } | Self::Updating { why } => why.as_ref(),
            Self::Renewing { why } | Self::Lost { why } | Self::HeldByOther { why } | Self::Paused { why } => Some(why),
            Self::Registered | Self::Closed => None,
        }
    }

    /// Whether etcd has the desired records.
    pub(crate) fn is_as_desired(&self) -> bool {
        matches!(self, Self::Registered | Self::Renewing { .. })
    }
}

/// A state with a number, so that an older publication never replaces a newer one.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) state: RegistrationState,
}

impl Published {
    /// The state before anything is known.
    pub(crate) fn first() -> Self {
        Self { number: 0, state: RegistrationState::Registering { why: None } }
    }
}

/// A stream of [`RegistrationState`]: the present one first, then each change. From
/// [`Registration::states`](crate::Registration::states).
#[must_use = "a stream does nothing unless it is polled"]
pub struct RegistrationStates {
    updates: WatchStream<Published>,
}

impl RegistrationStates {
    pub(super) fn new(states: watch::Receiver<Published>) -> Self {
        Self { updates: WatchStream::new(states) }
    }
}

impl Stream for RegistrationStates {
    type Item = RegistrationState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RegistrationState>> {
        Pin::new(&mut self.updates).poll_next(cx).map(|published| published.map(|published| published.state))
    }
}

impl fmt::Debug for RegistrationStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationStates").finish_non_exhaustive()
    }
}
