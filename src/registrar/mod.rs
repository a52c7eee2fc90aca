//! The registrar: puts instances into etcd under a lease, and keeps them there for as long as they live.

mod lease;
mod registration;
mod task;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tracing::Instrument;

use self::lease::Id;
pub use self::registration::{Registration, RegistrationState};
use self::task::Task;
use crate::codec::{Codec, Detect, Record};
use crate::error::Error;
use crate::etcd::{Client as EtcdClient, Etcd, EtcdOptions};
use crate::instance::Instance;
use crate::target::Target;

/// Lives of leases, unless said otherwise: the reason stands at [`RegistrarBuilder::ttl`].
const TTL: Duration = Duration::from_secs(15);
/// etcd's own bound.
const MAX_TTL: Duration = Duration::from_secs(9_000_000_000);
/// etcd takes requests of 1.5 MiB; the rest is the request's own.
const MAX_RECORD: usize = 1536 * 1024 - 512;

/// Registers instances in one etcd, all under one lease. Cheap to clone; clones share the lease.
#[derive(Clone)]
pub struct Registrar {
    shared: Arc<Shared>,
}

struct Shared {
    etcd: Etcd,
    codec: Arc<dyn Codec>,
    seconds: i64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: Id,
    wanted: BTreeMap<Id, Wanted>,
    lease: Option<i64>,
    /// What last went wrong with etcd.
    error: Option<Error>,
    /// A task does what is wanted.
    has_task: bool,
}

/// What a handle wants, and how it is told what became of it.
struct Wanted {
    target: Target,
    records: Vec<Arc<Record>>,
    leaving: bool,
    show: watch::Sender<RegistrationState>,
}

/// Builds a [`Registrar`] with a time to live or a stored format of its own.
#[must_use]
pub struct RegistrarBuilder {
    etcd: Result<Etcd, Error>,
    codec: Arc<dyn Codec>,
    ttl: Duration,
}

impl Registrar {
    /// A registrar in the etcd at these endpoints, with every option at its default.
    ///
    /// Does not wait for etcd, and does not fail when it is away: what is registered goes on trying in the background.
    /// [`Registration::ready`] is for those who want to fail early.
    ///
    /// # Errors
    /// When an endpoint or option is refused.
    #[expect(clippy::unused_async, reason = "connecting may come to need the runtime; callers are async anyway")]
    pub async fn connect(etcd: impl Into<EtcdOptions>) -> Result<Self, Error> {
        Self::builder(etcd).build()
    }

    /// A registrar over a client of your own, whose options are then yours; requests to a dead one of several endpoints
    /// are tried up to five times.
    pub fn new(client: EtcdClient) -> Self {
        Self::over(Etcd::from_client(client), Arc::new(Detect), TTL.as_secs().cast_signed())
    }

    /// A registrar with options of its own.
    pub fn builder(etcd: impl Into<EtcdOptions>) -> RegistrarBuilder {
        RegistrarBuilder::over(Etcd::new(etcd.into()))
    }

    fn over(etcd: Etcd, codec: Arc<dyn Codec>, seconds: i64) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self { shared: Arc::new(Shared { etcd, codec, seconds, state, changed }) }
    }

    /// Registers an instance of a service, and keeps it registered until its handle is deregistered or dropped. Whatever
    /// stands at its keys is overwritten.
    ///
    /// Needs a runtime with its timer enabled, and works on it for as long as anything is registered.
    ///
    /// # Errors
    /// When the target or the instance is refused: unspecified addresses (`0.0.0.0`, `[::]`), records larger than
    /// etcd takes, keys that this registrar has registered already. Never because etcd is away.
    #[expect(clippy::unused_async, reason = "the task needs a runtime, and an async caller has one")]
    pub async fn register<T>(&self, target: T, instance: Instance) -> Result<Registration, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        let target = target.try_into()?;
        self.shared.etcd.check_hosts(&target)?;
        let records = self.records(&target, &instance)?;
        let runtime = Handle::try_current().map_err(|_| Error::no_runtime("registering"))?;
        let (show, seen) = watch::channel(RegistrationState::Registering { why: None });
        let wanted = Wanted { target: target.clone(), records, leaving: false, show };
        let id = Shared::want(&self.shared, wanted, &runtime)?;
        Ok(Registration::new(self.shared.clone(), id, target, instance, seen))
    }

    fn records(&self, target: &Target, instance: &Instance) -> Result<Vec<Arc<Record>>, Error> {
        if let Some(address) = instance.addresses().iter().find(|address| address.is_unspecified()) {
            let reason = "nobody can call every interface: register the address that clients reach";
            return Err(Error::invalid("address", address.to_string(), reason));
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
            let size = record.key.len() + record.value.len();
            if size > MAX_RECORD {
                let reason = format!("key and value have {size} bytes, and etcd takes {MAX_RECORD}");
                return Err(Error::invalid("record", key.chars().take(100).collect::<String>(), reason));
            }
        }
        Ok(records.into_iter().map(Arc::new).collect())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and every state of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn want(self: &Arc<Self>, wanted: Wanted, runtime: &Handle) -> Result<Id, Error> {
        let mut state = self.state();
        for other in state.wanted.values().filter(|other| !other.leaving) {
            if let Some(twice) = other.records.iter().find(|a| wanted.records.iter().any(|b| a.key == b.key)) {
                let reason = "this registrar has it registered already";
                return Err(Error::invalid("key", String::from_utf8_lossy(&twice.key), reason));
            }
        }
        state.next += 1;
        let id = state.next;
        state.wanted.insert(id, wanted);
        let has_task = std::mem::replace(&mut state.has_task, true);
        // A runtime that is shutting down drops the task at once, which takes the same lock.
        drop(state);
        if !has_task {
            let task = Task::new(self.clone());
            runtime.spawn(task.run().instrument(tracing::info_span!("register")));
        }
        self.changed.notify_one();
        Ok(id)
    }

    fn leave(&self, id: Id) {
        if let Some(wanted) = self.state().wanted.get_mut(&id) {
            wanted.leaving = true;
            self.changed.notify_one();
        }
    }

    /// The task ends if nothing is wanted; the next registration starts another.
    fn rest(&self) -> bool {
        let mut state = self.state();
        let rests = state.wanted.is_empty();
        if rests {
            state.has_task = false;
            state.lease = None;
        }
        rests
    }
}

impl RegistrarBuilder {
    fn over(etcd: Result<Etcd, Error>) -> Self {
        Self { etcd, codec: Arc::new(Detect), ttl: TTL }
    }

    /// A builder over a client of your own: see [`Registrar::new`].
    pub fn from_client(client: EtcdClient) -> Self {
        Self::over(Ok(Etcd::from_client(client)))
    }

    /// How long the lease lives without a renewal, in whole seconds (rounded up); 15 s by default. It is renewed every
    /// third of that, and each try may take a sixth: the default lets two renewals fail, and outlives an election, before
    /// anything is lost, and a server that is killed is gone after 15 s at the latest. etcd may grant more than is
    /// asked; what it grants holds. A machine that was suspended for longer is registered again within a third of it.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The stored format to write; by default etcd's gRPC naming, which Go's official resolver reads.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codec = Arc::new(codec);
        self
    }

    /// The registrar.
    ///
    /// # Errors
    /// When an endpoint or option is refused, a time to live of zero among them.
    pub fn build(self) -> Result<Registrar, Error> {
        let refuse = |reason| Err(Error::invalid("time to live", format!("{:?}", self.ttl), reason));
        if self.ttl.is_zero() {
            return refuse("a lease must live; the default is 15 s");
        }
        if self.ttl > MAX_TTL {
            return refuse("etcd grants 9 000 000 000 s at most");
        }
        let seconds = self.ttl.as_secs() + u64::from(self.ttl.subsec_nanos() > 0);
        Ok(Registrar::over(self.etcd?, self.codec, seconds.cast_signed()))
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("codec", &self.shared.codec).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegistrarBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrarBuilder").field("codec", &self.codec).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
