//! A handle to a server that is served.

use std::collections::VecDeque;
use std::fmt;
use std::mem::discriminant;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;
use crate::instance::Instance;
use crate::panics::catch;
use crate::registrar::{Gate, Publication, Registration, RegistrationState};
use crate::serve::update_lock::{UpdateGuard, UpdateLock};
use crate::target::Target;

/// How far a server has come: it goes from each of these to the next.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServeState {
    /// Not ready, and therefore not yet given to the registrar. It serves nevertheless, from when it is first polled.
    #[non_exhaustive]
    Starting {
        /// What it waits for, once that has failed: a check, or an address that is not known yet.
        why: Option<Error>,
    },
    /// It serves and is registered, as far as etcd and the checks let it: [`ServeControl::registrations`] tells how each
    /// registration stands.
    Serving,
    /// It serves still, and takes itself out of the clients' hands.
    Leaving,
    /// It takes no more calls, and answers those that it has.
    #[non_exhaustive]
    Draining {
        /// What kept it from leaving the directory: it is gone from there when its lease ends.
        why: Option<Error>,
    },
    /// It has ended.
    #[non_exhaustive]
    Stopped {
        /// What serving failed with.
        why: Option<Error>,
    },
}

/// A handle to a server that is served by [`Serve`](crate::serve::Serve): it watches it, pauses it, changes what it says of
/// itself, and stops it. Cheap to clone; it keeps nothing alive.
#[derive(Clone)]
pub struct ServeControl {
    shared: Arc<Shared>,
}

struct Shared {
    /// The steps so far, each as it was last: the last one is how far it has come.
    steps: watch::Sender<Vec<ServeState>>,
    stop: watch::Sender<bool>,
    /// Changes of the instance are made one after the other. The user's code runs in a turn, and never under the lock.
    updates: UpdateLock,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    paused: bool,
    registrations: Vec<Registration>,
    /// What they say, once they are registered.
    instance: Option<Instance>,
    /// What is to be changed of it until then.
    changes: Vec<Change>,
    /// It leaves, and is marked so: that stays, whatever is changed.
    draining: bool,
    /// Why it leaves, where it was not asked to.
    failed: Option<Error>,
    stopped: bool,
}

type Change = Box<dyn FnOnce(Instance) -> Result<Instance, Error> + Send>;

impl Inner {
    /// All registrations are paused, or none is.
    fn gate(&self) -> Vec<Publication> {
        let turn = |registration: &Registration| registration.switch().turn(Gate::Manual, !self.paused);
        self.registrations.iter().filter_map(turn).collect()
    }
}

impl ServeControl {
    pub(super) fn new() -> Self {
        let (steps, stop) = (watch::Sender::new(vec![ServeState::Starting { why: None }]), watch::Sender::new(false));
        Self { shared: Arc::new(Shared { steps, stop, updates: UpdateLock::default(), inner: Mutex::default() }) }
    }

    /// How far it has come.
    pub fn state(&self) -> ServeState {
        last(&self.shared.steps.borrow())
    }

    /// A `tokio_stream::Stream` of how far it has come, now and with each step. However slowly it is read, it skips no step;
    /// of a step whose reason changes, it gives the latest. [`ServeState::Stopped`] is the last.
    pub fn states(&self) -> ServeStates {
        let updates = self.shared.steps.subscribe();
        let told = updates.borrow().len().saturating_sub(1);
        ServeStates { updates: WatchStream::new(updates), told, steps: VecDeque::new(), stopped: false }
    }

    /// How each registration stands; none before it is ready, and none once it has left.
    pub fn registrations(&self) -> Vec<(Target, RegistrationState)> {
        let inner = self.inner();
        inner.registrations.iter().map(|registration| (registration.target().clone(), registration.state())).collect()
    }

    /// What is registered, once it is ready.
    pub fn instance(&self) -> Option<Instance> {
        self.inner().instance.clone()
    }

    /// Whether it serves and each service is in etcd, as far as is known: the flag for a readiness probe. One that is paused, does
    /// not serve, or waits for a key that another holds is not ready. [`Registrar::health`](crate::Registrar::health) has the
    /// flag for a liveness probe: a server must not be restarted because etcd is away.
    pub fn is_ready(&self) -> bool {
        let serves = matches!(self.state(), ServeState::Serving);
        serves && self.inner().registrations.iter().all(Registration::is_registered)
    }

    /// Waits until it serves and each service stands in etcd.
    ///
    /// # Errors
    /// When that takes longer than `within`, another instance holds a key ([`Error::is_conflict`]), or the server leaves or
    /// has ended: what it failed with, or [`Error::is_closed`].
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let mut steps = self.shared.steps.subscribe();
        let come = timeout(within, steps.wait_for(|steps| !matches!(last(steps), ServeState::Starting { .. }))).await;
        match come.map(|steps| steps.map(|steps| last(&steps))) {
            Ok(Ok(ServeState::Serving)) => {}
            Ok(state) => return Err(self.closed(state.ok())),
            Err(_) => {
                let why = match self.state() {
                    ServeState::Starting { why } => why,
                    _ => None,
                };
                return Err(Error::timeout("serving", within, why));
            }
        }
        let waits: Vec<_> = self.inner().registrations.iter().map(Registration::readiness).collect();
        let stand = async {
            for readiness in waits {
                readiness.wait(within.saturating_sub(began.elapsed())).await?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            stand = stand => stand,
            left = steps.wait_for(|steps| !matches!(last(steps), ServeState::Serving)) => {
                Err(self.closed(left.ok().map(|steps| last(&steps))))
            }
        }
    }

    /// What is said of one that does not serve any more.
    fn closed(&self, state: Option<ServeState>) -> Error {
        let why = match state {
            Some(ServeState::Stopped { why }) => why,
            _ => self.inner().failed.clone(),
        };
        why.unwrap_or_else(|| Error::closed("the server"))
    }

    /// It leaves because of that.
    pub(super) fn fail(&self, error: &Error) {
        self.inner().failed = Some(error.clone());
    }

    /// Takes it out of etcd until [`ServeControl::resume`]; it serves on, and keeps its lease. Also before it is ready.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Ends a [`ServeControl::pause`].
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let publications = {
            let mut inner = self.inner();
            inner.paused = paused;
            inner.gate()
        };
        publications.into_iter().for_each(Publication::send);
    }

    /// Changes what the instance says of itself, in place and under the same lease: `|instance| instance.with_weight(3)`.
    /// Before it is ready the change is kept until then. Updates wait for each other: `change` itself must not update by this
    /// handle, and an update within another is refused. One that leaves marked ([`Departure::MarkDraining`](super::Departure)) keeps
    /// the mark, whatever is changed.
    ///
    /// All services change, or none where the change is refused. What etcd refuses then is the matter of each service:
    /// [`ServeControl::registrations`] and the error of [`ServeControl::ready`] say of which.
    ///
    /// # Errors
    /// When `change` gives an error, when what comes of it is refused, as by [`Registration::update`], or when the server has left.
    /// The error names the service. A change that was kept, and gives an error or panics, is logged as a warning and left out. Where what
    /// comes of it is refused when it is registered, as by the codec, [`Serve::serve`](crate::serve::Serve::serve) ends with that.
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
                inner.changes.push(Box::new(|instance| {
                    // Whoever has asked for it was told that it is kept: its panic is nobody's.
                    let changed = catch(|| change(instance.clone()).try_into().map_err(Error::from));
                    let why = match changed {
                        Ok(Ok(changed)) => return Ok(changed),
                        Ok(Err(error)) => error.to_string(),
                        Err(panic) => format!("it panicked: {panic}"),
                    };
                    tracing::warn!(error = why, "a change of the instance is refused, and left out");
                    Ok(instance)
                }));
                return Ok(());
            };
            instance
        };
        let publications = self.become_instance(&updating, change(instance).try_into()?)?;
        drop(updating);
        publications.into_iter().for_each(Publication::send);
        Ok(())
    }

    /// All registrations say that from now on, or none.
    fn become_instance(&self, _updating: &UpdateGuard<'_>, instance: Instance) -> Result<Vec<Publication>, Error> {
        let (planned, draining): (Vec<_>, _) = {
            let inner = self.inner();
            (inner.registrations.iter().map(Registration::planned).collect(), inner.draining)
        };
        let instance = if draining { instance.with_draining(true) } else { instance };
        // The codec is the user's: no lock is held.
        let changes = planned.into_iter().map(|planned| planned.change_to(instance.clone()));
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        let mut inner = self.inner();
        if inner.stopped {
            return Err(Error::closed("the server"));
        }
        let publications = Registration::change_all(&mut inner.registrations, &changes)?;
        inner.instance = Some(instance);
        Ok(publications)
    }

    /// Marks it as one that leaves, for good. An update that is under way comes first: its code is the user's, and may hang.
    pub(super) async fn mark(&self, within: Duration) -> Result<(), Error> {
        self.inner().draining = true;
        let Ok(updating) = timeout(within, self.shared.updates.wait()).await else {
            return Err(Error::timeout_because("marking", within, "an update is still under way".into()));
        };
        let Some(instance) = self.instance() else { return Err(Error::closed("the server")) };
        let publications = self.become_instance(&updating, instance)?;
        drop(updating);
        publications.into_iter().for_each(Publication::send);
        Ok(())
    }

    /// A turn to update, for who may not block.
    pub(super) async fn updating(&self) -> UpdateGuard<'_> {
        self.shared.updates.wait().await
    }

    fn lock_updates(&self) -> Result<UpdateGuard<'_>, Error> {
        let within = || Error::invalid("update", "", "it is made within another update of the same server");
        self.shared.updates.lock().ok_or_else(within)
    }

    /// Asks it to leave and to stop, as the shutdown signal does.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }

    /// Before it is ready: what the instance says of itself.
    pub(super) fn describe<R>(&self, describe: impl FnOnce(Instance) -> R + Send + 'static)
    where
        R: TryInto<Instance>,
        Error: From<R::Error>,
    {
        self.inner().changes.push(Box::new(|instance| Ok(describe(instance).try_into()?)));
    }

    pub(super) async fn asked_to_stop(&self) {
        // The sender lives as long as `self`.
        drop(self.shared.stop.subscribe().wait_for(|stop| *stop).await);
    }

    pub(super) fn show(&self, state: ServeState) {
        let mut before = None; // dropped after the lock: an error may hold what is the user's
        self.shared.steps.send_modify(|steps| {
            // Each step is kept once.
            before = steps.pop_if(|last| discriminant(last) == discriminant(&state));
            steps.push(state);
        });
    }

    /// The instance with all that was changed of it so far.
    pub(super) fn changed(&self, mut instance: Instance) -> Result<Instance, Error> {
        loop {
            let changes = {
                let mut inner = self.inner();
                if inner.changes.is_empty() {
                    inner.instance = Some(instance.clone());
                    return Ok(instance);
                }
                std::mem::take(&mut inner.changes)
            };
            instance = changes.into_iter().try_fold(instance, |instance, change| change(instance))?;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.inner().paused
    }

    /// Takes over what is registered, each for another service; what was asked for meanwhile is done now.
    pub(super) fn hold(&self, updating: UpdateGuard<'_>, registrations: Vec<Registration>) {
        let registered = registrations.first().map(|registration| registration.instance().clone());
        let (mut publications, instance) = {
            let mut inner = self.inner();
            inner.registrations = registrations;
            (inner.gate(), inner.instance.clone())
        };
        if let Some(instance) =
            instance.filter(|instance| registered.as_ref().is_some_and(|registered| registered != instance))
        {
            match self.become_instance(&updating, instance) {
                Ok(changed) => publications.extend(changed),
                // It was asked for a moment ago, when nothing could be said of it.
                Err(error) => {
                    tracing::warn!(%error, "a change of the instance is refused, and left out");
                    self.inner().instance = registered;
                }
            }
        }
        drop(updating);
        publications.into_iter().for_each(Publication::send);
    }

    /// Gives back what is registered: nothing is changed of it any more.
    pub(super) fn release(&self) -> Vec<Registration> {
        let mut inner = self.inner();
        inner.stopped = true;
        std::mem::take(&mut inner.registrations)
    }

    /// Does something with what is registered.
    pub(super) fn with_registrations<T>(&self, of: impl FnOnce(&mut [Registration]) -> T) -> T {
        of(&mut self.inner().registrations)
    }

    /// Whatever becomes of the server, this is its end.
    pub(super) fn stopped_at_drop(&self) -> StoppedAtDrop {
        StoppedAtDrop { control: self.clone(), why: None }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A change of the user's may panic while it is held; every state of it is whole.
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ServeControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeControl").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// How far one has come that has made these steps.
fn last(steps: &[ServeState]) -> ServeState {
    steps.last().cloned().unwrap_or(ServeState::Starting { why: None })
}

/// Deregisters in the background, and shows that it has ended.
pub(super) struct StoppedAtDrop {
    control: ServeControl,
    why: Option<Error>,
}

impl StoppedAtDrop {
    /// What serving has come to.
    pub(super) fn with(mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.why = result.as_ref().err().cloned();
        result
    }
}

impl Drop for StoppedAtDrop {
    fn drop(&mut self) {
        drop(self.control.release());
        self.control.show(ServeState::Stopped { why: self.why.take() });
    }
}

/// The steps of [`ServeState`], beginning with how far it has come now.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ServeStates {
    updates: WatchStream<Vec<ServeState>>,
    /// So many steps were told, and these are to be told next.
    told: usize,
    steps: VecDeque<ServeState>,
    stopped: bool,
}

impl Stream for ServeStates {
    type Item = ServeState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServeState>> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                self.stopped = matches!(step, ServeState::Stopped { .. });
                return Poll::Ready(Some(step));
            }
            if self.stopped {
                return Poll::Ready(None);
            }
            let Some(mut steps) = ready!(Pin::new(&mut self.updates).poll_next(cx)) else { return Poll::Ready(None) };
            // Where there is no step further, the last one has another reason.
            let from = self.told.min(steps.len().saturating_sub(1));
            self.told = steps.len();
            self.steps.extend(steps.drain(from..));
        }
    }
}

impl fmt::Debug for ServeStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServeStates").finish_non_exhaustive()
    }
}
