//! One registration: what its user holds.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::gates::{Gate, Switch};
use crate::registrar::handle::readiness::{Known, Readiness};
use crate::registrar::handle::state::Published;
use crate::registrar::lease::Id;
use crate::registrar::shared::Change;
use crate::registrar::{Publication, Registrar, RegistrationState, RegistrationStates};
use crate::target::Target;

/// How long [`Registration::deregister`] waits.
const DEREGISTER: Duration = Duration::from_secs(5);

/// One registered instance. Dropping it deregisters in the background, which works only while its tokio runtime lives. Before
/// `main` returns, wait for [`Registration::deregister`], or for [`Registrar::close`], which is for all registrations at once:
/// otherwise the key stays in etcd until the lease ends, and a warning says so.
///
/// What another has put at its keys since stays, which takes a role that may read them: with one that may only write, the
/// key goes whoever has put it.
#[must_use = "dropping a registration deregisters it in the background, while the runtime lives"]
pub struct Registration {
    registrar: Registrar,
    id: Id,
    target: Target,
    instance: Instance,
    /// The key's name, where it was chosen.
    key: Option<String>,
    seen: watch::Receiver<Published>,
    known: Known,
}

impl Registration {
    pub(crate) fn new(
        registrar: Registrar,
        id: Id,
        (target, instance, key): (Target, Instance, Option<String>),
        (seen, known): (watch::Receiver<Published>, Known),
    ) -> Self {
        Self { registrar, id, target, instance, key, seen, known }
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
        self.seen.borrow().state.clone()
    }

    /// Whether it stands in etcd, as far as is known: etcd has said so, and by our clock the lease lives. That is no lock: another
    /// may have the key since.
    pub fn is_registered(&self) -> bool {
        let lives = self.registrar.shared.state().lease_ends.is_some_and(|ends| Instant::now() < ends);
        lives && self.seen.borrow().state.is_in_etcd()
    }

    /// The registrar's lease, under which it stands once it is registered; none while there is none. etcdctl shows it in
    /// hexadecimal. It may change without a loss: see [`Registration::deregister`].
    pub fn lease_id(&self) -> Option<i64> {
        self.registrar.lease_id()
    }

    /// Changes the instance in place: `|instance| instance.with_weight(3)`. Weight, zone, version and metadata change under the
    /// same key and lease; of other addresses the new ones come before the old ones go. [`Registration::ready`] waits until
    /// it is done.
    ///
    /// # Errors
    /// When `change` gives an error, when what comes of it is refused, as by [`Registrar::register`], or when nothing looks after
    /// the registration any more: it stays as it was.
    pub fn update<R>(&mut self, change: impl FnOnce(Instance) -> R) -> Result<(), Error>
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        let instance = change(self.instance.clone()).try_into()?;
        let change = self.planned().change_to(instance)?;
        let publications = self.registrar.shared.update(std::slice::from_ref(&change))?;
        publications.into_iter().for_each(Publication::send);
        self.instance = change.instance;
        Ok(())
    }

    /// What it takes to change it, for who cannot hold the registration meanwhile: the codec is the user's.
    pub(crate) fn planned(&self) -> Planned {
        Planned { registrar: self.registrar.clone(), id: self.id, target: self.target.clone(), key: self.key.clone() }
    }

    /// Changes several registrations of one registrar, or none: what can be refused is refused before the first change.
    /// Nobody is told before the publications are sent.
    pub(crate) fn change_all(all: &mut [Self], changes: &[Change]) -> Result<Vec<Publication>, Error> {
        let Some(first) = all.first() else { return Ok(Vec::new()) };
        let publications = first.registrar.shared.update(changes)?;
        for registration in all {
            let change = changes.iter().find(|change| change.id == registration.id);
            change.into_iter().for_each(|change| registration.instance.clone_from(&change.instance));
        }
        Ok(publications)
    }

    /// Takes the instance out of etcd until [`Registration::resume`], and keeps a lease for its return.
    /// [`Registration::paused`] waits until it is out: for good, as with [`Registration::deregister`].
    pub fn pause(&self) {
        self.switch().set(Gate::Manual, false);
    }

    /// Ends a [`Registration::pause`].
    pub fn resume(&self) {
        self.switch().set(Gate::Manual, true);
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
        RegistrationStates::new(self.seen.clone())
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
        Ok(self.seen.borrow_and_update().state.clone())
    }

    /// Waits until it stands in etcd as is wanted.
    ///
    /// # Errors
    /// When that takes longer than `within`: the source is what last went wrong, or that the runtime on which the registrar
    /// registered first did not run in that time. When another holds the key ([`Error::is_conflict`]). It goes on being tried
    /// all the same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        self.readiness().wait(within).await
    }

    /// Waits until it is out of etcd, as [`Registration::pause`] and [`Registration::set_serving`] ask.
    ///
    /// # Errors
    /// When that takes longer than `within`, as where etcd is away or nobody asked for it. It goes on being tried all the same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn paused(&self, within: Duration) -> Result<(), Error> {
        let is_out = |state: &RegistrationState| matches!(state, RegistrationState::Paused { .. });
        self.readiness().wait_for(is_out, within, "pausing").await.map(drop)
    }

    /// [`Registration::ready`] for who cannot hold the registration meanwhile.
    pub(crate) fn readiness(&self) -> Readiness {
        Readiness { registrar: self.registrar.clone(), target: self.target.clone(), seen: self.seen.clone() }
    }

    /// Takes the instance out of etcd, and waits up to 5 s until that is done; at once where it never came to be there.
    ///
    /// One of several registrations leaves alone; with the last one of a registrar its lease is revoked, in the
    /// background where that one was not in etcd any more.
    ///
    /// Where a put of it had no answer, it may still arrive, and only the end of its lease excludes that. The registrar then puts
    /// its other registrations under another lease, which they stand under without a gap, and revokes the first: this is waited
    /// for. So it is where the role may not delete the key any more; where etcd does not let it revoke the lease either, the key goes
    /// when that ends, within two of its lives. Where etcd grants no other lease, as while it is full, the key is deleted, this returns, and the lease is left later.
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
        self.left(within, within).await
    }

    /// The same where only so much is left of the time that was given.
    pub(crate) async fn left(self, left: Duration, within: Duration) -> Result<(), Error> {
        self.leave();
        let closed = |state: &RegistrationState| matches!(state, RegistrationState::Closed);
        self.readiness().wait_longer(closed, left, within, "deregistering").await.map(drop)
    }

    /// Whether clients may know it.
    pub(crate) fn known(&self) -> Known {
        self.known.clone()
    }

    /// Begins to leave; it is not waited for.
    pub(crate) fn leave(&self) {
        self.registrar.shared.leave(self.id);
    }
}

/// See [`Registration::planned`].
pub(crate) struct Planned {
    registrar: Registrar,
    id: Id,
    target: Target,
    key: Option<String>,
}

impl Planned {
    /// What stands in etcd then.
    ///
    /// # Errors
    /// As those of [`Registrar::register`]; they name the service.
    pub(crate) fn change_to(self, instance: Instance) -> Result<Change, Error> {
        let records = self.registrar.named_records(&self.target, &instance, self.key.as_deref());
        let records = records.map_err(|error| error.for_service(self.target.name()))?;
        Ok(Change { id: self.id, instance, records })
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
