//! The servers that a channel has selected, connected or not, and what policies derive from them.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::address::Address;
use crate::balance::policy::set::weights::Weights;
use crate::instance::Instance;

/// So many derived values are kept; the oldest one goes first. A channel has one policy at a time, so more than one
/// or two are derived only while its service config changes.
const MOST_DERIVED: usize = 4;

/// The servers of a channel that calls may go to, ready or not, in the order of their addresses.
///
/// They do not change. A connection that is lost or made gives a new
/// [`ReadySet`](crate::policy::ReadySet) with the same selected servers; a server that comes or goes,
/// and an instance that changes, make other selected servers. So a policy that has to look at all
/// servers, such as [`ConsistentHash`](crate::policy::ConsistentHash), does its work once for them and
/// keeps it with [`SelectedServers::derived`]. Cheap to clone.
#[derive(Clone)]
pub struct SelectedServers(Arc<Inner>);

/// What all clones share.
struct Inner {
    /// In the order of addresses.
    servers: Box<[SelectedServer]>,
    weights: Weights,
    /// By the policy's key. Code of policies neither runs nor is dropped while this is locked.
    derived: Mutex<Vec<(u64, Arc<dyn Any + Send + Sync>)>>,
}

/// One server that calls may go to, whether it is ready or not.
#[derive(Clone)]
pub struct SelectedServer {
    address: Address,
    instance: Arc<Instance>,
}

impl SelectedServers {
    /// `servers` is in the order of addresses.
    pub(crate) fn new(servers: impl IntoIterator<Item = (Address, Arc<Instance>)>) -> Self {
        let server = |(address, instance)| SelectedServer { address, instance };
        let servers: Box<[_]> = servers.into_iter().map(server).collect();
        let weights = Weights::of(servers.iter().map(|server| server.instance.weight()));
        Self(Arc::new(Inner { servers, weights, derived: Mutex::default() }))
    }

    /// The servers, in the order of their addresses.
    pub fn servers(&self) -> &[SelectedServer] {
        &self.0.servers
    }

    /// How many servers there are.
    pub fn len(&self) -> usize {
        self.0.servers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.servers.is_empty()
    }

    /// The weight of a server by its index, in the unit of
    /// [`Instance::with_weight`](crate::Instance::with_weight); at least 1, and 1 for an index out of
    /// range.
    ///
    /// It is the weight of the server's instance. If the instance has none, it is the mean of those
    /// that the other instances have (gRFC A58), or 1 if none has one. So it does not depend on the
    /// other servers, unless only some of them have a weight. Slow start does not change it.
    pub fn weight(&self, server: usize) -> f64 {
        self.0.servers.get(server).map_or(1.0, |server| self.0.weights.own(server.instance.weight()))
    }

    /// Whether both are clones of the same selected servers.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What a policy derives from these servers, such as a ring: `make` is called the first time, and
    /// the value is kept with the servers.
    ///
    /// A value is known by its type and by `key`. Let the key depend on all options of the policy that
    /// the value depends on, so that two policies do not get each other's values. The last 4 values
    /// are kept; if two tasks derive the same value at the same time, both get that of one of them. The
    /// value must not hold a clone of the servers, because then neither is ever freed.
    pub fn derived<T: Send + Sync + 'static>(&self, key: u64, make: impl FnOnce(&Self) -> T) -> Arc<T> {
        let known = find(&self.lock(), key);
        if let Some(known) = known {
            return known;
        }
        let new = Arc::new(make(self));
        let mut derived = self.lock();
        if let Some(known) = find(&derived, key) {
            drop(derived);
            return known;
        }
        let oldest = (derived.len() >= MOST_DERIVED).then(|| derived.remove(0));
        derived.push((key, new.clone()));
        drop(derived);
        drop(oldest);
        new
    }

    /// Nothing that can panic runs while it is locked, so it is never poisoned for a reason.
    fn lock(&self) -> MutexGuard<'_, Vec<(u64, Arc<dyn Any + Send + Sync>)>> {
        self.0.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of this type with this key.
fn find<T: Send + Sync + 'static>(derived: &[(u64, Arc<dyn Any + Send + Sync>)], key: u64) -> Option<Arc<T>> {
    derived.iter().filter(|(known, _)| *known == key).find_map(|(_, value)| Arc::clone(value).downcast().ok())
}

impl fmt::Debug for SelectedServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.servers().iter().map(SelectedServer::address)).finish()
    }
}

impl SelectedServer {
    /// The server's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The instance with the server's address. If several instances have this address, it is the one
    /// that was put last.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }
}

impl fmt::Debug for SelectedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectedServer").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(weights: &[Option<u32>]) -> SelectedServers {
        SelectedServers::new(weights.iter().enumerate().map(|(server, weight)| {
            let instance = Instance::new(format!("h:{}", server + 1).as_str()).unwrap();
            let instance = instance.with_stored_weight(weight.unwrap_or_default());
            (instance.addresses()[0].clone(), Arc::new(instance))
        }))
    }

    #[test]
    fn a_weight_is_the_own_one_and_the_mean_where_there_is_none() {
        for (stored, expected) in [
            (vec![None, None], vec![1.0, 1.0, 1.0]),
            (vec![Some(5), Some(7)], vec![5.0, 7.0, 1.0]),
            (vec![Some(5), None, Some(8)], vec![5.0, 6.5, 8.0]),
        ] {
            let selected = selected(&stored);
            let weights: Vec<_> = (0..expected.len()).map(|server| selected.weight(server)).collect();
            assert!(weights.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{weights:?} {expected:?}");
        }
    }

    #[test]
    fn a_value_is_derived_once_for_each_type_and_key() {
        let all = selected(&[None; 3]);
        let first = all.derived(7, SelectedServers::len);
        assert!(Arc::ptr_eq(&first, &all.clone().derived(7, |_| 99_usize)));
        assert_eq!((*all.derived(8, |_| 8_usize), *all.derived(7, |_| "text")), (8, "text"));
        assert_eq!(*selected(&[None]).derived(7, SelectedServers::len), 1);
        // The servers may be asked while a value is made.
        assert_eq!(*all.derived(9, |all| *all.derived(7, |_| 0_usize) + 1), 4);
        (10..20).for_each(|key| drop(all.derived(key, |_| 0_u8)));
        assert_eq!(*all.derived(7, |_| 99_usize), 99, "only the last ones are kept");
    }
}
