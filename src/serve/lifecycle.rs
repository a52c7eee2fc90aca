//! The life of a server, from its first connection to its last.
//!
//! The order of leaving matters. The key goes first, so that clients turn away while every call is
//! still answered. The health service says `NOT_SERVING` next, for clients that watch it instead of
//! etcd. GOAWAY comes last: a client that sees it opens no more streams, and those in flight end in
//! order. The docs of [`serve`](crate::serve) draw its states.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Error as ServerError;

use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::{PauseReason, Registration};
use crate::serve::advertise::plan::AddressPlan;
use crate::serve::advertise::route::{self, RouteError};
use crate::serve::connections::registry::OpenConnections;
#[cfg(unix)]
use crate::serve::connections::socket_file::SocketFile;
use crate::serve::health::check;
#[cfg(feature = "tonic-health")]
use crate::serve::health::reporter::{self, FollowedName};
use crate::serve::options::{Departure, Serve};
use crate::serve::state::ServeState;
use crate::target::Target;

/// How long tonic's server may take to notice that all of its connections were closed.
const FINISH: Duration = Duration::from_secs(1);

/// A server that serves: its options, and what was derived from them.
pub(super) struct Lifecycle<'a> {
    /// What the user has set.
    pub(super) options: &'a Serve,
    /// The services, with checked targets.
    pub(super) services: Vec<ServedService>,
    /// How the addresses to register are found.
    pub(super) plan: AddressPlan,
}

/// A service whose target was checked.
pub(super) struct ServedService {
    pub(super) target: Target,
    #[cfg(feature = "tonic-health")]
    pub(super) health_name: Option<String>,
}

/// Makes tonic's server close its listener and send GOAWAY.
pub(super) struct StopSignal {
    /// Dropping it begins tonic's graceful shutdown.
    pub(super) sender: oneshot::Sender<()>,
    /// The file of a Unix socket, which is removed before the listener is closed.
    #[cfg(unix)]
    pub(super) file: Option<SocketFile>,
}

impl StopSignal {
    /// Closes the listener, and makes tonic send GOAWAY on every connection.
    fn send(self) {
        // The file first: while the listener is open, no other file can have its inode number, so the check is exact.
        #[cfg(unix)]
        self.file.into_iter().for_each(SocketFile::remove);
        drop(self.sender);
    }
}

/// Why a server leaves.
enum Exit {
    /// tonic's server ended by itself.
    Server(Result<(), ServerError>),
    /// The signal came, or nothing more can be accepted.
    Requested,
    /// The server cannot be registered.
    Refused(Error),
}

impl Lifecycle<'_> {
    /// Runs from the first connection to the last.
    pub(super) async fn run(
        self,
        server: impl Future<Output = Result<(), ServerError>>,
        connections: OpenConnections,
        stop: StopSignal,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut server = pin!(server);
        let exit = {
            let requested = async {
                tokio::select! {
                    () = shutdown => {}
                    () = self.options.control.stop_requested() => {}
                    () = connections.exhausted() => {}
                }
            };
            tokio::select! {
                biased;
                ended = &mut server => Exit::Server(ended),
                () = requested => Exit::Requested,
                refused = self.serve_registered(&connections) => match refused {
                    Ok(never) => match never {},
                    Err(error) => Exit::Refused(error),
                },
            }
        };
        let result = match exit {
            Exit::Server(ended) => {
                tracing::warn!(error = ended.as_ref().err().map(tracing::field::display), "server ended by itself");
                stop.send();
                let ended = ended.map_err(Error::server);
                ended.as_ref().err().into_iter().for_each(|error| self.options.control.set_failed(error));
                self.options.control.set_state(ServeState::Leaving);
                // No propagation and no drain: it answers nobody any more.
                drop(self.deregister().await);
                return ended;
            }
            Exit::Requested => Ok(()),
            Exit::Refused(error) => {
                self.options.control.set_failed(&error);
                Err(error)
            }
        };
        let stopped = self.stop(server, connections, stop).await;
        result.and(stopped)
    }

    /// Registers the server once it is ready, and checks its health. Ends only with what refuses
    /// the registration.
    async fn serve_registered(&self, connections: &OpenConnections) -> Result<Infallible, Error> {
        let control = &self.options.control;
        connections.accepting().await;
        let addresses = self.addresses().await?;
        if let Some(ready) = &self.options.ready {
            check::pass(control, "readiness check", ready).await;
        }
        if let Some((_, healthy)) = &self.options.healthy {
            check::pass(control, "health check", healthy).await;
        }
        let instance = self.instance(addresses)?;
        let mut registrations = Vec::new();
        #[cfg(feature = "tonic-health")]
        let mut followed = Vec::new();
        for service in &self.services {
            let options = self.options.registration.clone().paused(control.is_paused());
            #[cfg(feature = "tonic-health")]
            let options = {
                let (names, mut options) = (service.followed_names(self.options.health.as_ref()), options);
                for (reason, name) in &names {
                    options = options.pause_reason(*reason, !name.serves().await);
                }
                followed.push(names);
                options
            };
            registrations.push((service.target.clone(), instance.clone(), options));
        }
        // No await from here until the control has the registrations: a stop in between would not find them.
        let updating = control.begin_update().await;
        let registrations = self.options.registrar.register_all(registrations)?;
        // Ends the followers with this future.
        #[cfg(feature = "tonic-health")]
        let mut followers = tokio::task::JoinSet::new();
        #[cfg(feature = "tonic-health")]
        for (registration, names) in registrations.iter().zip(followed) {
            for (reason, name) in names {
                let pause = registration.pause_handle();
                followers.spawn(name.follow(move |serves| pause.set(reason, !serves)));
            }
        }
        let pauses: Vec<_> = registrations.iter().map(Registration::pause_handle).collect();
        control.set_registrations(updating, registrations);
        control.set_state(ServeState::Serving);
        tracing::info!(instance = ?instance.addresses(), "server ready, registering");
        let Some((every, healthy)) = &self.options.healthy else { std::future::pending().await };
        let report = |passes: bool| {
            pauses.iter().for_each(|pause| pause.set(PauseReason::HealthCheck, !passes));
        };
        Ok(check::repeat(*every, healthy, report).await)
    }

    /// The addresses to register. Retries while they are unknown, as before DNS or a network
    /// interface is up.
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let (mut backoff, began, mut warned) = (Backoff::new(fastrand::u64(..)), Instant::now(), false);
        loop {
            let etcd = self.options.registrar.etcd_hosts().await;
            match route::addresses(&self.plan, etcd.as_deref()).await {
                Ok(addresses) => {
                    if warned {
                        self.options.control.set_state(ServeState::Starting { why: None });
                    }
                    return Ok(addresses);
                }
                Err(RouteError::Refused(error)) => return Err(error),
                Err(RouteError::NotYet(error)) => {
                    let wait = backoff.fail(began.elapsed(), false);
                    let retry_in_ms = wait.as_millis();
                    if std::mem::replace(&mut warned, true) {
                        tracing::debug!(%error, retry_in_ms, "address to register still unknown");
                    } else {
                        tracing::warn!(%error, retry_in_ms, "address to register unknown, retrying");
                    }
                    self.options.control.set_state(ServeState::Starting { why: Some(error) });
                    sleep(wait).await;
                }
            }
        }
    }

    /// The instance at these addresses, with what [`Serve::describe`] and updates made of it.
    fn instance(&self, addresses: Vec<Address>) -> Result<Instance, Error> {
        let mut addresses = addresses.into_iter();
        let first = addresses.next().ok_or_else(|| Error::invalid("address to advertise", "", "there is none"))?;
        let instance = addresses.try_fold(Instance::at(first), Instance::with_address)?;
        let instance = instance.with_zone_or(crate::zone::from_env);
        let check = |instance: &Instance| {
            let of_service =
                |service: &ServedService| (service.target.clone(), instance.clone(), self.options.registration.clone());
            self.options.registrar.check_all(&self.services.iter().map(of_service).collect::<Vec<_>>())
        };
        self.options.control.apply_changes(instance, &check)
    }

    /// Leaves the directory, answers the calls in flight, and stops. Each step has its limit; the
    /// server serves meanwhile.
    async fn stop(
        &self,
        mut server: Pin<&mut impl Future<Output = Result<(), ServerError>>>,
        connections: OpenConnections,
        stop: StopSignal,
    ) -> Result<(), Error> {
        let mut leaving = pin!(self.leave());
        tokio::select! {
            biased;
            ended = &mut server => {
                drop(leaving.await);
                return ended.map_err(Error::server);
            }
            left = &mut leaving => self.options.control.set_state(ServeState::Draining { why: left.err() }),
        }
        tracing::info!(connections = connections.count(), "server draining, no more calls accepted");
        connections.before_goaway();
        stop.send();
        let drained = async {
            tokio::select! {
                biased;
                ended = &mut server => ended,
                never = connections.close_idle() => match never {},
            }
        };
        let ended = if let Ok(ended) = timeout(self.options.drain, drained).await {
            ended
        } else {
            let (count, uncounted) = (connections.count(), connections.uncounted());
            let drain_ms = self.options.drain.as_millis();
            if uncounted == 0 || uncounted < count {
                tracing::warn!(connections = count, drain_ms, "drain ended with calls in flight, closing connections");
            } else {
                tracing::warn!(
                    connections = count,
                    drain_ms,
                    "drain ended, closing TLS connections of uncounted calls"
                );
            }
            drop(connections);
            timeout(FINISH, server).await.unwrap_or(Ok(()))
        };
        tracing::info!("server stopped");
        ended.map_err(Error::server)
    }

    /// Takes the server out of the directory and waits until clients have seen that.
    async fn leave(&self) -> Result<(), Error> {
        let options = self.options;
        options.control.set_state(ServeState::Leaving);
        let visibilities: Vec<_> =
            options.control.with_registrations(|all| all.iter().map(Registration::visibility).collect());
        let marked = match options.departure {
            Departure::Deregister => false,
            Departure::MarkDraining => self.mark_draining().await,
        };
        if marked {
            sleep(options.propagation).await;
        }
        let left = self.deregister().await;
        // If it was never in etcd or left before, no client knows it; if it could not leave, no client turns away.
        let waits = visibilities.iter().map(|visibility| visibility.until_forgotten(options.propagation));
        let wait = waits.max().unwrap_or_default();
        if !marked && left.is_ok() && !wait.is_zero() {
            sleep(wait).await;
        }
        #[cfg(feature = "tonic-health")]
        if let Some(reporter) = &options.health {
            let names = self.services.iter().filter_map(|service| service.health_name.as_deref());
            reporter::set_not_serving(reporter, names).await;
        }
        left
    }

    /// How long deregistering may take. With a mark, each of the two steps has half of the time.
    fn deregister_within(&self) -> Duration {
        match self.options.departure {
            Departure::Deregister => self.options.deregister_within,
            Departure::MarkDraining => self.options.deregister_within / 2,
        }
    }

    /// Deregisters all services within one limit.
    async fn deregister(&self) -> Result<(), Error> {
        let registrations = self.options.control.take_registrations();
        let (began, limit) = (Instant::now(), self.deregister_within());
        // All leave before the first is waited for, so that the lease is revoked with all of them.
        registrations.iter().for_each(Registration::leave);
        let mut result = Ok(());
        for registration in registrations {
            let service = registration.target().name().to_owned();
            let closed = registration.wait_closed(limit.saturating_sub(began.elapsed()), limit).await;
            if let Err(error) = &closed {
                tracing::warn!(service, ?error, "deregistration failed, the key stays until its lease ends");
            }
            result = result.and(closed);
        }
        result
    }

    /// Marks all services as draining. Whether clients see the mark of every service that they may
    /// know.
    async fn mark_draining(&self) -> bool {
        let (control, began) = (&self.options.control, Instant::now());
        let (waiters, unmarked) = control.with_registrations(|registrations| {
            let (registered, others): (Vec<_>, Vec<_>) =
                registrations.iter().partition(|registration| registration.is_registered());
            let unmarked = others.iter().any(|registration| registration.visibility().may_be_visible());
            (registered.into_iter().map(Registration::waiter).collect::<Vec<_>>(), unmarked)
        });
        if waiters.is_empty() {
            return false;
        }
        let mut marked = control.mark_draining(self.deregister_within()).await;
        for waiter in waiters {
            let left = self.deregister_within().saturating_sub(began.elapsed());
            if marked.is_ok() {
                marked = waiter.wait_ready(left).await;
            }
        }
        if let Err(error) = &marked {
            tracing::warn!(?error, "draining mark failed, leaving without it");
        }
        marked.is_ok() && !unmarked
    }
}

#[cfg(feature = "tonic-health")]
impl ServedService {
    /// The names of the health service that decide over this service: the whole server, and its
    /// own.
    fn followed_names(
        &self,
        reporter: Option<&tonic_health::server::HealthReporter>,
    ) -> Vec<(PauseReason, FollowedName)> {
        let Some(reporter) = reporter else { return Vec::new() };
        let server = (PauseReason::ServerHealth, FollowedName::new(reporter, reporter::SERVER));
        let own = self.health_name.iter().map(|name| (PauseReason::ServiceHealth, FollowedName::new(reporter, name)));
        std::iter::once(server).chain(own).collect()
    }
}
