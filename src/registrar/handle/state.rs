//! How a registration stands, as its user sees it.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;
use crate::registrar::lease::RegistrationStatus;

/// How a registration stands.
///
/// "In etcd" is what etcd has acknowledged and the lease still holds. A key that is deleted or overwritten by hand is put
/// again at once, where the role may watch it, and otherwise within a minute, unseen; where that is undone again and again,
/// once in a second.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Never yet in etcd: it is being tried.
    #[non_exhaustive]
    Registering {
        /// What went wrong so far.
        why: Option<Error>,
    },
    /// In etcd.
    Registered,
    /// In etcd, and not yet as it was changed last: updated, or paused.
    #[non_exhaustive]
    Updating {
        /// What went wrong with it so far.
        why: Option<Error>,
    },
    /// In etcd, and the last renewal of the lease failed: it is being tried again.
    #[non_exhaustive]
    Renewing {
        /// What went wrong.
        why: Error,
    },
    /// No longer in etcd, or not renewed for as long as the lease lives: it is being registered again, unless the runtime
    /// that did so has ended.
    #[non_exhaustive]
    Lost {
        /// What went wrong.
        why: Error,
    },
    /// Another instance has put the key: see [`Conflict`](crate::Conflict). It is registered when the key is free.
    #[non_exhaustive]
    Held {
        /// Which instance.
        why: Error,
    },
    /// Not in etcd for as long as it is paused, or does not serve.
    #[non_exhaustive]
    Paused {
        /// What keeps it out.
        why: Error,
    },
    /// Deregistered.
    Closed,
}

impl RegistrationState {
    pub(crate) fn new(standing: RegistrationStatus, why: Option<Error>) -> Self {
        let known = |why: Option<Error>| why.unwrap_or_else(|| Error::closed("the lease"));
        match standing {
            RegistrationStatus::Pending => Self::Registering { why },
            RegistrationStatus::Registered => Self::Registered,
            RegistrationStatus::Updating => Self::Updating { why },
            RegistrationStatus::Held => Self::Held { why: known(why) },
            RegistrationStatus::Paused => Self::Paused { why: known(why) },
            RegistrationStatus::Renewing => Self::Renewing { why: known(why) },
            RegistrationStatus::Lost => Self::Lost { why: known(why) },
            RegistrationStatus::Closed => Self::Closed,
        }
    }

    /// Whether it stands in etcd, as far as is known: registered, and perhaps being updated or late with a renewal.
    pub fn is_in_etcd(&self) -> bool {
        self.is_as_wanted() || matches!(self, Self::Updating { .. })
    }

    /// What is wrong, where something is, or what keeps it out.
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Registering { why } | Self::Updating { why } => why.as_ref(),
            Self::Renewing { why } | Self::Lost { why } | Self::Held { why } | Self::Paused { why } => Some(why),
            Self::Registered | Self::Closed => None,
        }
    }

    pub(crate) fn is_as_wanted(&self) -> bool {
        matches!(self, Self::Registered | Self::Renewing { .. })
    }
}

/// How a registration stands, numbered, so that what is older never covers what is newer.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) number: u64,
    pub(crate) state: RegistrationState,
}

impl Published {
    pub(crate) fn first() -> Self {
        Self { number: 0, state: RegistrationState::Registering { why: None } }
    }
}

/// The changes of [`RegistrationState`], beginning with how it stands now.
#[must_use = "a stream does nothing unless it is polled"]
pub struct RegistrationStates {
    updates: WatchStream<Published>,
}

impl RegistrationStates {
    pub(crate) fn new(seen: watch::Receiver<Published>) -> Self {
        Self { updates: WatchStream::new(seen) }
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
