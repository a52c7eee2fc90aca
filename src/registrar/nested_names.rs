//! Warns once if etcd has keys of a name above or below the registered one, such as `shop` and
//! `shop/payments`: clients of the upper name call the servers of the lower name too (see
//! [`Target`]).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::codec::Codec;
use crate::etcd::{Etcd, Failure};
use crate::instance::Instance;
use crate::registrar::handle::state::Published;
use crate::secret;
use crate::target::Target;
use crate::target::nested::{nested_name, parent_names};

/// How many keys are read of each range: enough to see a nested name, cheap for etcd.
const KEYS: i64 = 100;
/// How many values are read of keys that seem to be of an upper name, and of a nested one. A service
/// with more keys of [`Conflict::UniqueKey`](crate::Conflict::UniqueKey) than this before those of a
/// nested name gets no warning; resolvers still warn.
const VALUES: usize = 20;

/// Checks each service of a registrar once. Nothing waits for a check, and its failure changes
/// nothing: a role may not be allowed to read what is above or below its own prefix.
#[derive(Clone, Default)]
pub(super) struct NestedNames(Arc<Mutex<Checked>>);

/// What was checked and warned of. Targets are kept without their hosts: all hosts of a registrar
/// name one etcd.
#[derive(Default)]
struct Checked {
    targets: BTreeSet<Target>,
    /// Pairs of an upper and a lower name.
    warned: BTreeSet<(String, String)>,
}

impl NestedNames {
    /// Checks in the background, once the first registration of the service is in etcd. A failed
    /// check is left to the next registration. `key` is the chosen key: if it has a slash, keys of
    /// nested names cannot be told from the service's own.
    pub(super) fn check(
        &self,
        runtime: &Handle,
        etcd: Etcd,
        target: &Target,
        codec: Arc<dyn Codec>,
        key: Option<&str>,
        states: watch::Receiver<Published>,
    ) {
        let checks_below = key.is_none_or(|key| !key.contains('/'));
        let target = target.clone().without_hosts();
        if self.locked(|checked| !checked.targets.insert(target.clone())) {
            return;
        }
        let check = Check { names: self.clone(), target, succeeded: false };
        runtime.spawn(check.run(etcd, codec, states, checks_below));
    }

    /// Reads a few keys of each upper name and of the names below, and warns of each pair that has
    /// keys.
    async fn read_names(
        &self,
        etcd: &Etcd,
        codec: &dyn Codec,
        target: &Target,
        checks_below: bool,
    ) -> Result<(), Failure> {
        for upper in parent_names(target.name()) {
            let Ok(upper) = Target::parse(upper) else { continue };
            let keys = keys(etcd, &upper, "").await?;
            let seem_own = keys.iter().filter(|key| nested_name(&upper, key, &[]).is_none());
            for key in seem_own.take(VALUES) {
                // Settings may stand there too, and a name without servers has no clients.
                if !instances(etcd, codec, key).await?.is_empty() {
                    self.warn(upper.name(), target.name());
                    break;
                }
            }
        }
        if !checks_below {
            return Ok(());
        }
        // Most of the service's own keys begin with a digit, and names with a letter, which sorts behind ':'.
        let keys = keys(etcd, target, ":").await?;
        let seem_nested = keys.iter().filter(|key| nested_name(target, key, &[]).is_some());
        for key in seem_nested.take(VALUES) {
            // Its value tells whether `Conflict::UniqueKey` made it.
            let instances = instances(etcd, codec, key).await?;
            if let Some(lower) = nested_name(target, key, &instances).filter(|_| !instances.is_empty()) {
                self.warn(target.name(), lower);
                break;
            }
        }
        Ok(())
    }

    /// Warns of a pair once in the life of the registrar.
    fn warn(&self, upper: &str, lower: &str) {
        if self.locked(|checked| checked.warned.insert((upper.to_owned(), lower.to_owned()))) {
            let lower = &*secret::without_password(lower);
            tracing::warn!(parent: None, upper, lower, "service name is nested in another, whose clients call both");
        }
    }

    /// Runs `of` under the lock. It must not log or wait.
    fn locked<T>(&self, of: impl FnOnce(&mut Checked) -> T) -> T {
        // Nothing panics while it is held.
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A check in progress. Unless it succeeds, the next registration of the service checks again, also
/// if the runtime of this one ends first: so that is done when it is dropped.
struct Check {
    names: NestedNames,
    target: Target,
    succeeded: bool,
}

impl Check {
    async fn run(
        mut self,
        etcd: Etcd,
        codec: Arc<dyn Codec>,
        mut states: watch::Receiver<Published>,
        checks_below: bool,
    ) {
        if states.wait_for(|published| published.state.is_in_etcd()).await.is_err() {
            return;
        }
        drop(states);
        match self.names.read_names(&etcd, &*codec, &self.target, checks_below).await {
            Ok(()) => {
                self.succeeded = true;
                tracing::debug!(parent: None, service = self.target.name(), "nested names checked");
            }
            Err(failure) => {
                let (service, error) = (self.target.name(), failure.into_error());
                tracing::debug!(parent: None, service, %error, "check for nested names failed");
            }
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if !self.succeeded {
            self.names.locked(|checked| checked.targets.remove(&self.target));
        }
    }
}

/// What clients read of a key: nothing if it is gone, or cannot be read, because they call neither.
async fn instances(etcd: &Etcd, codec: &dyn Codec, key: &str) -> Result<Vec<Instance>, Failure> {
    let value = etcd.value(key.as_bytes()).await?;
    Ok(value.and_then(|value| codec.decode(key.as_bytes(), &value).ok()).unwrap_or_default())
}

/// Some of the service's keys, from the given one on.
async fn keys(etcd: &Etcd, target: &Target, from: &str) -> Result<Vec<String>, Failure> {
    let (_, end) = target.range();
    let keys = etcd.keys(format!("{}{from}", target.prefix()).as_bytes(), &end, KEYS).await?;
    Ok(keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect())
}
