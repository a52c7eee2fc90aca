//! The registrar: puts instances into etcd under a lease, and keeps them there for as long as they live.

mod answers;
mod builder;
mod gates;
mod health;
mod lease;
mod neighbours;
mod readiness;
mod registration;
mod request;
mod shown;
mod state;
mod task;
mod watcher;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::Instrument;

pub use self::builder::{RegistrarBuilder, RegistrationBuilder};
pub(crate) use self::gates::Gate;
use self::gates::Gates;
pub use self::health::RegistrarHealth;
pub use self::lease::Conflict;
use self::lease::Id;
use self::neighbours::Neighbours;
pub(crate) use self::readiness::Tried;
pub use self::registration::Registration;
pub use self::state::{RegistrationState, RegistrationStates};
use self::task::Task;
use crate::address::{Address, Authority};
use crate::codec::{Codec, Detect, Record};
use crate::error::Error;
use crate::etcd::{Client as EtcdClient, Etcd, EtcdOptions};
use crate::instance::Instance;
use crate::target::Target;

/// Lives of leases, unless said otherwise: the reason stands at [`RegistrarBuilder::ttl`].
const TTL: Duration = Duration::from_secs(15);
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
    neighbours: Neighbours,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: Id,
    wanted: BTreeMap<Id, Wanted>,
    lease: Option<i64>,
    /// When it ends, by our clock.
    lease_ends: Option<Instant>,
    /// What last went wrong with etcd.
    error: Option<Error>,
    /// A task does what is wanted.
    has_task: bool,
    /// The runtime of the last task ended before what was wanted did.
    ended: bool,
}

/// What a handle wants, and how it is told what became of it.
struct Wanted {
    target: Target,
    records: Vec<Arc<Record>>,
    conflict: Conflict,
    /// The instance's.
    id: Option<Box<str>>,
    leaving: bool,
    gates: Gates,
    /// Counts the changes of what is wanted.
    version: u64,
    show: watch::Sender<RegistrationState>,
    tried: Tried,
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
        let (state, changed, neighbours) = (Mutex::default(), Notify::new(), Neighbours::default());
        Self { shared: Arc::new(Shared { etcd, codec, seconds, neighbours, state, changed }) }
    }

    /// Registers an instance of a service, and keeps it registered until its handle is deregistered or dropped.
    /// [`Registrar::registration`] has the choices: another key, what happens where another holds it, a pause at first.
    ///
    /// Needs a runtime with its timer enabled, and works on it for as long as anything is registered.
    ///
    /// # Errors
    /// When the target or the instance is refused: addresses that nobody can call (`0.0.0.0`, `[::]`, multicast), an instance
    /// that the codec refuses or panics on, records larger than etcd takes, keys that this registrar has registered already.
    /// Never because etcd is away.
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
        let state = self.shared.state();
        let shown: Vec<_> =
            state.wanted.values().filter(|wanted| !wanted.leaving).map(|w| w.show.borrow().clone()).collect();
        RegistrarHealth::new(!state.ended, &shown)
    }

    /// Where its etcd is; only a client of the user's knows otherwise.
    pub(crate) async fn etcd_hosts(&self) -> Option<Vec<Authority>> {
        self.shared.etcd.known_hosts().await
    }

    /// Refuses a target that names another etcd.
    pub(crate) fn check_target(&self, target: &Target) -> Result<(), Error> {
        self.shared.etcd.check_hosts(target)
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
        let key = format!("{}{name}", target.prefix());
        Ok(vec![Arc::new(Record::new(key, record.value.clone()))])
    }

    fn records(&self, target: &Target, instance: &Instance) -> Result<Vec<Arc<Record>>, Error> {
        let uncallable = |address: &Address| address.uncallable().map(|reason| (address.to_string(), reason));
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
            // A put names its key twice: it asks how that stands.
            let size = 2 * record.key.len() + record.value.len();
            if size > MAX_RECORD {
                let reason = format!("the key, twice, and the value have {size} bytes, and etcd takes {MAX_RECORD}");
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
        state.check_keys(None, &wanted.records)?;
        state.next += 1;
        state.ended = false;
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

    /// Opens or closes a gate of a registration, unless that is leaving.
    fn set_gate(&self, id: Id, gate: Gate, open: bool) {
        let mut state = self.state();
        if let Some(wanted) = state.wanted.get_mut(&id).filter(|wanted| !wanted.leaving)
            && wanted.gates.set(gate, open)
        {
            wanted.changed();
            self.changed.notify_one();
        }
    }

    /// Other records are wanted of a registration.
    fn update(&self, id: Id, instance: &Instance, records: Vec<Arc<Record>>) -> Result<(), Error> {
        let mut state = self.state();
        state.check_keys(Some(id), &records)?;
        let wanted = state.wanted.get_mut(&id).filter(|wanted| !wanted.leaving);
        let wanted = wanted.ok_or_else(|| Error::closed("the registration"))?;
        wanted.id = instance.id().map(Into::into);
        wanted.records = records;
        wanted.changed();
        self.changed.notify_one();
        Ok(())
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
            (state.lease, state.lease_ends) = (None, None);
        }
        rests
    }
}

impl State {
    /// Each key is registered once.
    fn check_keys(&self, but: Option<Id>, records: &[Arc<Record>]) -> Result<(), Error> {
        for (_, other) in self.wanted.iter().filter(|(id, other)| !other.leaving && Some(**id) != but) {
            if let Some(twice) = other.records.iter().find(|a| records.iter().any(|b| a.key == b.key)) {
                let reason = "this registrar has it registered already";
                return Err(Error::invalid("key", String::from_utf8_lossy(&twice.key), reason));
            }
        }
        Ok(())
    }
}

impl Wanted {
    /// It is wanted otherwise: whoever waits from here on waits for that.
    fn changed(&mut self) {
        self.version += 1;
        self.show.send_if_modified(|state| {
            let stands = matches!(state, RegistrationState::Registered | RegistrationState::Renewing { .. });
            if stands {
                *state = RegistrationState::Updating { why: None };
            }
            stands
        });
    }

    fn for_machine(&self) -> lease::Wanted {
        lease::Wanted {
            records: self.records.clone(),
            conflict: self.conflict,
            id: self.id.clone(),
            paused: !self.gates.are_open(),
        }
    }
}

impl fmt::Debug for Registrar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registrar").field("codec", &self.shared.codec).finish_non_exhaustive()
    }
}
