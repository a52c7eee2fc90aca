//! The handles: the real ones, each with a twin that is asked for as long as they live.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio_stream::Stream;
use tonic::transport::Endpoint;
use tonic_etcd as real;
use tonic_etcd::codec::Codec;
use tonic_etcd::metrics::Metrics;
use tonic_etcd::{Address, BalancedChannel, Error, EtcdClient, EtcdOptions, MassLoss, Serve, ServeControl, Target};

use crate::probe::{Probe, probe};

/// See [`real::Resolver`].
#[derive(Clone)]
pub struct Resolver(Arc<real::Resolver>);

/// See [`real::ResolverBuilder`].
#[derive(Debug)]
#[must_use]
pub struct ResolverBuilder(real::ResolverBuilder);

/// See [`real::Resolution`].
pub struct Resolution {
    real: real::Resolution,
    twin: Arc<Resolved>,
}

/// See [`real::Registrar`].
#[derive(Clone)]
pub struct Registrar(Arc<Registered>);

/// See [`real::RegistrarBuilder`].
#[derive(Debug)]
#[must_use]
pub struct RegistrarBuilder(real::RegistrarBuilder);

struct Resolved {
    resolution: real::Resolution,
    channels: Mutex<Vec<BalancedChannel>>,
}

struct Registered {
    registrar: real::Registrar,
    /// Of the servers that it serves.
    controls: Mutex<Vec<ServeControl>>,
}

fn push<T>(all: &Mutex<Vec<T>>, one: T) {
    all.lock().unwrap_or_else(PoisonError::into_inner).push(one);
}

fn all<T: Clone>(all: &Mutex<Vec<T>>) -> Vec<T> {
    all.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Takes what a stream has now.
fn look<T>(stream: impl Stream<Item = T>) {
    let mut cx = Context::from_waker(Waker::noop());
    drop(pin!(stream).poll_next(&mut cx));
}

impl Probe for real::Resolver {
    fn ask(&self) {
        drop(format!("{self:?}"));
    }
}

impl Probe for Resolved {
    fn ask(&self) {
        let Self { resolution, channels } = self;
        let (snapshot, error) = (resolution.snapshot(), resolution.last_error());
        let counts = (snapshot.revision(), snapshot.len(), snapshot.unreadable());
        drop(format!("{resolution:?} {counts:?} {error:?} {:?} {}", resolution.state(), resolution.target()));
        drop(format!("{:?}", resolution.stats()));
        let discover = resolution.discover();
        drop(format!("{discover:?}"));
        for channel in all(channels) {
            drop(format!("{channel:?} {:?}", channel.servers()));
            look(channel.states());
        }
    }
}

impl Probe for Registered {
    fn ask(&self) {
        let Self { registrar, controls } = self;
        let health = registrar.health();
        let flags = (health.is_ready(), health.is_live(), health.missing(), registrar.lease_id());
        drop(format!("{registrar:?} {health:?} {flags:?} {:?} {:?}", health.last_error(), registrar.stats()));
        for control in all(controls) {
            let (state, registrations) = (control.state(), control.registrations());
            let registrations: Vec<_> = registrations
                .iter()
                .map(|(target, state)| (target.to_string(), state.is_in_etcd(), state.why()))
                .collect();
            drop(format!("{control:?} {state:?} {registrations:?} {:?}", (control.instance(), control.is_ready())));
            look(control.states());
        }
    }
}

impl Resolver {
    fn probed(real: real::Resolver) -> Self {
        let real = Arc::new(real);
        probe(&real);
        Self(real)
    }

    /// See [`real::Resolver::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        real::Resolver::connect(etcd).await.map(Self::probed)
    }

    /// See [`real::Resolver::connect_lazy`].
    ///
    /// # Errors
    /// As there.
    pub fn connect_lazy(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        real::Resolver::connect_lazy(etcd).map(Self::probed)
    }

    /// See [`real::Resolver::new`].
    pub fn new(client: EtcdClient) -> Self {
        Self::probed(real::Resolver::new(client))
    }

    /// See [`real::Resolver::builder`].
    pub fn builder(etcd: impl Into<EtcdOptions>) -> ResolverBuilder {
        ResolverBuilder(real::Resolver::builder(etcd))
    }

    /// See [`real::Resolver::resolve`].
    ///
    /// # Errors
    /// As there.
    pub fn resolve<T>(&self, target: T) -> Result<Resolution, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.0.resolve(target).map(Resolution::probed)
    }
}

impl Deref for Resolver {
    type Target = real::Resolver;

    fn deref(&self) -> &real::Resolver {
        &self.0
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Each method of a builder stands here as well: one that is missing is one line more.
impl ResolverBuilder {
    /// See [`real::ResolverBuilder::from_client`].
    pub fn from_client(client: EtcdClient) -> Self {
        Self(real::ResolverBuilder::from_client(client))
    }

    /// See [`real::ResolverBuilder::cache`].
    pub fn cache(self, directory: impl Into<PathBuf>) -> Self {
        Self(self.0.cache(directory))
    }

    /// See [`real::ResolverBuilder::cache_max_age`].
    pub fn cache_max_age(self, age: Duration) -> Self {
        Self(self.0.cache_max_age(age))
    }

    /// See [`real::ResolverBuilder::codec`].
    pub fn codec(self, codec: impl Codec) -> Self {
        Self(self.0.codec(codec))
    }

    /// See [`real::ResolverBuilder::configure_endpoint`].
    pub fn configure_endpoint<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        self,
        configure: impl Fn(&Address, Endpoint) -> Result<Endpoint, E> + Send + Sync + 'static,
    ) -> Self {
        Self(self.0.configure_endpoint(configure))
    }

    /// See [`real::ResolverBuilder::control_prefix`].
    pub fn control_prefix(self, prefix: impl Into<String>) -> Self {
        Self(self.0.control_prefix(prefix))
    }

    /// See [`real::ResolverBuilder::mass_loss`].
    pub fn mass_loss(self, options: MassLoss) -> Self {
        Self(self.0.mass_loss(options))
    }

    /// See [`real::ResolverBuilder::metrics`].
    pub fn metrics(self, metrics: impl Into<Metrics>) -> Self {
        Self(self.0.metrics(metrics))
    }

    /// See [`real::ResolverBuilder::unix_sockets`].
    pub fn unix_sockets(self, allowed: bool) -> Self {
        Self(self.0.unix_sockets(allowed))
    }

    /// See [`real::ResolverBuilder::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(self) -> Result<Resolver, Error> {
        self.0.connect().await.map(Resolver::probed)
    }

    /// See [`real::ResolverBuilder::connect_lazy`].
    ///
    /// # Errors
    /// As there.
    pub fn connect_lazy(self) -> Result<Resolver, Error> {
        self.0.connect_lazy().map(Resolver::probed)
    }
}

impl Resolution {
    fn probed(real: real::Resolution) -> Self {
        let twin = Arc::new(Resolved { resolution: real.clone(), channels: Mutex::default() });
        probe(&twin);
        Self { real, twin }
    }

    /// See [`real::Resolution::channel`].
    ///
    /// # Errors
    /// As there.
    pub fn channel(&self) -> Result<BalancedChannel, Error> {
        let channel = self.real.channel()?;
        push(&self.twin.channels, channel.clone());
        Ok(channel)
    }
}

impl Clone for Resolution {
    fn clone(&self) -> Self {
        Self { real: self.real.clone(), twin: self.twin.clone() }
    }
}

impl Deref for Resolution {
    type Target = real::Resolution;

    fn deref(&self) -> &real::Resolution {
        &self.real
    }
}

impl DerefMut for Resolution {
    fn deref_mut(&mut self) -> &mut real::Resolution {
        &mut self.real
    }
}

impl fmt::Debug for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.real.fmt(f)
    }
}

impl Registrar {
    fn probed(registrar: real::Registrar) -> Self {
        let registered = Arc::new(Registered { registrar, controls: Mutex::default() });
        probe(&registered);
        Self(registered)
    }

    /// See [`real::Registrar::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        real::Registrar::connect(etcd).await.map(Self::probed)
    }

    /// See [`real::Registrar::connect_lazy`].
    ///
    /// # Errors
    /// As there.
    pub fn connect_lazy(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        real::Registrar::connect_lazy(etcd).map(Self::probed)
    }

    /// See [`real::Registrar::new`].
    pub fn new(client: EtcdClient) -> Self {
        Self::probed(real::Registrar::new(client))
    }

    /// See [`real::Registrar::builder`].
    pub fn builder(etcd: impl Into<EtcdOptions>) -> RegistrarBuilder {
        RegistrarBuilder(real::Registrar::builder(etcd))
    }

    /// See [`real::Registrar::service`].
    pub fn service<T>(&self, target: T) -> Serve
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let serve = self.0.registrar.service(target);
        push(&self.0.controls, serve.control());
        serve
    }
}

impl Deref for Registrar {
    type Target = real::Registrar;

    fn deref(&self) -> &real::Registrar {
        &self.0.registrar
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.registrar.fmt(f)
    }
}

/// As [`ResolverBuilder`].
impl RegistrarBuilder {
    /// See [`real::RegistrarBuilder::from_client`].
    pub fn from_client(client: EtcdClient) -> Self {
        Self(real::RegistrarBuilder::from_client(client))
    }

    /// See [`real::RegistrarBuilder::ttl`].
    pub fn ttl(self, ttl: Duration) -> Self {
        Self(self.0.ttl(ttl))
    }

    /// See [`real::RegistrarBuilder::metrics`].
    pub fn metrics(self, metrics: impl Into<Metrics>) -> Self {
        Self(self.0.metrics(metrics))
    }

    /// See [`real::RegistrarBuilder::codec`].
    pub fn codec(self, codec: impl Codec) -> Self {
        Self(self.0.codec(codec))
    }

    /// See [`real::RegistrarBuilder::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(self) -> Result<Registrar, Error> {
        self.0.connect().await.map(Registrar::probed)
    }

    /// See [`real::RegistrarBuilder::connect_lazy`].
    ///
    /// # Errors
    /// As there.
    pub fn connect_lazy(self) -> Result<Registrar, Error> {
        self.0.connect_lazy().map(Registrar::probed)
    }
}
