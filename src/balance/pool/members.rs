//! The instances of a source of servers, and the addresses that they name. PURE.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tower::discover::Change;

use crate::address_index::{AddressChange, AddressIndex};
use crate::instance::Instance;

/// Keys of the source, each with the instance that it stands for.
pub(crate) struct Members<K> {
    /// With those that are draining, which name no address.
    instances: HashMap<K, Arc<Instance>>,
    /// Has the claims of exactly these instances.
    index: AddressIndex<K, Arc<Instance>>,
}

impl<K: Hash + Eq + Clone> Members<K> {
    pub(crate) fn new() -> Self {
        Self { instances: HashMap::new(), index: AddressIndex::default() }
    }

    /// Applies a change of the source. An instance that is equal to the known one changes nothing.
    pub(crate) fn apply(&mut self, change: Change<K, Instance>) {
        match change {
            Change::Insert(key, instance) => {
                if self.instances.get(&key).is_some_and(|known| **known == instance) {
                    return;
                }
                self.remove(&key);
                let instance = Arc::new(instance);
                self.index.insert(&key, &instance, &instance);
                self.instances.insert(key, instance);
            }
            Change::Remove(key) => self.remove(&key),
        }
    }

    /// Takes back the claims of a key. A key that is not known changes nothing.
    fn remove(&mut self, key: &K) {
        if let Some(instance) = self.instances.remove(key) {
            self.index.remove(key, &instance);
        }
    }

    /// What has become of addresses since this was last called; each with the instance that was put
    /// last.
    pub(crate) fn take_changes(&mut self) -> Vec<AddressChange<Arc<Instance>>> {
        self.index.take_changes()
    }

    /// How many instances are draining.
    pub(crate) fn draining(&self) -> usize {
        self.instances.values().filter(|instance| instance.is_draining()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str) -> Instance {
        Instance::new(address).unwrap()
    }

    fn changes<K: Hash + Eq + Clone>(members: &mut Members<K>) -> Vec<String> {
        let show = |change: AddressChange<Arc<Instance>>| match change {
            AddressChange::Present { address, value, .. } => format!("{address} {:?}", value.weight()),
            AddressChange::Gone(authority) => format!("-{}", authority.as_str()),
        };
        members.take_changes().into_iter().map(show).collect()
    }

    #[test]
    fn two_keys_with_one_address_are_one_server() {
        let mut members = Members::new();
        members.apply(Change::Insert("a", instance("h:1")));
        members.apply(Change::Insert("b", instance("https://h:1").with_stored_weight(3)));
        assert_eq!(changes(&mut members), ["https://h:1 Some(3)"]);
        members.apply(Change::Remove("b"));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(Change::Remove("b"));
        assert!(changes(&mut members).is_empty());
        members.apply(Change::Remove("a"));
        assert_eq!(changes(&mut members), ["-h:1"]);
    }

    /// F41: what is draining names no server, in whatever order its keys come.
    #[test]
    fn what_is_draining_names_no_server() {
        let mut members = Members::new();
        members.apply(Change::Insert("a", instance("h:1").with_draining(true)));
        assert!(changes(&mut members).is_empty());
        members.apply(Change::Insert("b", instance("h:1").with_stored_weight(3)));
        members.apply(Change::Insert("a", instance("h:1").with_draining(true).with_stored_weight(5)));
        assert_eq!((changes(&mut members), members.draining()), (vec!["h:1 Some(3)".to_owned()], 1));
        members.apply(Change::Insert("b", instance("h:1").with_draining(true)));
        assert_eq!((changes(&mut members), members.draining()), (vec!["-h:1".to_owned()], 2));
        members.apply(Change::Remove("b"));
        members.apply(Change::Insert("a", instance("h:1")));
        assert_eq!((changes(&mut members), members.draining()), (vec!["h:1 None".to_owned()], 0));
    }

    #[test]
    fn what_is_put_again_is_not_gone_in_between() {
        let mut members = Members::new();
        members.apply(Change::Insert(1, instance("h:1")));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(Change::Remove(1));
        members.apply(Change::Insert(2, instance("h:1")));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(Change::Insert(2, instance("h:1")));
        assert!(changes(&mut members).is_empty(), "an equal instance is no change");
        members.apply(Change::Insert(2, instance("h:2")));
        assert_eq!(changes(&mut members), ["-h:1", "h:2 None"]);
    }
}
