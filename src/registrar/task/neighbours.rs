//! Names above and below the one that is registered, as far as etcd shows them: clients of the upper one call the servers of the
//! lower one too, which is said once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::etcd::{Etcd, Failure};
use crate::registrar::handle::state::Published;
use crate::secret;
use crate::target::Target;
use crate::target::nested::{nested_name, parent_names};

/// Keys that are looked at in each range.
const KEYS: i64 = 100;

/// What was looked for, and what was said.
#[derive(Clone, Default)]
pub(crate) struct Neighbours(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    looked: BTreeSet<Target>,
    said: BTreeSet<(String, String)>,
}

impl Neighbours {
    /// Looks once the registration stands, the first of its service; nobody waits for it, and where it may not look it does not.
    /// Where the service's own keys have slashes (`key` is one), nobody can tell names below from them.
    pub(crate) fn look(
        &self,
        runtime: &Handle,
        etcd: Etcd,
        (target, key): (&Target, Option<&str>),
        seen: watch::Receiver<Published>,
    ) {
        let below = key.is_none_or(|key| !key.contains('/'));
        let target = target.clone().without_hosts();
        if self.known(|known| !known.looked.insert(target.clone())) {
            return;
        }
        let look = Look { of: self.clone(), target, is_done: false };
        runtime.spawn(look.make(etcd, seen, below));
    }

    async fn look_around(&self, etcd: &Etcd, target: &Target, below: bool) -> Result<(), Failure> {
        for upper in parent_names(target.name()) {
            let Ok(upper) = Target::parse(upper) else { continue };
            let keys = keys(etcd, &upper, "").await?;
            if keys.iter().any(|key| nested_name(&upper, key, &[]).is_none()) {
                self.warn(upper.name(), target.name());
            }
        }
        if !below {
            return Ok(());
        }
        // Most keys of the service's own begin with a digit: those that do not come after a colon.
        let keys = keys(etcd, target, ":").await?;
        if let Some(lower) = keys.iter().find_map(|key| nested_name(target, key, &[])) {
            self.warn(target.name(), lower);
        }
        Ok(())
    }

    fn warn(&self, upper: &str, lower: &str) {
        if self.known(|known| known.said.insert((upper.to_owned(), lower.to_owned()))) {
            let lower = secret::without_password(lower);
            tracing::warn!(
                parent: None,
                upper,
                lower = &*lower,
                "there are keys of two names, one below the other: clients of the upper one call the servers of the lower one, too"
            );
        }
    }

    fn known<T>(&self, of: impl FnOnce(&mut Known) -> T) -> T {
        // Nothing panics while it is held.
        of(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One that has begun. However it ends, also with its runtime: where it came to nothing, the next one looks.
struct Look {
    of: Neighbours,
    target: Target,
    is_done: bool,
}

impl Look {
    async fn make(mut self, etcd: Etcd, mut seen: watch::Receiver<Published>, below: bool) {
        if seen.wait_for(|published| published.state.is_in_etcd()).await.is_err() {
            return;
        }
        drop(seen);
        match self.of.look_around(&etcd, &self.target, below).await {
            Ok(()) => self.is_done = true,
            Err(failure) => {
                let (service, error) = (self.target.name(), failure.into_error());
                tracing::debug!(parent: None, service, %error, "nobody knows whether other names lie above or below this one");
            }
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if !self.is_done {
            self.of.known(|known| known.looked.remove(&self.target));
        }
    }
}

/// Some of a service's keys, from this one on.
async fn keys(etcd: &Etcd, target: &Target, from: &str) -> Result<Vec<String>, Failure> {
    let (_, end) = target.range();
    let keys = etcd.keys(format!("{}{from}", target.prefix()).as_bytes(), &end, KEYS).await?;
    Ok(keys.into_iter().filter_map(|key| String::from_utf8(key).ok()).collect())
}
