//! One registration: what its user holds.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use super::Registrar;
use super::gates::{Gate, Switch};
use super::lease::{Id, Standing};
use crate::error::Error;
use crate::instance::Instance;
use crate::target::Target;

/// How long [`Registration::deregister`] waits.
const DEREGISTER: Duration = Duration::from_secs(5);

/// How a registration stands.
///
/// "In etcd" is what etcd has acknowledged and the lease still holds. A key that is deleted or overwritten by hand is put
/// again at once, where the role may watch it, and otherwise within a minute, unseen.
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
    /// In etcd, the latest change of it ([`Registration::update`]) not yet.
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
    Paused,
    /// Deregistered.
    Closed,
}

impl RegistrationState {
    pub(super) fn new(standing: Standing, why: Option<Error>) -> Self {
        let known = |why: Option<Error>| why.unwrap_or_else(|| Error::closed("the lease"));
        match standing {
            Standing::Pending => Self::Registering { why },
            Standing::Registered => Self::Registered,
            Standing::Updating => Self::Updating { why },
            Standing::Held => Self::Held { why: known(why) },
            Standing::Paused => Self::Paused,
            Standing::Renewing => Self::Renewing { why: known(why) },
            Standing::Lost => Self::Lost { why: known(why) },
            Standing::Closed => Self::Closed,
        }
    }

    /// Whether it stands in etcd, as far as is known: registered, and perhaps being updated or late with a renewal.
    pub fn is_in_etcd(&self) -> bool {
        self.is_as_wanted() || matches!(self, Self::Updating { .. })
    }

    /// What is wrong, where something is.
    pub fn why(&self) -> Option<&Error> {
        match self {
            Self::Registering { why } | Self::Updating { why } => why.as_ref(),
            Self::Renewing { why } | Self::Lost { why } | Self::Held { why } => Some(why),
            Self::Registered | Self::Paused | Self::Closed => None,
        }
    }

    fn is_as_wanted(&self) -> bool {
        matches!(self, Self::Registered | Self::Renewing { .. })
    }
}

/// One registered instance. Dropping it deregisters in the background, as far as the runtime lets it; waiting for
/// [`Registration::deregister`] is the sure way.
///
/// What another has put at its keys since stays, which takes a role that may read them: with one that may only write, the
/// key goes whoever has put it.
#[must_use = "dropping a registration deregisters"]
pub struct Registration {
    registrar: Registrar,
    id: Id,
    target: Target,
    instance: Instance,
    /// The key's name, where it was chosen.
    key: Option<String>,
    seen: watch::Receiver<RegistrationState>,
}

impl Registration {
    pub(super) fn new(
        registrar: Registrar,
        id: Id,
        target: Target,
        instance: Instance,
        key: Option<String>,
        seen: watch::Receiver<RegistrationState>,
    ) -> Self {
        Self { registrar, id, target, instance, key, seen }
    }

    /// The service.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// What is registered.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How it stands now.
    pub fn state(&self) -> RegistrationState {
        self.seen.borrow().clone()
    }

    /// Whether it stands in etcd, as far as is known.
    pub fn is_registered(&self) -> bool {
        self.seen.borrow().is_in_etcd()
    }

    /// The registrar's lease, under which it stands once it is registered; none while there is none. etcdctl shows it in
    /// hexadecimal.
    pub fn lease_id(&self) -> Option<i64> {
        self.registrar.lease_id()
    }

    /// Registers it as this instance from now on: weight, zone, version and metadata change in place, under the same lease;
    /// of other addresses the new ones come before the old ones go. [`Registration::ready`] waits until it is done.
    ///
    /// # Errors
    /// When the instance is refused, as by [`Registrar::register`], or nothing looks after the registration any more.
    pub fn update(&mut self, instance: Instance) -> Result<(), Error> {
        let records = self.registrar.named_records(&self.target, &instance, self.key.as_deref())?;
        self.registrar.shared.update(self.id, &instance, records)?;
        self.instance = instance;
        Ok(())
    }

    /// Takes the instance out of etcd until [`Registration::resume`], and keeps the lease for its return.
    pub fn pause(&self) {
        self.switch().set(Gate::Hand, false);
    }

    /// Ends a [`Registration::pause`].
    pub fn resume(&self) {
        self.switch().set(Gate::Hand, true);
    }

    /// Whether the server serves, as its health check says: it is in etcd only while it does, and is not paused. So
    /// assumed at first.
    pub fn set_serving(&self, serves: bool) {
        self.switch().set(Gate::Health, serves);
    }

    pub(crate) fn switch(&self) -> Switch {
        Switch { shared: self.registrar.shared.clone(), id: self.id }
    }

    /// A `tokio_stream::Stream` of how it stands, now and with each change; the latest, for who is slow to read it. It does
    /// not keep the registration alive, and ends with it.
    pub fn states(&self) -> RegistrationStates {
        RegistrationStates { updates: WatchStream::new(self.seen.clone()) }
    }

    /// Waits until it stands differently than when this was last called, and gives how. States that pass quickly may be
    /// skipped; the latest never is.
    ///
    /// # Errors
    /// When the registrar's runtime has ended.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing.
    pub async fn changed(&mut self) -> Result<RegistrationState, Error> {
        self.seen.changed().await.map_err(|_| Error::closed("the registration"))?;
        Ok(self.seen.borrow_and_update().clone())
    }

    /// Waits until it stands in etcd as is wanted.
    ///
    /// # Errors
    /// When that takes longer than `within`, or another holds the key ([`Error::is_conflict`]). It goes on being tried all
    /// the same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        self.readiness().wait(within).await
    }

    /// The same, for who cannot hold the registration meanwhile.
    pub(crate) fn readiness(&self) -> Readiness {
        Readiness { registrar: self.registrar.clone(), target: self.target.clone(), seen: self.seen.clone() }
    }

    /// Takes the instance out of etcd, and waits up to 5 s until that is done; at once where it never came to be there.
    ///
    /// One of several registrations leaves alone; with the last one of a registrar its lease is revoked.
    ///
    /// # Errors
    /// When it takes longer, as when etcd is away. It goes on being tried until etcd answers; the last registration of a
    /// registrar is then gone with its lease, which nobody renews any more, within two of its lives.
    ///
    /// # Cancel safety
    /// Once it was polled, dropping it only ends the waiting.
    pub async fn deregister(self) -> Result<(), Error> {
        self.deregister_within(DEREGISTER).await
    }

    /// The same, and waits for as long as is said.
    ///
    /// # Errors
    /// As those of [`Registration::deregister`].
    ///
    /// # Cancel safety
    /// As that of [`Registration::deregister`].
    pub async fn deregister_within(self, within: Duration) -> Result<(), Error> {
        self.leave();
        let closed = |state: &RegistrationState| matches!(state, RegistrationState::Closed);
        self.readiness().wait_for(closed, within, "deregistering").await.map(drop)
    }

    /// Begins to leave; it is not waited for.
    pub(crate) fn leave(&self) {
        self.registrar.shared.leave(self.id);
    }
}

/// Waits for how a registration stands.
pub(crate) struct Readiness {
    registrar: Registrar,
    target: Target,
    seen: watch::Receiver<RegistrationState>,
}

impl Readiness {
    /// See [`Registration::ready`].
    pub(crate) async fn wait(self, within: Duration) -> Result<(), Error> {
        let stands =
            |state: &RegistrationState| state.is_as_wanted() || matches!(state, RegistrationState::Held { .. });
        match self.wait_for(stands, within, "registering").await? {
            RegistrationState::Held { why } => Err(why),
            _ => Ok(()),
        }
    }

    async fn wait_for(
        mut self,
        condition: impl FnMut(&RegistrationState) -> bool,
        within: Duration,
        doing: &str,
    ) -> Result<RegistrationState, Error> {
        match timeout(within, self.seen.wait_for(condition)).await {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) => Err(Error::closed("the registration")),
            Err(_) => {
                let why = self.registrar.shared.state().error.clone();
                Err(Error::timeout(format!("{doing} {}", self.target), within, why))
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("target", &self.target.to_string())
            .field("instance", &self.instance)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// The changes of [`RegistrationState`], beginning with how it stands now.
#[must_use = "a stream does nothing unless it is polled"]
pub struct RegistrationStates {
    updates: WatchStream<RegistrationState>,
}

impl Stream for RegistrationStates {
    type Item = RegistrationState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RegistrationState>> {
        Pin::new(&mut self.updates).poll_next(cx)
    }
}

impl fmt::Debug for RegistrationStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationStates").finish_non_exhaustive()
    }
}
