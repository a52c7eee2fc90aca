//! One registration: what its user holds.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::Shared;
use super::lease::{Id, Standing};
use crate::error::Error;
use crate::instance::Instance;
use crate::target::Target;

/// How long [`Registration::deregister`] waits.
const DEREGISTER: Duration = Duration::from_secs(5);

/// How a registration stands.
///
/// "In etcd" is what etcd has acknowledged and the lease still holds. That another deletes or overwrites the key by hand is
/// not seen here.
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
    /// Deregistered.
    Closed,
}

impl RegistrationState {
    pub(super) fn new(standing: Standing, why: Option<Error>) -> Self {
        let known = |why: Option<Error>| why.unwrap_or_else(|| Error::closed("the lease"));
        match standing {
            Standing::Pending => Self::Registering { why },
            Standing::Registered => Self::Registered,
            Standing::Renewing => Self::Renewing { why: known(why) },
            Standing::Lost => Self::Lost { why: known(why) },
            Standing::Closed => Self::Closed,
        }
    }

    fn is_in_etcd(&self) -> bool {
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
    shared: Arc<Shared>,
    id: Id,
    target: Target,
    instance: Instance,
    seen: watch::Receiver<RegistrationState>,
}

impl Registration {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: Id,
        target: Target,
        instance: Instance,
        seen: watch::Receiver<RegistrationState>,
    ) -> Self {
        Self { shared, id, target, instance, seen }
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
        self.shared.state().lease
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

    /// Waits until it stands in etcd.
    ///
    /// # Errors
    /// When that takes longer than `within`. It goes on being tried all the same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        self.wait_for(RegistrationState::is_in_etcd, within, "registering").await
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
        self.shared.leave(self.id);
        let closed = |state: &RegistrationState| matches!(state, RegistrationState::Closed);
        self.wait_for(closed, DEREGISTER, "deregistering").await
    }

    async fn wait_for(
        &self,
        condition: impl FnMut(&RegistrationState) -> bool,
        within: Duration,
        doing: &str,
    ) -> Result<(), Error> {
        let mut seen = self.seen.clone();
        match timeout(within, seen.wait_for(condition)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::closed("the registration")),
            Err(_) => {
                Err(Error::timeout(format!("{doing} {}", self.target), within, self.shared.state().error.clone()))
            }
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.leave(self.id);
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
