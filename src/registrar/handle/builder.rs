//! Builders: of a registrar, and of one registration.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::codec::{CatchPanics, Codec, Detect};
use crate::error::Error;
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::EtcdClient;
use crate::etcd::EtcdPerRuntime;
use crate::instance::Instance;
use crate::registrar::gates::{Gate, Gates};
use crate::registrar::wanted::Wanted;
use crate::registrar::{Conflict, Registrar, Registration, Shared, TTL};
use crate::secret;
use crate::target::Target;
use crate::timers;

/// etcd's own bound.
const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);

/// Builds a [`Registrar`] with a time to live or a stored format of its own.
#[must_use]
pub struct RegistrarBuilder {
    etcds: Result<EtcdPerRuntime, Error>,
    codec: Arc<dyn Codec>,
    ttl: Duration,
}

impl RegistrarBuilder {
    pub(crate) fn over(etcds: Result<EtcdPerRuntime, Error>) -> Self {
        Self { etcds, codec: Arc::new(CatchPanics(Detect)), ttl: TTL }
    }

    /// A builder over a client of your own: see [`Registrar::new`].
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn from_client(client: EtcdClient) -> Self {
        Self::over(Ok(EtcdPerRuntime::from_client(client)))
    }

    /// How long the lease lives without a renewal, in whole seconds (rounded up); 15 s by default. It is renewed when a
    /// third of that is over, or a little later by chance, and each try may take a sixth: the default lets two renewals fail,
    /// and outlives an election, before anything is lost, and a server that is killed is gone after 15 s at the latest. etcd may grant more than is
    /// asked; what it grants holds. A machine that was suspended for longer is registered again within a third of it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The stored format to write; by default etcd's gRPC naming, which Go's official resolver reads.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(CatchPanics(codec));
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

    /// The registrar, which connects in the background: see [`Registrar::connect_lazy`].
    ///
    /// # Errors
    /// When an endpoint or an option is invalid, a time to live of zero among them.
    pub fn connect_lazy(self) -> Result<Registrar, Error> {
        let refuse = |reason| Err(Error::invalid("time to live", format!("{:?}", self.ttl), reason));
        if self.ttl.is_zero() {
            return refuse("a lease must live; the default is 15 s");
        }
        if self.ttl > MAX_TTL {
            return refuse("etcd grants 9 000 000 000 s at most");
        }
        let seconds = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        Ok(Registrar::over(self.etcds?, self.codec, seconds.cast_signed()))
    }
}

impl fmt::Debug for RegistrarBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrarBuilder").field("codec", &self.codec).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// Builds a [`Registration`]: see [`Registrar::registration`].
#[must_use = "nothing is registered before `register`"]
pub struct RegistrationBuilder {
    registrar: Registrar,
    target: Result<Target, Error>,
    instance: Instance,
    key: Option<String>,
    conflict: Conflict,
    gates: Gates,
}

impl RegistrationBuilder {
    pub(crate) fn new(registrar: Registrar, target: Result<Target, Error>, instance: Instance) -> Self {
        Self { registrar, target, instance, key: None, conflict: Conflict::default(), gates: Gates::default() }
    }

    /// The key's name below the service's prefix, where it is not to be the address: `primary` for `greeter/primary`. For
    /// instances with one address; readers of etcd's gRPC naming take any key below the prefix. One with a slash looks like a key of
    /// another name below the service's (see [`Target`]).
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.key = Some(name.into());
        self
    }

    /// What is done where another has put the key; [`Conflict::TakeOver`] by default. The others compare before they put,
    /// which takes a role that may read the key.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    /// Begins paused: it comes into etcd with [`Registration::resume`].
    pub fn paused(self) -> Self {
        self.gate(Gate::Manual, false)
    }

    /// How a gate stands at first.
    pub(crate) fn gate(mut self, gate: Gate, open: bool) -> Self {
        self.gates.set(gate, open);
        self
    }

    /// Registers, and keeps registered until the handle is deregistered or dropped.
    ///
    /// # Errors
    /// As those of [`Registrar::register`], and when the key is refused.
    #[expect(clippy::unused_async, reason = "the task needs a runtime, and an async caller has one")]
    pub async fn register(self) -> Result<Registration, Error> {
        let registrar = self.registrar.clone();
        let mut registrations = registrar.register_all(vec![self])?;
        // As many as there were builders.
        registrations.pop().ok_or_else(|| Error::closed("the registrar"))
    }

    /// What stands in etcd then.
    fn wanted(&self) -> Result<Wanted, Error> {
        let target = self.target.clone()?;
        self.registrar.check_target(&target)?;
        let records = self.registrar.named_records(&target, &self.instance, self.key.as_deref())?;
        let id = self.instance.id().map(Into::into);
        Ok(Wanted::new((target, records, id), self.conflict, self.gates))
    }
}

impl Registrar {
    /// Registers all of them, or none: what can be refused is refused before the first one is taken on. They are this
    /// registrar's.
    pub(crate) fn register_all(&self, builders: Vec<RegistrationBuilder>) -> Result<Vec<Registration>, Error> {
        let wanted = |builder: &RegistrationBuilder| {
            let named = builder.target.as_ref().map(|target| target.name().to_owned()).unwrap_or_default();
            builder.wanted().map_err(|error| error.for_service(&named))
        };
        let wanted = builders.iter().map(wanted).collect::<Result<Vec<_>, _>>()?;
        let runtime = timers::runtime("registering")?;
        let seen = |wanted: &Wanted| (wanted.target.clone(), (wanted.seen(), wanted.known.clone()));
        let seen: Vec<_> = wanted.iter().map(seen).collect();
        let ids = Shared::want(&self.shared, wanted, &runtime)?;
        for (builder, (target, (seen, _))) in builders.iter().zip(&seen) {
            let etcd = self.shared.etcds.on(&runtime);
            self.shared.neighbours.look(&runtime, etcd, (target, builder.key.as_deref()), seen.clone());
        }
        let registration = |((builder, id), (target, seen)): ((RegistrationBuilder, _), (Target, _))| {
            Registration::new(builder.registrar, id, (target, builder.instance, builder.key), seen)
        };
        Ok(builders.into_iter().zip(ids).zip(seen).map(registration).collect())
    }
}

impl fmt::Debug for RegistrationBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationBuilder")
            .field("target", &self.target.as_ref().map(ToString::to_string))
            .field("instance", &self.instance)
            .field("key", &self.key.as_deref().map(secret::without_password))
            .field("conflict", &self.conflict)
            .finish_non_exhaustive()
    }
}
