//! The changes of a service's server addresses, for tower's balancers. PURE.

use std::fmt;
use std::sync::Arc;

use tower::discover::Change;

use crate::address::{Address, Authority};
use crate::address_index::{AddressChange, AddressIndex};
use crate::resolver::snapshot::{Snapshot, diff};

/// Identifies one server address of a service in a balancer, however many etcd keys name the
/// address.
///
/// Opaque; shown as `host:port`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerKey(Authority);

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The servers as they were last told to a reader.
///
/// A server is there while at least one instance that is not draining names its address. Its scheme
/// is `https` while at least one of them says so.
#[derive(Default)]
pub(crate) struct Servers {
    /// The snapshot of which the reader was told.
    snapshot: Arc<Snapshot>,
    /// The addresses that it names.
    index: AddressIndex<(), ()>,
}

impl Servers {
    /// The changes that lead a reader from the last snapshot to this one. Inserts come first, so
    /// that a set that is replaced is never empty. Nothing for an address that stayed equal.
    pub(crate) fn advance(&mut self, snapshot: Arc<Snapshot>) -> Vec<Change<ServerKey, Address>> {
        for change in diff(&self.snapshot, &snapshot) {
            let before = change.before.iter().flat_map(|entry| entry.instances());
            before.for_each(|instance| self.index.remove(&(), instance));
            let after = change.after.iter().flat_map(|entry| entry.instances());
            after.for_each(|instance| self.index.insert(&(), instance, &()));
        }
        self.snapshot = snapshot;
        let (mut changes, mut removes) = (Vec::new(), Vec::new());
        for change in self.index.take_changes() {
            match change {
                AddressChange::Present { address, is_new: true, .. } => {
                    changes.push(Change::Insert(ServerKey(address.parsed_authority().clone()), address));
                }
                AddressChange::Present { .. } | AddressChange::InDoubt(..) => {} // a snapshot has none in doubt
                AddressChange::Gone(authority) => removes.push(Change::Remove(ServerKey(authority))),
            }
        }
        changes.append(&mut removes);
        changes
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::codec::DecodeError;
    use crate::instance::Instance;
    use crate::resolver::snapshot::SnapshotEntry;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    /// Key, and the addresses that it names; none is an unreadable record.
    type Record = (u8, Vec<(u8, bool)>);

    fn entry((key, addresses): &Record) -> SnapshotEntry {
        let instance = |(port, secure): &(u8, bool)| {
            let scheme = if *secure { "https://" } else { "" };
            Instance::new(format!("{scheme}h:{}", u16::from(*port) + 1)).unwrap()
        };
        let read = match addresses.as_slice() {
            [] => Err(DecodeError::new("bad")),
            addresses => Ok(addresses.iter().map(instance).collect()),
        };
        SnapshotEntry::new(&[*key], read)
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let addresses = proptest::collection::vec((0u8..6, proptest::bool::weighted(0.2)), 0..3);
        proptest::collection::vec((0u8..12, addresses), 0..12)
    }

    /// What every address of a snapshot is, TLS outweighing plain text.
    fn expected(snapshot: &Snapshot) -> BTreeMap<String, bool> {
        let mut servers = BTreeMap::new();
        for address in snapshot.instances().flat_map(Instance::addresses) {
            *servers.entry(address.authority().to_owned()).or_default() |= address.is_secure();
        }
        servers
    }

    proptest! {
        #[test]
        fn a_reader_always_knows_exactly_what_is_named(sets in sets()) {
            reader_knows(&sets)?;
        }
    }

    fn reader_knows(sets: &[Vec<Record>]) -> TestCaseResult {
        let (mut servers, mut snapshot) = (Servers::default(), Snapshot::default());
        let mut known: BTreeMap<String, bool> = BTreeMap::new();
        for (revision, set) in (1..).zip(sets) {
            snapshot.restore(revision, set.iter().map(entry).collect());
            let mut removing = false;
            for change in servers.advance(Arc::new(snapshot.clone())) {
                match change {
                    Change::Insert(key, address) => {
                        prop_assert!(!removing, "inserts before removes");
                        let secure = address.is_secure();
                        prop_assert_ne!(known.insert(key.to_string(), secure), Some(secure), "never what is equal");
                    }
                    Change::Remove(key) => {
                        removing = true;
                        prop_assert!(known.remove(&key.to_string()).is_some(), "never what was not inserted");
                    }
                }
            }
            prop_assert_eq!(&known, &expected(&snapshot));
            prop_assert!(servers.advance(Arc::new(snapshot.clone())).is_empty());
        }
        Ok(())
    }

    fn sets() -> impl Strategy<Value = Vec<Vec<Record>>> {
        proptest::collection::vec(records(), 1..12)
    }

    /// The fuzz target: the same property.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with_steps(bytes, Just(()), records(), |(), sets| reader_knows(&sets));
    }

    #[test]
    fn says_nothing_when_only_weight_or_metadata_changes() {
        let (mut servers, mut snapshot) = (Servers::default(), Snapshot::default());
        let put = |snapshot: &mut Snapshot, key: &[u8], weight| {
            snapshot.put(SnapshotEntry::new(key, Ok(vec![Instance::new("h:1").unwrap().with_stored_weight(weight)])))
        };
        put(&mut snapshot, b"a", 1);
        assert_eq!(servers.advance(Arc::new(snapshot.clone())).len(), 1);
        assert!(put(&mut snapshot, b"a", 2) && put(&mut snapshot, b"b", 2));
        assert!(servers.advance(Arc::new(snapshot.clone())).is_empty());
        snapshot.remove(b"a");
        assert!(servers.advance(Arc::new(snapshot.clone())).is_empty());
        snapshot.remove(b"b");
        assert!(matches!(servers.advance(Arc::new(snapshot.clone())).as_slice(), [Change::Remove(_)]));
    }
}
