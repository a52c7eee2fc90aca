//! The instances of a source of servers, and the addresses that they name. PURE.
//!
//! An instance that the source has lost in a doubtful way is *in doubt*: it stays, and names those of its
//! addresses that no other instance names, until it is removed or inserted again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tower::discover::Change;

use crate::address_index::{AddressChange, AddressIndex, Doubt};
use crate::instance::Instance;

/// What has become of an instance of a source of servers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum InstanceChange<K> {
    /// It is there, with this record.
    Insert(K, Instance),
    /// It is not there any more.
    Remove(K),
    /// The source has lost it, in a way in which it may still be there.
    PutInDoubt(K, Doubt),
}

impl<K> From<Change<K, Instance>> for InstanceChange<K> {
    fn from(change: Change<K, Instance>) -> Self {
        match change {
            Change::Insert(key, instance) => Self::Insert(key, instance),
            Change::Remove(key) => Self::Remove(key),
        }
    }
}

/// Keys of the source, each with the instance that it stands for.
pub(crate) struct Members<K> {
    /// With those that are draining, which name no address.
    instances: HashMap<K, Member>,
    /// Has the claims of exactly these instances.
    index: AddressIndex<K, Arc<Instance>>,
}

/// An instance.
struct Member {
    instance: Arc<Instance>,
    is_in_doubt: bool,
}

impl<K: Hash + Eq + Clone> Members<K> {
    pub(crate) fn new() -> Self {
        Self { instances: HashMap::new(), index: AddressIndex::default() }
    }

    /// Applies a change of the source. An instance that is equal to the known one changes nothing.
    pub(crate) fn apply(&mut self, change: InstanceChange<K>) {
        match change {
            InstanceChange::Insert(key, instance) => {
                let is_same = |known: &Member| !known.is_in_doubt && *known.instance == instance;
                if self.instances.get(&key).is_some_and(is_same) {
                    return;
                }
                self.remove(&key);
                let instance = Arc::new(instance);
                self.index.insert(&key, &instance, &instance);
                self.instances.insert(key, Member { instance, is_in_doubt: false });
            }
            InstanceChange::Remove(key) => self.remove(&key),
            InstanceChange::PutInDoubt(key, doubt) => {
                if let Some(member) = self.instances.get_mut(&key) {
                    member.is_in_doubt = true;
                    self.index.put_in_doubt(&key, &member.instance, doubt);
                }
            }
        }
    }

    /// Takes back the claims of a key. A key that is not known changes nothing.
    fn remove(&mut self, key: &K) {
        if let Some(member) = self.instances.remove(key) {
            self.index.remove(key, &member.instance);
        }
    }

    /// What has become of addresses since this was last called; each with the instance that was put
    /// last.
    pub(crate) fn take_changes(&mut self) -> Vec<AddressChange<Arc<Instance>>> {
        self.index.take_changes()
    }

    /// The instances that are draining, in any order.
    pub(crate) fn draining(&self) -> impl Iterator<Item = &Instance> {
        let is_draining = |member: &&Member| member.instance.is_draining() && !member.is_in_doubt;
        self.instances.values().filter(is_draining).map(|member| &*member.instance)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    /// Put under a key: addresses (host, whether it speaks TLS), weight, whether it is draining. Or remove the key.
    type Put = (Vec<(u8, bool)>, u32, bool);

    #[derive(Clone, Debug)]
    enum Step {
        Apply(u8, Option<Put>),
        Doubt(u8, bool),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let put = (proptest::collection::vec((0_u8..5, any::<bool>()), 1..3), 0_u32..3, prop::bool::weighted(0.2));
        prop_oneof![
            3 => (0_u8..6, proptest::option::weighted(0.7, put)).prop_map(|(key, put)| Step::Apply(key, put)),
            1 => (0_u8..6, any::<bool>()).prop_map(|(key, sudden)| Step::Doubt(key, sudden)),
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

    /// What the source has said of a key: in which order, which instance, and whether it is in doubt.
    type Stored = (u32, Instance, Option<Doubt>);

    /// What was told of addresses.
    #[derive(Default, PartialEq, Debug)]
    struct Told {
        present: BTreeMap<String, (bool, Instance)>,
        in_doubt: BTreeMap<String, Doubt>,
    }

    impl Told {
        fn hear(&mut self, change: AddressChange<Arc<Instance>>) {
            match change {
                AddressChange::Present { address, value, is_new } => {
                    let now = (address.is_secure(), (*value).clone());
                    let was_in_doubt = self.in_doubt.remove(address.authority()).is_some();
                    let known = self.present.insert(address.authority().into(), now);
                    let differs = known.is_none_or(|(secure, _)| secure != address.is_secure());
                    assert!(was_in_doubt || is_new == differs, "{address}");
                }
                AddressChange::InDoubt(authority, doubt) => {
                    let was_present = self.present.remove(authority.as_str()).is_some();
                    let was = self.in_doubt.insert(authority.as_str().into(), doubt);
                    assert!(was_present || was.is_some_and(|was| was != doubt), "never what was not told");
                }
                AddressChange::Gone(authority) => {
                    let was_present = self.present.remove(authority.as_str()).is_some();
                    let was_in_doubt = self.in_doubt.remove(authority.as_str()).is_some();
                    assert!(was_present || was_in_doubt, "never what was not told");
                }
            }
        }

        /// What is to be told of these instances. Claims in doubt of an address that was not told before are dropped.
        fn of(&self, stored: &BTreeMap<u8, Stored>, dropped: &mut BTreeSet<(u8, String)>) -> Self {
            let mut expected = Self::default();
            let mut in_order: Vec<_> = stored.values().filter(|(_, instance, _)| !instance.is_draining()).collect();
            in_order.sort_by_key(|(put, ..)| *put);
            for (_, instance, _) in in_order.iter().filter(|(.., doubt)| doubt.is_none()) {
                for address in instance.addresses() {
                    let secure = expected.present.get(address.authority()).is_some_and(|(secure, _)| *secure);
                    let now = (secure || address.is_secure(), instance.clone());
                    expected.present.insert(address.authority().into(), now);
                }
            }
            for (key, (_, instance, doubt)) in stored.iter().filter(|(_, (_, instance, _))| !instance.is_draining()) {
                for authority in instance.addresses().iter().map(|address| address.authority().to_owned()) {
                    let (Some(doubt), claim) = (*doubt, (*key, authority.clone())) else { continue };
                    if !self.present.contains_key(&authority) && !self.in_doubt.contains_key(&authority) {
                        dropped.insert(claim.clone());
                    }
                    if !dropped.contains(&claim) {
                        let most = expected.in_doubt.entry(authority).or_insert(doubt);
                        *most = doubt.max(*most);
                    }
                }
            }
            expected
        }
    }

    /// Notes which claims in doubt are dropped now: those of addresses that are listed too.
    fn drop_listed(stored: &BTreeMap<u8, Stored>, dropped: &mut BTreeSet<(u8, String)>) {
        let of = |in_doubt: bool| {
            let chosen = stored
                .iter()
                .filter(move |(_, (_, instance, doubt))| !instance.is_draining() && doubt.is_some() == in_doubt);
            chosen.flat_map(|(key, (_, instance, _))| {
                instance.addresses().iter().map(|address| (*key, address.authority().to_owned()))
            })
        };
        let listed: BTreeSet<String> = of(false).map(|(_, authority)| authority).collect();
        dropped.extend(of(true).filter(|(_, authority)| listed.contains(authority)));
    }

    /// Against a plain map of keys: what was told always leads to what is named, and nothing is told twice.
    fn leads_to_what_is_named(steps: &[Step]) {
        let (mut members, mut puts) = (Members::new(), 0);
        let mut stored: BTreeMap<u8, Stored> = BTreeMap::new();
        let (mut told, mut dropped) = (Told::default(), BTreeSet::new());
        for step in steps.iter().chain([&Step::Take]) {
            match step {
                Step::Apply(key, Some(put)) => {
                    let instance = instance_of(put);
                    members.apply(InstanceChange::Insert(*key, instance.clone()));
                    puts += 1;
                    if stored.get(key).is_none_or(|(_, known, doubt)| *known != instance || doubt.is_some()) {
                        dropped.retain(|(of, _)| of != key);
                        // It says again what these servers are, also if it is draining.
                        for address in instance.addresses() {
                            let others = stored.iter().filter(|(other, (.., doubt))| *other != key && doubt.is_some());
                            let of_it = others.filter(|(_, (_, other, _))| {
                                other.addresses().iter().any(|known| known.authority() == address.authority())
                            });
                            dropped.extend(of_it.map(|(other, _)| (*other, address.authority().to_owned())));
                        }
                        stored.insert(*key, (puts, instance, None));
                    }
                }
                Step::Apply(key, None) => {
                    members.apply(InstanceChange::Remove(*key));
                    stored.remove(key);
                    dropped.retain(|(of, _)| of != key);
                }
                Step::Doubt(key, is_sudden) => {
                    let doubt = if *is_sudden { Doubt::Sudden } else { Doubt::Gradual };
                    members.apply(InstanceChange::PutInDoubt(*key, doubt));
                    stored.entry(*key).and_modify(|(.., known)| *known = Some(doubt));
                }
                Step::Take => {
                    let expected = told.of(&stored, &mut dropped);
                    members.take_changes().into_iter().for_each(|change| told.hear(change));
                    assert_eq!(told, expected);
                    assert!(members.take_changes().is_empty());
                }
            }
            drop_listed(&stored, &mut dropped);
            let draining = stored.values().filter(|(_, instance, doubt)| instance.is_draining() && doubt.is_none());
            assert_eq!(members.draining().count(), draining.count());
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
            AddressChange::InDoubt(authority, doubt) => format!("?{} {doubt:?}", authority.as_str()),
            AddressChange::Gone(authority) => format!("-{}", authority.as_str()),
        };
        members.take_changes().into_iter().map(show).collect()
    }

    #[test]
    fn two_keys_with_one_address_are_one_server() {
        let mut members = Members::new();
        members.apply(InstanceChange::Insert("a", instance("h:1")));
        members.apply(InstanceChange::Insert("b", instance("https://h:1").with_stored_weight(3)));
        assert_eq!(changes(&mut members), ["https://h:1 Some(3)"]);
        members.apply(InstanceChange::Remove("b"));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(InstanceChange::Remove("b"));
        assert!(changes(&mut members).is_empty());
        members.apply(InstanceChange::Remove("a"));
        assert_eq!(changes(&mut members), ["-h:1"]);
    }

    /// F41: what is draining names no server, in whatever order its keys come.
    #[test]
    fn what_is_draining_names_no_server() {
        let mut members = Members::new();
        members.apply(InstanceChange::Insert("a", instance("h:1").with_draining(true)));
        assert!(changes(&mut members).is_empty());
        members.apply(InstanceChange::Insert("b", instance("h:1").with_stored_weight(3)));
        members.apply(InstanceChange::Insert("a", instance("h:1").with_draining(true).with_stored_weight(5)));
        assert_eq!((changes(&mut members), members.draining().count()), (vec!["h:1 Some(3)".to_owned()], 1));
        members.apply(InstanceChange::Insert("b", instance("h:1").with_draining(true)));
        assert_eq!((changes(&mut members), members.draining().count()), (vec!["-h:1".to_owned()], 2));
        members.apply(InstanceChange::Remove("b"));
        members.apply(InstanceChange::Insert("a", instance("h:1")));
        assert_eq!((changes(&mut members), members.draining().count()), (vec!["h:1 None".to_owned()], 0));
    }

    #[test]
    fn what_is_put_again_is_not_gone_in_between() {
        let mut members = Members::new();
        members.apply(InstanceChange::Insert(1, instance("h:1")));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(InstanceChange::Remove(1));
        members.apply(InstanceChange::Insert(2, instance("h:1")));
        assert_eq!(changes(&mut members), ["h:1 None"]);
        members.apply(InstanceChange::Insert(2, instance("h:1")));
        assert!(changes(&mut members).is_empty(), "an equal instance is no change");
        members.apply(InstanceChange::Insert(2, instance("h:2")));
        assert_eq!(changes(&mut members), ["-h:1", "h:2 None"]);
    }

    #[test]
    fn what_is_in_doubt_stays_until_it_is_removed_or_there_again() {
        let mut members = Members::new();
        for (key, address) in [("a", "h:1"), ("b", "h:2"), ("c", "h:1")] {
            members.apply(InstanceChange::Insert(key, instance(address)));
        }
        assert_eq!(changes(&mut members), ["h:1 None", "h:2 None"]);
        for key in ["a", "b", "unknown"] {
            members.apply(InstanceChange::PutInDoubt(key, Doubt::Sudden));
        }
        assert_eq!(changes(&mut members), ["h:1 None", "?h:2 Sudden"], "another key still names h:1");
        members.apply(InstanceChange::Insert("b", instance("h:2")));
        members.apply(InstanceChange::Remove("c"));
        assert_eq!(changes(&mut members), ["-h:1", "h:2 None"], "h:1 was listed when the doubt arose, and has left");
        members.apply(InstanceChange::PutInDoubt("b", Doubt::Gradual));
        assert_eq!(changes(&mut members), ["?h:2 Gradual"]);
        members.apply(InstanceChange::Remove("b"));
        assert_eq!(changes(&mut members), ["-h:2"]);
    }

    /// A server that has registered again under another key says there what it is: the key that was lost counts no more.
    #[test]
    fn a_server_that_is_draining_under_another_key_is_not_kept_by_the_one_that_was_lost() {
        for again in [vec![false, true], vec![true]] {
            let mut members = Members::new();
            members.apply(InstanceChange::Insert("lost", instance("h:1")));
            assert_eq!(changes(&mut members), ["h:1 None"]);
            members.apply(InstanceChange::PutInDoubt("lost", Doubt::Sudden));
            assert_eq!(changes(&mut members), ["?h:1 Sudden"]);
            let told: Vec<_> = again
                .into_iter()
                .flat_map(|draining| {
                    members.apply(InstanceChange::Insert("again", instance("h:1").with_draining(draining)));
                    changes(&mut members)
                })
                .collect();
            assert_eq!(told.last().map(String::as_str), Some("-h:1"));
        }
    }
}
