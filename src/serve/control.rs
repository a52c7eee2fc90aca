//! The handle to a served server.
//!
//! It is shared by the user, who may use it from any thread, and by the lifecycle. Changes of the
//! instance are kept until the server knows its address; then they are applied in order, and later
//! ones go to the registrations at once.

use std::fmt;
use std::mem::discriminant;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::instance::Instance;
use crate::panics::catch;
use crate::registrar::{PauseReason, Publication, Registration, RegistrationState};
use crate::serve::series::ServerSeries;
use crate::serve::state::{ServeState, ServeStates};
use crate::serve::update_lock::{UpdateGuard, UpdateLock};
use crate::target::Target;

/// A handle to a server of [`Serve`](crate::Serve): watches it, pauses it, changes its instance,
/// and stops it. Cheap to clone. A handle keeps nothing alive.
///
/// ```no_run
/// # async fn control(registrar: tonic_etcd::Registrar, router: tonic::transport::server::Router) -> Result<(), tonic_etcd::Error> {
/// # let listener = tokio::net::TcpListener::bind("0.0.0.0:50051").await.unwrap();
/// let serve = registrar.service("greeter");
/// let control = serve.control();
/// tokio::spawn(async move {
///     // An operator lowers the weight, and later stops the server.
///     if let Err(error) = control.update(|instance| instance.with_weight(1)) {
///         eprintln!("{error}");
///     }
///     control.stop();
/// });
/// serve.serve(router, listener, std::future::pending()).await
/// # }
/// ```
#[derive(Clone)]
pub struct ServeControl {
    shared: Arc<Shared>,
}

/// What the handles and the server share.
///
/// `inner` is locked for a moment at a time: no user code runs and no task is woken while it is
/// held. An update of the instance runs user code in several steps, so `updates` orders whole
/// updates.
struct Shared {
    /// The steps so far, each with its last reason. The last element is the present state.
    steps: watch::Sender<Vec<ServeState>>,
    stop: watch::Sender<bool>,
    /// Where states are counted, once the server serves.
    series: OnceLock<Arc<ServerSeries>>,
    /// Held for a whole update, while user code runs.
    updates: UpdateLock,
    /// Held for a moment at a time.
    inner: Mutex<Inner>,
}

/// What the handles change, behind the lock.
#[derive(Default)]
struct Inner {
    paused: bool,
    /// One for each service, while the server is registered.
    registrations: Vec<Registration>,
    /// The registered instance, once the server is ready.
    instance: Option<Instance>,
    /// The changes of the instance until then.
    changes: Vec<InstanceChange>,
    /// The server leaves with a mark: it stays, whatever else is changed.
    draining: bool,
    /// Why the server leaves, if nobody has stopped it.
    failed: Option<Error>,
    /// The registrations were taken out. Updates are refused from here on.
    stopped: bool,
}

/// A change of the instance that is kept until the server is ready. Its error ends the server. It is
/// given a function that tells whether an instance can be registered.
type InstanceChange = Box<dyn FnOnce(Instance, &Check<'_>) -> Result<Instance, Error> + Send>;

/// Whether an instance can be registered for all services.
type Check<'a> = dyn Fn(&Instance) -> Result<(), Error> + 'a;

impl Inner {
    /// Pauses or resumes all registrations.
    fn apply_pause(&self) -> Vec<Publication> {
        let set =
            |registration: &Registration| registration.pause_handle().set_unpublished(PauseReason::Manual, self.paused);
        self.registrations.iter().filter_map(set).collect()
    }
}

impl ServeControl {
    pub(super) fn new() -> Self {
        let (steps, stop) = (watch::Sender::new(vec![ServeState::Starting { why: None }]), watch::Sender::new(false));
        let (series, updates, inner) = (OnceLock::new(), UpdateLock::default(), Mutex::default());
        Self { shared: Arc::new(Shared { steps, stop, series, updates, inner }) }
    }

    /// Counts the state in these series from here on. Called once.
    pub(super) fn count_in(&self, series: Arc<ServerSeries>) {
        series.set_state(&self.state());
        let _ = self.shared.series.set(series); // set only here
    }

    /// The present state.
    pub fn state(&self) -> ServeState {
        last(&self.shared.steps.borrow())
    }

    /// A `tokio_stream::Stream` of the states: the present one first, then each step. A slow reader
    /// misses no state that the server was in; of several reasons (`why`) of one state it gets the
    /// latest. [`ServeState::Stopped`] is the last.
    pub fn states(&self) -> ServeStates {
        ServeStates::new(self.shared.steps.subscribe())
    }

    /// The state of each registration. Empty in [`ServeState::Starting`], and after the server has
    /// left.
    pub fn registrations(&self) -> Vec<(Target, RegistrationState)> {
        let inner = self.inner();
        inner.registrations.iter().map(|registration| (registration.target().clone(), registration.state())).collect()
    }

    /// The instance as it is registered, or is about to be. `None` until the address is known and the
    /// first checks have passed.
    pub fn instance(&self) -> Option<Instance> {
        self.inner().instance.clone()
    }

    /// Whether the state is [`ServeState::Serving`] and each service is in etcd, as far as is
    /// known: the flag for a readiness probe of a server of [`Serve`](crate::Serve). A server that
    /// is paused, fails its health check, or waits for a key that another instance holds is not
    /// ready.
    ///
    /// [`RegistrarHealth::is_live`](crate::RegistrarHealth::is_live) is the flag for a liveness
    /// probe: a server must not be restarted because etcd is unavailable.
    pub fn is_ready(&self) -> bool {
        let serves = matches!(self.state(), ServeState::Serving);
        serves && self.inner().registrations.iter().all(Registration::is_registered)
    }

    /// Waits until the state is [`ServeState::Serving`] and each service is in etcd with its last
    /// change. While the server is paused, this waits for [`ServeControl::resume`].
    ///
    /// # Errors
    /// - It takes longer than `within` ([`Error::is_timeout`]).
    /// - Another instance holds a key ([`Error::is_conflict`]).
    /// - The server leaves or has ended: the error with which it ended, or [`Error::is_closed`].
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future only ends the waiting.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let mut steps = self.shared.steps.subscribe();
        let started = steps.wait_for(|steps| !matches!(last(steps), ServeState::Starting { .. }));
        match timeout(within, started).await.map(|steps| steps.map(|steps| last(&steps))) {
            Ok(Ok(ServeState::Serving)) => {}
            Ok(state) => return Err(self.ended_error(state.ok())),
            Err(_) => {
                let why = match self.state() {
                    ServeState::Starting { why } => why,
                    _ => None,
                };
                return Err(Error::timeout("serving", within, why));
            }
        }
        let waiters: Vec<_> = self.inner().registrations.iter().map(Registration::waiter).collect();
        let registered = async {
            for waiter in waiters {
                waiter.wait_ready(within.saturating_sub(began.elapsed())).await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            registered = registered => registered,
            left = steps.wait_for(|steps| !matches!(last(steps), ServeState::Serving)) => {
                Err(self.ended_error(left.ok().map(|steps| last(&steps))))
            }
        }
    }

    /// The error of waiting for a server that no longer serves.
    fn ended_error(&self, state: Option<ServeState>) -> Error {
        let why = match state {
            Some(ServeState::Stopped { why }) => why,
            _ => self.inner().failed.clone(),
        };
        why.unwrap_or_else(|| Error::closed("the server"))
    }

    /// The server leaves because of this error.
    pub(super) fn set_failed(&self, error: &Error) {
        self.inner().failed = Some(error.clone());
    }

    /// Takes the server out of etcd until [`ServeControl::resume`]. The server goes on accepting
    /// calls and keeps its lease. A pause in [`ServeState::Starting`] holds for the registration
    /// too.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Ends a [`ServeControl::pause`].
    pub fn resume(&self) {
        self.set_paused(false);
    }

    /// Works in every state: registrations that come later take the pause from `inner.paused`.
    fn set_paused(&self, paused: bool) {
        let publications = {
            let mut inner = self.inner();
            inner.paused = paused;
            inner.apply_pause()
        };
        publications.into_iter().for_each(Publication::send);
    }

    /// Changes the instance in place, under the same lease: `|instance| instance.with_weight(3)`.
    ///
    /// All services change, or none if the change is refused. In [`ServeState::Starting`] the
    /// change is kept until the server registers. Updates run one after the other. An `update` that
    /// is called from inside `change` is refused. A server that leaves with a mark
    /// ([`Departure::MarkDraining`](crate::Departure::MarkDraining)) keeps the mark.
    ///
    /// If etcd refuses the change later, that may hit one service and not another:
    /// [`ServeControl::registrations`] and the error of [`ServeControl::ready`] name the service.
    ///
    /// # Errors
    /// `change` returns an error, its result is refused as by [`Registration::update`], or the
    /// server has left. The error names the service.
    ///
    /// A kept change has no caller any more. If `change` returns an error or panics, or its result is
    /// refused, that is logged as a warning, and the change is left out: the server registers without
    /// it.
    ///
    /// # Panics
    /// If `change` does, unless it was kept. The instance is then unchanged.
    pub fn update<R>(&self, change: impl FnOnce(Instance) -> R + Send + 'static) -> Result<(), Error>
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        let updating = self.lock_updates()?;
        let instance = {
            let mut inner = self.inner();
            if inner.stopped {
                return Err(Error::closed("the server"));
            }
            let Some(instance) = inner.instance.clone() else {
                inner.changes.push(Box::new(|instance, check| {
                    // The caller was told that the change is kept, so nobody is left to return the error to.
                    let changed = catch(|| change(instance.clone()).try_into().map_err(Error::from));
                    let error =
                        match changed.map(|changed| changed.and_then(|changed| check(&changed).map(|()| changed))) {
                            Ok(Ok(changed)) => return Ok(changed),
                            Ok(Err(error)) => error.to_string(),
                            Err(panic) => format!("it panicked: {panic}"),
                        };
                    tracing::warn!(error, "instance change refused, leaving it out");
                    Ok(instance)
                }));
                return Ok(());
            };
            instance
        };
        let publications = self.set_instance(&updating, change(instance).try_into()?)?;
        drop(updating);
        publications.into_iter().for_each(Publication::send);
        Ok(())
    }

    /// Updates all registrations, or none. The guard shows that no other update runs.
    fn set_instance(&self, _updating: &UpdateGuard<'_>, instance: Instance) -> Result<Vec<Publication>, Error> {
        let (plans, draining): (Vec<_>, _) = {
            let inner = self.inner();
            (inner.registrations.iter().map(Registration::update_plan).collect(), inner.draining)
        };
        let instance = if draining { instance.with_draining(true) } else { instance };
        // Without the lock: the codec is user code.
        let updates = plans.into_iter().map(|plan| plan.apply(instance.clone())).collect::<Result<Vec<_>, _>>()?;
        let mut inner = self.inner();
        if inner.stopped {
            return Err(Error::closed("the server"));
        }
        let publications = Registration::update_all(&mut inner.registrations, &updates)?;
        inner.instance = Some(instance);
        Ok(publications)
    }

    /// Marks the instance as draining, for good. Waits up to `within` for an update in progress,
    /// whose user code may hang.
    pub(super) async fn mark_draining(&self, within: Duration) -> Result<(), Error> {
        self.inner().draining = true;
        let Ok(updating) = timeout(within, self.begin_update()).await else {
            return Err(Error::timeout_because("marking", within, "an update is still in progress".into()));
        };
        let Some(instance) = self.instance() else { return Err(Error::closed("the server")) };
        let publications = self.set_instance(&updating, instance)?;
        drop(updating);
        publications.into_iter().for_each(Publication::send);
        Ok(())
    }

    /// Begins an update without blocking the thread.
    pub(super) async fn begin_update(&self) -> UpdateGuard<'_> {
        self.shared.updates.lock_async().await
    }

    /// Begins an update, after the one that is in progress. Refuses an update within another.
    fn lock_updates(&self) -> Result<UpdateGuard<'_>, Error> {
        let nested = || Error::invalid("update", "", "it is made within another update of the same server");
        self.shared.updates.lock().ok_or_else(nested)
    }

    /// Makes the server leave and stop, as its shutdown signal does. If this is called first,
    /// a later [`Serve::serve`](crate::Serve::serve) stops at once and registers nothing.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// Keeps a change of the instance until the server is ready. Its error ends the server.
    pub(super) fn describe<R>(&self, describe: impl FnOnce(Instance) -> R + Send + 'static)
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        self.inner().changes.push(Box::new(|instance, _| Ok(describe(instance).try_into()?)));
    }

    /// Waits for [`ServeControl::stop`].
    pub(super) async fn stop_requested(&self) {
        // `self` keeps the sender alive, so the wait ends only with the request.
        drop(self.shared.stop.subscribe().wait_for(|stop| *stop).await);
    }

    /// Adds a step, or gives the present one another reason.
    pub(super) fn set_state(&self, state: ServeState) {
        let mut before = None; // dropped after the lock: its error may hold a user's value
        self.shared.steps.send_modify(|steps| {
            before = steps.pop_if(|last| discriminant(last) == discriminant(&state));
            steps.push(state);
        });
        if let Some(series) = self.shared.series.get() {
            series.set_state(&self.state());
        }
    }

    /// Applies the kept changes to the instance. Changes that come meanwhile are applied too:
    /// afterwards none is kept. An update whose result does not pass `check` is left out.
    pub(super) fn apply_changes(&self, mut instance: Instance, check: &Check<'_>) -> Result<Instance, Error> {
        loop {
            let changes = {
                let mut inner = self.inner();
                if inner.changes.is_empty() {
                    inner.instance = Some(instance.clone());
                    return Ok(instance);
                }
                std::mem::take(&mut inner.changes)
            };
            instance = changes.into_iter().try_fold(instance, |instance, change| change(instance, check))?;
        }
    }

    /// Whether registrations begin paused.
    pub(super) fn is_paused(&self) -> bool {
        self.inner().paused
    }

    /// Takes over the registrations, one for each service. Applies a pause or an update that came
    /// between [`ServeControl::apply_changes`] and this.
    pub(super) fn set_registrations(&self, updating: UpdateGuard<'_>, registrations: Vec<Registration>) {
        let registered = registrations.first().map(|registration| registration.instance().clone());
        let (mut publications, instance) = {
            let mut inner = self.inner();
            inner.registrations = registrations;
            (inner.apply_pause(), inner.instance.clone())
        };
        let is_new = |instance: &Instance| registered.as_ref().is_some_and(|registered| registered != instance);
        if let Some(instance) = instance.filter(is_new) {
            match self.set_instance(&updating, instance) {
                Ok(updates) => publications.extend(updates),
                // Its caller has gone: when it was made, nothing was registered that could have refused it.
                Err(error) => {
                    tracing::warn!(%error, "instance change refused, leaving it out");
                    self.inner().instance = registered;
                }
            }
        }
        drop(updating);
        publications.into_iter().for_each(Publication::send);
    }

    /// Takes the registrations out. Updates are refused from here on.
    pub(super) fn take_registrations(&self) -> Vec<Registration> {
        let mut inner = self.inner();
        inner.stopped = true;
        std::mem::take(&mut inner.registrations)
    }

    /// Reads something of the registrations, under the lock.
    pub(super) fn with_registrations<T>(&self, read: impl FnOnce(&[Registration]) -> T) -> T {
        read(&self.inner().registrations)
    }

    /// The guard that shows the end of the server.
    pub(super) fn stopped_at_drop(&self) -> StoppedAtDrop {
        StoppedAtDrop { control: self.clone(), why: None }
    }

    /// Locks the inner state. Not to be held while user code runs or a task is woken.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held, and every state of it is whole.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ServeControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeControl").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// The state after these steps.
fn last(steps: &[ServeState]) -> ServeState {
    steps.last().cloned().unwrap_or(ServeState::Starting { why: None })
}

/// Shows that the server has ended when it is dropped, and deregisters what is left in the
/// background. So the handles show the end also if the future of
/// [`Serve::serve`](crate::Serve::serve) is dropped or panics.
pub(super) struct StoppedAtDrop {
    /// The handle whose server ends.
    control: ServeControl,
    /// What serving failed with.
    why: Option<Error>,
}

impl StoppedAtDrop {
    /// Shows the end with this result.
    pub(super) fn with(mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.why = result.as_ref().err().cloned();
        result
    }
}

impl Drop for StoppedAtDrop {
    fn drop(&mut self) {
        drop(self.control.take_registrations());
        self.control.set_state(ServeState::Stopped { why: self.why.take() });
    }
}
