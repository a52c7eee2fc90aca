//! Which addresses a channel has to know, counted over the keys that name them. PURE.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use tower::discover::Change;

use crate::address::{Address, Authority};
use crate::instance::Instance;

/// Two keys with one address are one server. What is draining takes no new calls, so that it names no server: this is the one
/// place that says so, whatever the source.
pub(crate) struct AddressIndex<K> {
    instances: HashMap<K, Arc<Instance>>,
    draining: HashSet<K>,
    servers: BTreeMap<Authority, Vec<Claim<K>>>,
    touched: BTreeSet<Authority>,
}

struct Claim<K> {
    key: K,
    secure: bool,
    instance: Arc<Instance>,
}

/// What an address is now.
#[derive(Debug, PartialEq)]
pub(crate) enum AddressChange {
    /// TLS outweighs plain text; of several instances the one that was put last speaks.
    Named(Address, Arc<Instance>),
    Gone(Authority),
}

impl<K: Hash + Eq + Clone> AddressIndex<K> {
    pub(crate) fn new() -> Self {
        Self { instances: HashMap::new(), draining: HashSet::new(), servers: BTreeMap::new(), touched: BTreeSet::new() }
    }

    pub(crate) fn apply(&mut self, change: Change<K, Instance>) {
        match change {
            Change::Insert(key, instance) if instance.is_draining() => {
                self.remove(&key);
                self.draining.insert(key);
            }
            Change::Insert(key, instance) => {
                if self.instances.get(&key).is_some_and(|known| **known == instance) {
                    return;
                }
                self.remove(&key);
                let instance = Arc::new(instance);
                for address in instance.addresses() {
                    let authority = address.parsed_authority().clone();
                    let naming = Claim { key: key.clone(), secure: address.is_secure(), instance: instance.clone() };
                    self.servers.entry(authority.clone()).or_default().push(naming);
                    self.touched.insert(authority);
                }
                self.instances.insert(key, instance);
            }
            Change::Remove(key) => self.remove(&key),
        }
    }

    /// How many keys name instances that are draining.
    pub(crate) fn draining(&self) -> usize {
        self.draining.len()
    }

    fn remove(&mut self, key: &K) {
        self.draining.remove(key);
        let Some(instance) = self.instances.remove(key) else { return };
        for address in instance.addresses() {
            let authority = address.parsed_authority();
            if let Some(namings) = self.servers.get_mut(authority) {
                namings.retain(|naming| naming.key != *key);
            }
            self.touched.insert(authority.clone());
        }
    }

    /// What may have changed since it was last asked.
    pub(crate) fn changed(&mut self) -> Vec<AddressChange> {
        let entry = |authority: Authority| {
            let namings = self.servers.get(&authority).map(Vec::as_slice).unwrap_or_default();
            let Some(last) = namings.last() else {
                self.servers.remove(&authority);
                return AddressChange::Gone(authority);
            };
            let secure = namings.iter().any(|naming| naming.secure);
            AddressChange::Named(Address::from_parts(authority, secure), last.instance.clone())
        };
        std::mem::take(&mut self.touched).into_iter().map(entry).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str) -> Instance {
        Instance::new(address).unwrap()
    }

    fn shown<K: Hash + Eq + Clone>(roster: &mut AddressIndex<K>) -> Vec<String> {
        let show = |entry| match entry {
            AddressChange::Named(address, instance) => format!("{address} {:?}", instance.weight()),
            AddressChange::Gone(authority) => format!("-{}", authority.as_str()),
        };
        roster.changed().into_iter().map(show).collect()
    }

    #[test]
    fn two_keys_with_one_address_are_one_server() {
        let mut roster = AddressIndex::new();
        roster.apply(Change::Insert("a", instance("h:1")));
        roster.apply(Change::Insert("b", instance("https://h:1").with_stored_weight(3)));
        assert_eq!(shown(&mut roster), ["https://h:1 Some(3)"]);
        roster.apply(Change::Remove("b"));
        assert_eq!(shown(&mut roster), ["h:1 None"]);
        roster.apply(Change::Remove("b"));
        assert!(shown(&mut roster).is_empty());
        roster.apply(Change::Remove("a"));
        assert_eq!(shown(&mut roster), ["-h:1"]);
    }

    /// F41: what is draining names no server, in whatever order its keys come.
    #[test]
    fn what_is_draining_names_no_server() {
        let mut roster = AddressIndex::new();
        roster.apply(Change::Insert("a", instance("h:1").with_draining(true)));
        assert!(shown(&mut roster).is_empty());
        roster.apply(Change::Insert("b", instance("h:1").with_stored_weight(3)));
        roster.apply(Change::Insert("a", instance("h:1").with_draining(true).with_stored_weight(5)));
        assert_eq!((shown(&mut roster), roster.draining()), (vec!["h:1 Some(3)".to_owned()], 1));
        roster.apply(Change::Insert("b", instance("h:1").with_draining(true)));
        assert_eq!((shown(&mut roster), roster.draining()), (vec!["-h:1".to_owned()], 2));
        roster.apply(Change::Remove("b"));
        roster.apply(Change::Insert("a", instance("h:1")));
        assert_eq!((shown(&mut roster), roster.draining()), (vec!["h:1 None".to_owned()], 0));
    }

    #[test]
    fn what_is_put_again_is_not_gone_in_between() {
        let mut roster = AddressIndex::new();
        roster.apply(Change::Insert(1, instance("h:1")));
        assert_eq!(shown(&mut roster), ["h:1 None"]);
        roster.apply(Change::Remove(1));
        roster.apply(Change::Insert(2, instance("h:1")));
        assert_eq!(shown(&mut roster), ["h:1 None"]);
        roster.apply(Change::Insert(2, instance("h:1")));
        assert!(shown(&mut roster).is_empty(), "an equal instance is no change");
        roster.apply(Change::Insert(2, instance("h:2")));
        assert_eq!(shown(&mut roster), ["-h:1", "h:2 None"]);
    }
}
