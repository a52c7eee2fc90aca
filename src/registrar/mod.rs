//! The registrar: puts instances into etcd under a lease, and keeps them there for as long as they live.

mod gates;
mod handle;
mod lease;
mod shared;
mod task;
mod wanted;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub(crate) use self::gates::Gate;
pub use self::handle::builder::{RegistrarBuilder, RegistrationBuilder};
pub use self::handle::health::RegistrarHealth;
pub use self::handle::registration::Registration;
pub use self::handle::state::{RegistrationState, RegistrationStates};
pub use self::lease::Conflict;
use self::shared::Shared;
pub(crate) use self::wanted::Publication;
use crate::address::{Address, Authority};
#[cfg(feature = "unstable-etcd-client")]
use crate::codec::{CatchPanics, Detect};
use crate::codec::{Codec, Record};
use crate::error::Error;
#[cfg(feature = "unstable-etcd-client")]
use crate::etcd::EtcdClient;
use crate::etcd::{EtcdOptions, EtcdPerRuntime};
use crate::instance::Instance;
use crate::target::Target;

/// Lives of leases, unless said otherwise: the reason stands at [`RegistrarBuilder::ttl`].
const TTL: Duration = Duration::from_secs(15);
/// etcd takes requests of 1.5 MiB; the rest is the request's own.
const MAX_RECORD: usize = 1536 * 1024 - 512;

/// Registers instances in one etcd, all under one lease. Cheap to clone; clones share the lease.
///
/// Before `main` returns, wait for [`Registrar::close`]: what is registered leaves etcd only while the tokio runtime lives.
#[derive(Clone)]
pub struct Registrar {
    shared: Arc<Shared>,
}

impl Registrar {
    /// Connects to etcd and waits for its first response, with every other option at its default.
    ///
    /// What the first response is, how long it may take and what fails is the same as for
    /// [`Resolver::connect`](crate::Resolver::connect): no longer than the connect timeout and the request timeout together, 7 s by
    /// default. Use [`Registrar::connect_lazy`] in a server that must start while etcd is away.
    ///
    /// # Errors
    /// As [`Resolver::connect`](crate::Resolver::connect).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection. Nothing is left behind.
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect().await
    }

    /// A registrar in the etcd at these endpoints, with every other option at its default. Returns immediately.
    ///
    /// The first registration connects to etcd in the background and retries until it succeeds.
    ///
    /// # Errors
    /// When an endpoint or an option is invalid ([`Error::is_invalid_argument`]). An etcd that is away is no error.
    pub fn connect_lazy(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).connect_lazy()
    }

    /// A registrar over a client of your own, whose options are then yours; requests to a dead one of several endpoints
    /// are tried up to five times.
    #[cfg(feature = "unstable-etcd-client")]
    #[cfg_attr(docsrs, doc(cfg(feature = "unstable-etcd-client")))]
    pub fn new(client: EtcdClient) -> Self {
        Self::over(EtcdPerRuntime::from_client(client), Arc::new(CatchPanics(Detect)), TTL.as_secs().cast_signed())
    }

    /// A registrar with options of its own.
    pub fn builder(etcd: impl Into<EtcdOptions>) -> RegistrarBuilder {
        RegistrarBuilder::over(EtcdPerRuntime::new(etcd.into()))
    }

    fn over(etcds: EtcdPerRuntime, codec: Arc<dyn Codec>, seconds: i64) -> Self {
        Self { shared: Arc::new(Shared::new(etcds, codec, seconds)) }
    }

    /// Registers an instance of a service, and keeps it registered until its handle is deregistered or dropped.
    /// [`Registrar::registration`] has the choices: another key, what happens where another holds it, a pause at first.
    ///
    /// Needs a runtime with its timer enabled, and works on it for as long as anything is registered: also for what is registered
    /// on other runtimes meanwhile, and [`Registration::ready`] says where it does not run.
    ///
    /// # Errors
    /// When the target or the instance is refused: addresses that nobody can call (`0.0.0.0`, `[::]`, multicast), an instance
    /// that the codec refuses or panics on, records larger than etcd takes, keys that this registrar has registered already; after
    /// [`Registrar::close`] ([`Error::is_closed`]); outside of a tokio runtime with timers. Never because etcd is away.
    pub async fn register<T>(&self, target: T, instance: Instance) -> Result<Registration, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.registration(target, instance).register().await
    }

    /// A registration with choices of its own; [`RegistrationBuilder::register`] makes it.
    pub fn registration<T>(&self, target: T, instance: Instance) -> RegistrationBuilder
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        RegistrationBuilder::new(self.clone(), target.try_into().map_err(Error::from), instance)
    }

    /// The lease under which its registrations stand; none while there is none. etcdctl shows it in hexadecimal.
    pub fn lease_id(&self) -> Option<i64> {
        self.shared.state().lease
    }

    /// How all its registrations stand together: for a probe.
    pub fn health(&self) -> RegistrarHealth {
        let (ended, lease_is_over, states) = {
            let state = self.shared.state();
            let stay = state.wanted.values().filter(|wanted| !wanted.leaving);
            let states: Vec<_> = stay.map(|wanted| wanted.state().clone()).collect();
            (state.ended, state.lease_ends.is_some_and(|ends| Instant::now() >= ends), states)
        };
        RegistrarHealth::new(!ended, lease_is_over, &states)
    }

    /// Where its etcd is; only a client of the user's knows otherwise.
    pub(crate) async fn etcd_hosts(&self) -> Option<Vec<Authority>> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        self.shared.etcds.on(&runtime).known_hosts().await
    }

    /// Refuses a target that names another etcd.
    pub(crate) fn check_target(&self, target: &Target) -> Result<(), Error> {
        self.shared.etcds.check_hosts(target)
    }

    /// The records of an instance, the only one under a name of its own where that is chosen.
    fn named_records(
        &self,
        target: &Target,
        instance: &Instance,
        name: Option<&str>,
    ) -> Result<Vec<Arc<Record>>, Error> {
        let records = self.records(target, instance)?;
        let Some(name) = name else { return Ok(records) };
        let refuse = |reason: &str| Err(Error::invalid("key", name, reason));
        let [record] = records.as_slice() else {
            return refuse("a key that is chosen holds one address, and the instance has several");
        };
        if name.is_empty() || name.starts_with('/') || name.ends_with('/') || name.contains(char::is_control) {
            return refuse(
                "it is a name below the service's prefix, without a slash at its ends or control characters",
            );
        }
        let record = Record::new(format!("{}{name}", target.prefix()), record.value.clone());
        check_size(&record)?;
        Ok(vec![Arc::new(record)])
    }

    fn records(&self, target: &Target, instance: &Instance) -> Result<Vec<Arc<Record>>, Error> {
        let uncallable = |address: &Address| address.uncallable_reason().map(|reason| (address.to_string(), reason));
        if let Some((address, reason)) = instance.addresses().iter().find_map(uncallable) {
            return Err(Error::invalid(
                "address",
                address,
                format!("{reason}: register the address that clients reach"),
            ));
        }
        let shown = || instance.addresses()[0].to_string();
        let records = self.shared.codec.encode(target, instance);
        let records = records.map_err(|error| Error::invalid("instance", shown(), error.to_string()))?;
        if records.is_empty() {
            return Err(Error::invalid("instance", shown(), "the codec writes no record for it"));
        }
        for (place, record) in records.iter().enumerate() {
            let key = String::from_utf8_lossy(&record.key);
            if records[..place].iter().any(|other| other.key == record.key) {
                return Err(Error::invalid("instance", shown(), format!("the codec writes the key {key:?} twice")));
            }
            if !target.owns(&record.key) {
                let reason = format!("the codec wrote it outside of {:?}", target.prefix());
                return Err(Error::invalid("key", key, reason));
            }
            check_size(record)?;
        }
        Ok(records.into_iter().map(Arc::new).collect())
    }
}

/// Refuses a record that etcd does not take, or would not give back.
fn check_size(record: &Record) -> Result<(), Error> {
    // A put names its key twice, because it asks how that stands, and a delete three times.
    let (put, delete) = (2 * record.key.len() + record.value.len(), 3 * record.key.len());
    let reason = if put > MAX_RECORD {
        format!("the key, twice, and the value have {put} bytes, and etcd takes {MAX_RECORD}")
    } else if delete > MAX_RECORD {
        format!("the key, three times, has {delete} bytes, and etcd takes {MAX_RECORD}")
    } else {
        return Ok(());
    };
    let key: String = String::from_utf8_lossy(&record.key).chars().take(100).collect();
    Err(Error::invalid("record", key, reason))
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("codec", &self.shared.codec).finish_non_exhaustive()
    }
}
