//! A server's life: ready, registered, checked; then out of the directory, out of the clients' hands, and out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Error as ServerError;

use crate::address::Address;
use crate::backoff::Backoff;
use crate::error::Error;
use crate::instance::Instance;
use crate::registrar::{Conflict, Gate, Registrar, Registration};
use crate::serve::advertise::Plan;
use crate::serve::advertise::route::{self, RouteError};
use crate::serve::connections::sockets::Sockets;
use crate::serve::control::{ServeControl, ServeState};
use crate::serve::gates::checks::{Check, Checked};
#[cfg(feature = "tonic-health")]
use crate::serve::gates::health::{self, Followed};
use crate::serve::{Departure, Stop};
use crate::target::Target;

/// How long tonic's server may take to see that all of its connections have ended.
const END: Duration = Duration::from_secs(1);

/// All that was said, and what follows from it.
pub(super) struct Lifecycle {
    pub(super) registrar: Registrar,
    pub(super) services: Vec<Service>,
    pub(super) plan: Plan,
    pub(super) key: Option<String>,
    pub(super) conflict: Conflict,
    pub(super) ready: Option<Check>,
    pub(super) healthy: Option<(Duration, Check)>,
    #[cfg(feature = "tonic-health")]
    pub(super) health: Option<tonic_health::server::HealthReporter>,
    pub(super) departure: Departure,
    pub(super) deregister_within: Duration,
    pub(super) propagation: Duration,
    pub(super) drain: Duration,
    pub(super) control: ServeControl,
}

/// A service of the server's.
pub(super) struct Service {
    pub(super) target: Target,
    /// The name by which gRPC's health service knows it, where it has one of its own.
    #[cfg(feature = "tonic-health")]
    pub(super) health: Option<String>,
}

/// How serving came to its end.
enum End {
    /// The server ended by itself.
    Server(Result<(), ServerError>),
    Asked,
    /// It cannot be registered.
    Refused(Error),
}

impl Lifecycle {
    /// From the first connection to the last.
    pub(super) async fn run(
        self,
        server: impl Future<Output = Result<(), ServerError>>,
        sockets: Sockets,
        stop: Stop,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut server = pin!(server);
        let end = {
            let asked = async {
                tokio::select! {
                    () = shutdown => {}
                    () = self.control.asked_to_stop() => {}
                    () = sockets.exhausted() => {}
                }
            };
            tokio::select! {
                biased;
                ended = &mut server => End::Server(ended),
                () = asked => End::Asked,
                refused = self.live(&sockets) => match refused {
                    Ok(never) => match never {},
                    Err(error) => End::Refused(error),
                },
            }
        };
        let refused = match end {
            End::Server(ended) => {
                // It answers nobody any more: there is nothing to wait for but etcd.
                tracing::warn!(error = ended.as_ref().err().map(tracing::field::display), "the server ended by itself");
                stop.now();
                let ended = ended.map_err(Error::server);
                ended.as_ref().err().into_iter().for_each(|error| self.control.fail(error));
                self.control.show(ServeState::Leaving);
                drop(self.deregister().await);
                return ended;
            }
            End::Asked => Ok(()),
            End::Refused(error) => {
                self.control.fail(&error);
                Err(error)
            }
        };
        let stopped = self.stop(server, sockets, stop).await;
        refused.and(stopped)
    }

    /// Serves and is registered, until it cannot be.
    async fn live(&self, sockets: &Sockets) -> Result<Infallible, Error> {
        sockets.accepting().await;
        let addresses = self.addresses().await?;
        let check = Checked::new(self.control.clone());
        if let Some(ready) = &self.ready {
            check.pass("readiness check", ready).await;
        }
        if let Some((_, healthy)) = &self.healthy {
            check.pass("health check", healthy).await;
        }
        let instance = self.instance(addresses)?;
        let mut registrations = Vec::new();
        #[cfg(feature = "tonic-health")]
        let mut all_followed = Vec::new();
        for service in &self.services {
            let mut registration = self.registrar.registration(service.target.clone(), instance.clone());
            registration = registration.conflict(self.conflict).gate(Gate::Manual, !self.control.is_paused());
            if let Some(key) = &self.key {
                registration = registration.key(key);
            }
            #[cfg(feature = "tonic-health")]
            {
                let followed = service.followed(self.health.as_ref());
                for (gate, followed) in &followed {
                    registration = registration.gate(*gate, followed.serves().await);
                }
                all_followed.push(followed);
            }
            registrations.push(registration);
        }
        // From here to where they are held nothing is waited for: who stops meanwhile would not find them.
        let updating = self.control.updating().await;
        // All or none: what is refused is refused before the first of them is taken on.
        let registrations = self.registrar.register_all(registrations)?;
        #[cfg(feature = "tonic-health")]
        let mut followers = tokio::task::JoinSet::new();
        #[cfg(feature = "tonic-health")]
        for (registration, followed) in registrations.iter().zip(all_followed) {
            for (gate, followed) in followed {
                let switch = registration.switch();
                followers.spawn(followed.follow(move |serves| switch.set(gate, serves)));
            }
        }
        self.control.hold(updating, registrations);
        let switches = self.control.with_registrations(|all| all.iter().map(Registration::switch).collect::<Vec<_>>());
        self.control.show(ServeState::Serving);
        tracing::info!(instance = ?instance.addresses(), "ready: registering");
        let Some((every, healthy)) = &self.healthy else { std::future::pending().await };
        let tell = |passes| switches.iter().for_each(|switch| switch.set(Gate::Check, passes));
        Ok(check.watch(*every, healthy, tell).await)
    }

    /// Where clients reach it. What is not known yet may come to be.
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let (mut backoff, began, mut is_told) = (Backoff::new(fastrand::u64(..)), Instant::now(), false);
        loop {
            let etcd = self.registrar.etcd_hosts().await;
            match route::addresses(&self.plan, etcd.as_deref()).await {
                Ok(addresses) => {
                    if is_told {
                        self.control.show(ServeState::Starting { why: None });
                    }
                    return Ok(addresses);
                }
                Err(RouteError::Refused(error)) => return Err(error),
                Err(RouteError::NotYet(error)) => {
                    if std::mem::replace(&mut is_told, true) {
                        tracing::debug!(%error, "still no address to register");
                    } else {
                        tracing::warn!(%error, "no address to register yet");
                    }
                    self.control.show(ServeState::Starting { why: Some(error) });
                    sleep(backoff.fail(began.elapsed(), false)).await;
                }
            }
        }
    }

    fn instance(&self, addresses: Vec<Address>) -> Result<Instance, Error> {
        let mut addresses = addresses.into_iter();
        let first = addresses.next().ok_or_else(|| Error::invalid("address to advertise", "", "there is none"))?;
        let instance = addresses.try_fold(Instance::at(first), Instance::with_address)?;
        self.control.changed(instance)
    }

    /// Leaves the directory and the clients' hands, answers what is on its way, and stops. Each step has its limit, and the
    /// server goes on meanwhile.
    async fn stop(
        &self,
        mut server: Pin<&mut impl Future<Output = Result<(), ServerError>>>,
        sockets: Sockets,
        stop: Stop,
    ) -> Result<(), Error> {
        let mut leaving = pin!(self.leave());
        tokio::select! {
            biased;
            ended = &mut server => {
                drop(leaving.await);
                return ended.map_err(Error::server);
            }
            left = &mut leaving => self.control.show(ServeState::Draining { why: left.err() }),
        }
        tracing::info!(connections = sockets.count(), "stopping: no more calls");
        sockets.before_goaway();
        stop.now();
        let drained = async {
            tokio::select! {
                biased;
                ended = &mut server => ended,
                never = sockets.end_idle() => match never {},
            }
        };
        let ended = if let Ok(ended) = timeout(self.drain, drained).await {
            ended
        } else {
            let (connections, uncounted, drain_ms) = (sockets.count(), sockets.uncounted(), self.drain.as_millis());
            if uncounted == 0 || uncounted < connections {
                tracing::warn!(
                    connections,
                    drain_ms,
                    "calls were still on their way at the end of the drain: their connections are closed"
                );
            } else {
                tracing::warn!(
                    connections,
                    drain_ms,
                    "closed TLS connections at the end of the drain; `Serve::count_calls` tells which have calls on their way"
                );
            }
            drop(sockets);
            timeout(END, server).await.unwrap_or(Ok(()))
        };
        tracing::info!("stopped");
        ended.map_err(Error::server)
    }

    async fn leave(&self) -> Result<(), Error> {
        self.control.show(ServeState::Leaving);
        let known: Vec<_> =
            self.control.with_registrations(|registrations| registrations.iter().map(Registration::known).collect());
        let marked = match self.departure {
            Departure::Deregister => false,
            Departure::MarkDraining => self.mark().await,
        };
        if marked {
            sleep(self.propagation).await;
        }
        let left = self.deregister().await;
        // What was never on its way to etcd, or left it before, no client knows; and from what could not leave none turns away.
        let wait = known.iter().map(|known| known.until_forgotten(self.propagation)).max().unwrap_or_default();
        if !marked && left.is_ok() && !wait.is_zero() {
            sleep(wait).await;
        }
        #[cfg(feature = "tonic-health")]
        if let Some(reporter) = &self.health {
            let names = self.services.iter().filter_map(|service| service.health.as_deref());
            health::say_not_serving(reporter, names).await;
        }
        left
    }

    /// How long deregistering may take. A mark before it takes half of that at most.
    fn deregister_within(&self) -> Duration {
        match self.departure {
            Departure::Deregister => self.deregister_within,
            Departure::MarkDraining => self.deregister_within / 2,
        }
    }

    /// Takes everything out of etcd.
    async fn deregister(&self) -> Result<(), Error> {
        let registrations = self.control.release();
        let (began, limit) = (Instant::now(), self.deregister_within());
        // All at once, so that the lease goes with all of them.
        registrations.iter().for_each(Registration::leave);
        let mut done = Ok(());
        for registration in registrations {
            let service = registration.target().name().to_owned();
            let left = registration.left(limit.saturating_sub(began.elapsed()), limit).await;
            if let Err(error) = &left {
                tracing::warn!(service, ?error, "not deregistered: it is gone when its lease ends");
            }
            done = done.and(left);
        }
        done
    }

    /// Marks everything as leaving; whether clients see that of all that they may know.
    async fn mark(&self) -> bool {
        let began = Instant::now();
        let (waits, unseen) = self.control.with_registrations(|registrations| {
            let (there, elsewhere): (Vec<_>, Vec<_>) =
                registrations.iter().partition(|registration| registration.is_registered());
            let unseen = elsewhere.iter().any(|registration| registration.known().may_be());
            (there.into_iter().map(Registration::readiness).collect::<Vec<_>>(), unseen)
        });
        if waits.is_empty() {
            return false;
        }
        let mut done = self.control.mark(self.deregister_within()).await;
        for readiness in waits {
            let left = self.deregister_within().saturating_sub(began.elapsed());
            if done.is_ok() {
                done = readiness.wait(left).await;
            }
        }
        if let Err(error) = &done {
            tracing::warn!(?error, "not marked as draining: it leaves without");
        }
        done.is_ok() && !unseen
    }
}

#[cfg(feature = "tonic-health")]
impl Service {
    /// What decides over it: the server as a whole, and the service itself.
    fn followed(&self, reporter: Option<&tonic_health::server::HealthReporter>) -> Vec<(Gate, Followed)> {
        let Some(reporter) = reporter else { return Vec::new() };
        let server = (Gate::Server, Followed::new(reporter, health::SERVER));
        let own = self.health.iter().map(|name| (Gate::Health, Followed::new(reporter, name)));
        std::iter::once(server).chain(own).collect()
    }
}
