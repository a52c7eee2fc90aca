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

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Put under a key: addresses (host, whether it speaks TLS), weight, whether it is draining. Or remove the key.
    type Put = (Vec<(u8, bool)>, u32, bool);

    #[derive(Clone, Debug)]
    enum Step {
        Apply(u8, Option<Put>),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let put = (proptest::collection::vec((0_u8..5, any::<bool>()), 1..3), 0_u32..3, prop::bool::weighted(0.2));
        prop_oneof![
            3 => (0_u8..6, proptest::option::weighted(0.7, put)).prop_map(|(key, put)| Step::Apply(key, put)),
            1 => Just(Step::Take),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(step(), 0..120)
    }

    fn instance_of((addresses, weight, draining): &Put) -> Instance {
        let written = |(host, secure): &(u8, bool)| format!("{}h{host}:1", if *secure { "https://" } else { "" });
        let first = instance(&written(&addresses[0])).with_stored_weight(*weight).with_draining(*draining);
        let add = |instance: Instance, address| instance.clone().with_address(written(address)).unwrap_or(instance);
        addresses[1..].iter().fold(first, add)
    }

    /// Against a plain map of keys: what was told always leads to what is named, and nothing is told twice.
    fn leads_to_what_is_named(steps: &[Step]) {
        let (mut members, mut puts) = (Members::new(), 0);
        let mut stored: BTreeMap<u8, (u32, Instance)> = BTreeMap::new();
        let mut told: BTreeMap<String, (bool, Instance)> = BTreeMap::new();
        for step in steps.iter().chain([&Step::Take]) {
            match step {
                Step::Apply(key, Some(put)) => {
                    let instance = instance_of(put);
                    members.apply(Change::Insert(*key, instance.clone()));
                    puts += 1;
                    if stored.get(key).is_none_or(|(_, known)| *known != instance) {
                        stored.insert(*key, (puts, instance));
                    }
                }
                Step::Apply(key, None) => {
                    members.apply(Change::Remove(*key));
                    stored.remove(key);
                }
                Step::Take => {
                    for change in members.take_changes() {
                        match change {
                            AddressChange::Present { address, value, is_new } => {
                                let known =
                                    told.insert(address.authority().into(), (address.is_secure(), (*value).clone()));
                                assert_eq!(
                                    is_new,
                                    known.is_none_or(|(secure, _)| secure != address.is_secure()),
                                    "{address}"
                                );
                            }
                            AddressChange::Gone(authority) => {
                                assert!(told.remove(authority.as_str()).is_some(), "never what was not told");
                            }
                        }
                    }
                    let mut expected: BTreeMap<String, (bool, Instance)> = BTreeMap::new();
                    let mut in_order: Vec<_> =
                        stored.values().filter(|(_, instance)| !instance.is_draining()).collect();
                    in_order.sort_by_key(|(put, _)| *put);
                    for (address, instance) in
                        in_order.iter().flat_map(|(_, i)| i.addresses().iter().map(move |a| (a, i)))
                    {
                        let secure = expected.get(address.authority()).is_some_and(|(secure, _)| *secure);
                        expected.insert(address.authority().into(), (secure || address.is_secure(), instance.clone()));
                    }
                    assert_eq!(told, expected);
                    assert!(members.take_changes().is_empty());
                }
            }
            assert_eq!(members.draining(), stored.values().filter(|(_, instance)| instance.is_draining()).count());
        }
    }

    proptest! {
        #[test]
        fn changes_lead_to_what_is_named(steps in steps()) {
            leads_to_what_is_named(&steps);
        }
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), step(), |(), steps| {
            leads_to_what_is_named(&steps);
            Ok(())
        });
    }

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
