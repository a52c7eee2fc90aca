//! The handle of one registration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::entry::{Publication, Visibility};
use crate::registrar::handle::state::{Published, RegistrationState, RegistrationStates};
use crate::registrar::handle::waiter::StateWaiter;
use crate::registrar::lease::Id;
use crate::registrar::pause::PauseReason;
use crate::registrar::records::records;
use crate::registrar::shared::{PauseHandle, RegistrationUpdate, Shared};
use crate::target::Target;

/// How long [`Registration::deregister`] waits: longer than an election of etcd takes.
const DEREGISTER: Duration = Duration::from_secs(5);

/// One registered instance.
///
/// Dropping it deregisters the instance in the background, which works only while its tokio runtime
/// lives. Before `main` returns, wait for [`Registration::deregister`], or for
/// [`Registrar::close`](crate::Registrar::close), which takes out all registrations at once.
/// Otherwise the key stays in etcd until the lease ends, and a warning says so.
///
/// Deregistering does not delete a key that another instance has put since. For that the role must be
/// allowed to read the key: with permission to write only, the registrar deletes the key whoever
/// has put it.
///
/// ```no_run
/// # async fn change(mut registration: tonic_etcd::Registration) -> Result<(), tonic_etcd::Error> {
/// use std::time::Duration;
///
/// // From now on this server gets a third of the calls that a server of weight 3 gets.
/// registration.update(|instance| instance.with_weight(1))?;
/// // No new calls come here from the pause to the resumption.
/// registration.pause();
/// registration.paused(Duration::from_secs(5)).await?;
/// // … warm the cache …
/// registration.resume();
/// registration.ready(Duration::from_secs(5)).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a registration deregisters it in the background, while the runtime lives"]
pub struct Registration {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Id,
    /// The service.
    pub(super) target: Target,
    pub(super) instance: Instance,
    /// The name of the key, if it was chosen.
    pub(super) key: Option<String>,
    /// The published states. `changed` marks them as seen, which `ready` and the like do not.
    pub(super) states: watch::Receiver<Published>,
    /// Set by the task, read by a server that leaves.
    pub(super) visibility: Visibility,
}

impl Registration {
    /// The service.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The registered instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The present state.
    pub fn state(&self) -> RegistrationState {
        self.states.borrow().state.clone()
    }

    /// Whether the instance is in etcd, as far as is known: etcd has acknowledged it, and by our
    /// clock the lease has not expired. This is no lock: another instance may have put the key
    /// since.
    pub fn is_registered(&self) -> bool {
        let is_live = self.shared.state().lease_expires_at.is_some_and(|at| Instant::now() < at);
        is_live && self.states.borrow().state.is_in_etcd()
    }

    /// The id of the registrar's lease, or `None` while there is none. `etcdctl` shows it in
    /// hexadecimal. It may change while the registration stays in etcd, if another registration
    /// leaves: see "late puts" at [`Registration::deregister`].
    pub fn lease_id(&self) -> Option<i64> {
        self.shared.state().lease
    }

    /// Changes the instance in place: `|instance| instance.with_weight(3)`.
    ///
    /// Returns immediately; [`Registration::ready`] waits until etcd has the change. Weight, zone,
    /// version and metadata change under the same key and lease. If addresses change, the new keys
    /// are put before the old ones are deleted.
    ///
    /// # Errors
    /// `change` returns an error, its result is refused as by
    /// [`Registrar::register`](crate::Registrar::register), or the registration is no longer
    /// maintained ([`Error::is_closed`]). The registration is then unchanged.
    ///
    /// # Panics
    /// If `change` does. The registration is then unchanged.
    pub fn update<R>(&mut self, change: impl FnOnce(Instance) -> R) -> Result<(), Error>
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        let instance = change(self.instance.clone()).try_into()?;
        let update = self.update_plan().apply(instance)?;
        let publications = self.shared.update(std::slice::from_ref(&update))?;
        publications.into_iter().for_each(Publication::send);
        self.instance = update.instance;
        Ok(())
    }

    /// What an update needs, for callers that must not hold the registration while the codec (user
    /// code) runs.
    pub(crate) fn update_plan(&self) -> UpdatePlan {
        let (target, key) = (self.target.clone(), self.key.clone());
        UpdatePlan { shared: self.shared.clone(), id: self.id, target, key }
    }

    /// Applies updates of several registrations of one registrar: all, or none. The caller sends
    /// the publications.
    pub(crate) fn update_all(all: &mut [Self], updates: &[RegistrationUpdate]) -> Result<Vec<Publication>, Error> {
        let Some(first) = all.first() else { return Ok(Vec::new()) };
        let publications = first.shared.update(updates)?;
        for registration in all {
            if let Some(update) = updates.iter().find(|update| update.id == registration.id) {
                registration.instance.clone_from(&update.instance);
            }
        }
        Ok(publications)
    }

    /// Takes the instance out of etcd until [`Registration::resume`]. The lease is kept for its
    /// return.
    ///
    /// Returns immediately; [`Registration::paused`] waits until the key is deleted and no late put
    /// can bring it back (see [`Registration::deregister`]).
    pub fn pause(&self) {
        self.pause_handle().set(PauseReason::Manual, true);
    }

    /// Ends a [`Registration::pause`].
    pub fn resume(&self) {
        self.pause_handle().set(PauseReason::Manual, false);
    }

    /// Sets whether the server is healthy (`serves`), as a health check of yours says. True at
    /// first. The instance is in etcd only while this is true and the registration is not paused.
    pub fn set_serving(&self, serves: bool) {
        self.pause_handle().set(PauseReason::ServiceHealth, !serves);
    }

    /// Pauses the registration without holding it: for tasks that follow a health service.
    pub(crate) fn pause_handle(&self) -> PauseHandle {
        PauseHandle { shared: self.shared.clone(), id: self.id }
    }

    /// A `tokio_stream::Stream` of the states: the present one first, then each change. A slow
    /// reader skips to the latest. The stream does not keep the registration alive, and ends with
    /// it.
    pub fn states(&self) -> RegistrationStates {
        RegistrationStates::new(self.states.clone())
    }

    /// Waits for a change of the state since this method last returned, and returns the new state.
    /// The first call waits for the first change since the registration was made, and returns at
    /// once if there was one; [`Registration::state`] has the present state. States that pass
    /// quickly may be skipped; the latest never is.
    ///
    /// # Errors
    /// The registrar's runtime has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no change is lost.
    pub async fn changed(&mut self) -> Result<RegistrationState, Error> {
        self.states.changed().await.map_err(|_| Error::closed("the registration"))?;
        Ok(self.states.borrow_and_update().state.clone())
    }

    /// Waits until the instance is in etcd, with its last update. While it is paused, this waits
    /// for [`Registration::resume`].
    ///
    /// # Errors
    /// - It takes longer than `within` ([`Error::is_timeout`]). The source is the last error or the
    ///   reason of a pause, or says that the runtime on which the registrar first registered did
    ///   not run in that time.
    /// - Another instance holds the key ([`Error::is_conflict`]).
    ///
    /// The registrar goes on trying in each case.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future only ends the waiting.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        self.waiter().wait_ready(within).await
    }

    /// Waits until the instance is out of etcd, after [`Registration::pause`] or
    /// `set_serving(false)`.
    ///
    /// # Errors
    /// It takes longer than `within` ([`Error::is_timeout`]), because etcd is unavailable or the
    /// registration is not paused. If it is paused, the removal is retried all the same.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future only ends the waiting.
    pub async fn paused(&self, within: Duration) -> Result<(), Error> {
        let is_paused = |state: &RegistrationState| matches!(state, RegistrationState::Paused { .. });
        self.waiter().wait_for(is_paused, within, within, "pausing").await.map(drop)
    }

    /// Waits for a state without holding the registration.
    pub(crate) fn waiter(&self) -> StateWaiter {
        StateWaiter { shared: self.shared.clone(), target: self.target.clone(), states: self.states.clone() }
    }

    /// Takes the instance out of etcd, and waits for that up to 5 s: longer than an election of
    /// etcd takes. Returns at once if the instance was never in etcd.
    ///
    /// If the registrar has other registrations, only the keys of this one are deleted. With the
    /// last registration the lease is revoked too. If the keys had left etcd before, this does not
    /// wait for the revocation.
    ///
    /// **Late puts.** A put without a response may still be applied after the deletion. Only the
    /// end of its lease rules that out. So in this case the registrar moves its other registrations
    /// to a new lease, without a gap, and revokes the old one. This method waits for that, unless
    /// etcd grants no new lease, as while it is full: then the key is deleted, this method returns,
    /// and the lease is replaced later.
    ///
    /// **A key that may not be deleted.** If the role may no longer write the key, the registrar
    /// replaces the lease too, and tries to revoke it. etcd refuses that as well while the lease holds
    /// a key that the role may not write. The key then stays until the old lease ends: that lease is no
    /// longer renewed.
    ///
    /// # Errors
    /// It takes longer ([`Error::is_timeout`]), as when etcd is unavailable. The removal is retried
    /// until it succeeds. If it was the last registration, the lease is no longer renewed, and the
    /// keys go when the lease ends ([`RegistrarBuilder::ttl`](crate::RegistrarBuilder::ttl) says
    /// when).
    ///
    /// # Cancel safety
    /// Dropping the future only ends the waiting: the registration leaves in any case.
    pub async fn deregister(self) -> Result<(), Error> {
        self.deregister_within(DEREGISTER).await
    }

    /// Deregisters as [`Registration::deregister`] does, and waits up to `within`.
    ///
    /// # Errors
    /// As [`Registration::deregister`].
    ///
    /// # Cancel safety
    /// As [`Registration::deregister`].
    pub async fn deregister_within(self, within: Duration) -> Result<(), Error> {
        self.wait_closed(within, within).await
    }

    /// Deregisters, and waits up to `left`, which remains of `within`.
    pub(crate) async fn wait_closed(self, left: Duration, within: Duration) -> Result<(), Error> {
        self.leave();
        let is_closed = |state: &RegistrationState| matches!(state, RegistrationState::Closed);
        self.waiter().wait_for(is_closed, left, within, "deregistering").await.map(drop)
    }

    /// Whether clients may know it.
    pub(crate) fn visibility(&self) -> Visibility {
        self.visibility.clone()
    }

    /// Begins to deregister without waiting.
    pub(crate) fn leave(&self) {
        self.shared.leave(self.id);
    }
}

/// What an update of a registration needs. See [`Registration::update_plan`].
pub(crate) struct UpdatePlan {
    shared: Arc<Shared>,
    /// Its id in the registrar's shared state.
    id: Id,
    target: Target,
    key: Option<String>,
}

impl UpdatePlan {
    /// Makes the records of another instance. Runs the codec, which is user code: no lock may be
    /// held.
    ///
    /// # Errors
    /// As [`Registrar::register`](crate::Registrar::register); they name the service.
    pub(crate) fn apply(self, instance: Instance) -> Result<RegistrationUpdate, Error> {
        let records = records(&*self.shared.codec, &self.target, &instance, self.key.as_deref());
        let records = records.map_err(|error| error.for_service(self.target.name()))?;
        Ok(RegistrationUpdate { id: self.id, instance, records })
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
