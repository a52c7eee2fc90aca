//! Builds a registrar.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::{CatchPanics, Codec, Detect};
use crate::error::Error;
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::EtcdClient;
use crate::etcd::{EtcdOptions, EtcdPerRuntime};
use crate::metrics::Metrics;
use crate::registrar::handle::registrar::Registrar;
use crate::registrar::shared::Shared;
use crate::registrar::stats::RegistrarSeries;

/// The default time to live of the lease. [`RegistrarBuilder::ttl`] gives the reason.
const TTL: Duration = Duration::from_secs(15);
/// etcd's own limit (`MaxLeaseTTL`).
const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Builds a [`Registrar`] with another time to live or another stored format.
#[must_use]
pub struct RegistrarBuilder {
    /// The connections to etcd, or why the endpoints or options were refused.
    etcds: Result<EtcdPerRuntime, Error>,
    /// The stored format, wrapped so that its panics become errors.
    codec: Arc<dyn Codec>,
    /// As it was given; checked and rounded up by [`RegistrarBuilder::connect_lazy`].
    ttl: Duration,
    metrics: Option<Metrics>,
}

impl Registrar {
    /// Connects to etcd and waits for its first response, with the defaults of [`RegistrarBuilder`].
    ///
    /// Use [`Registrar::connect_lazy`] in a program that must start while etcd is unavailable.
    ///
    /// # Errors
    /// An endpoint or an option is refused. Or no member of etcd has responded within the connect
    /// timeout plus the request timeout ([`EtcdOptions`]; 7 s by default): the error says why.
    ///
    /// # Cancel safety
    /// Dropping the future drops the registrar. Nothing is registered yet.
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect().await
    }

    /// Returns a registrar immediately, with the defaults of [`RegistrarBuilder`]. It connects to etcd in the background and
    /// retries until it succeeds. [`Registration::ready`](crate::Registration::ready) waits for a registration.
    ///
    /// # Errors
    /// An endpoint or an option is refused.
    pub fn connect_lazy(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect_lazy()
    }

    /// A registrar over a client of your own, whose options apply. If the client has several
    /// endpoints and one of them is dead, etcd-client sends it its share of the requests, which are
    /// then tried again, five times at most.
    ///
    /// **Exempt from semver**, as all of the feature `unstable-etcd-client`:
    /// [`Resolver::new`](crate::Resolver::new) says which options the client should have.
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn new(client: EtcdClient) -> Self {
        Self::over(
            EtcdPerRuntime::from_client(client),
            Arc::new(CatchPanics(Detect)),
            TTL.as_secs().cast_signed(),
            None,
        )
    }

    /// A builder, for settings beyond those of etcd.
    pub fn builder(etcd: impl Into<EtcdOptions>) -> RegistrarBuilder {
        RegistrarBuilder::over(EtcdPerRuntime::new(etcd.into()))
    }

    /// A registrar over these connections, with what the builder has checked.
    fn over(etcds: EtcdPerRuntime, codec: Arc<dyn Codec>, ttl_seconds: i64, metrics: Option<Metrics>) -> Self {
        Self { shared: Arc::new(Shared::new(etcds, codec, ttl_seconds, RegistrarSeries::new(metrics))) }
    }
}

impl RegistrarBuilder {
    /// A builder with the defaults. Refused endpoints are kept until [`RegistrarBuilder::connect_lazy`]
    /// returns their error.
    fn over(etcds: Result<EtcdPerRuntime, Error>) -> Self {
        Self { etcds, codec: Arc::new(CatchPanics(Detect)), ttl: TTL, metrics: None }
    }

    /// A builder over a client of your own: see [`Registrar::new`].
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn from_client(client: EtcdClient) -> Self {
        Self::over(Ok(EtcdPerRuntime::from_client(client)))
    }

    /// Sets the time to live of the lease, in whole seconds (rounded up). 15 s by default.
    ///
    /// The lease is renewed after 0.33 to 0.4 of that time, and each attempt may take a sixth of
    /// it. So with the default two renewals may fail, and an election of etcd does not end the
    /// lease. The key of a server that is killed is gone after about 15 s, or after up to twice
    /// that time if etcd elects a leader meanwhile, because a new leader extends each lease once.
    /// etcd may grant a longer time than is requested; then that time holds.
    ///
    /// After a machine was suspended for longer than the time to live, its instances are registered
    /// again within a third of that time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the stored format. By default etcd's gRPC naming, which Go's official resolver reads.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(CatchPanics(codec));
        self
    }

    /// Sets where the instruments `tonic_etcd.registrar.*` go: a [`Recorder`](crate::metrics::Recorder), or [`Metrics`]. Nowhere by
    /// default; [`Registrar::stats`] has the same numbers. Servers of [`Registrar::service`] record there too, unless
    /// [`Serve::metrics`](crate::Serve::metrics) says otherwise.
    ///
    /// Registrars with the same recorder add to the same series, and take their registrations away when these have left.
    pub fn metrics(mut self, metrics: impl Into<Metrics>) -> Self {
        self.metrics = Some(metrics.into());
        self
    }

    /// Connects to etcd and waits for its first response: see [`Registrar::connect`].
    ///
    /// # Errors
    /// As [`Registrar::connect`] and [`RegistrarBuilder::connect_lazy`].
    ///
    /// # Cancel safety
    /// As [`Registrar::connect`].
    pub async fn connect(self) -> Result<Registrar, Error> {
        let registrar = self.connect_lazy()?;
        registrar.shared.etcds.connect().await?;
        Ok(registrar)
    }

    /// Returns the registrar, which connects in the background: see [`Registrar::connect_lazy`].
    ///
    /// # Errors
    /// An endpoint or an option is refused, or the time to live is zero or longer than etcd grants
    /// (9 000 000 000 s).
    pub fn connect_lazy(self) -> Result<Registrar, Error> {
        let refuse = |reason| Err(Error::invalid("time to live", format!("{:?}", self.ttl), reason));
        if self.ttl.is_zero() {
            return refuse("a lease must live; the default is 15 s");
        }
        if self.ttl > MAX_TTL {
            return refuse("etcd grants 9 000 000 000 s at most");
        }
        let seconds = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        Ok(Registrar::over(self.etcds?, self.codec, seconds.cast_signed(), self.metrics))
    }
}

impl fmt::Debug for RegistrarBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrarBuilder").field("codec", &self.codec).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
