//! The server addresses that a set of instances names, each with its claims. PURE.
//!
//! The resolver tells tower's balancers of addresses with it, and the balanced channel keeps one
//! subchannel for each. Both want one server for one address, however many instances name it, and
//! both leave out instances that are draining. They differ in what they keep of an instance (`V`),
//! and in which changes they pass on.

use std::collections::BTreeMap;

use crate::address::{Address, Authority};
use crate::instance::Instance;

/// The addresses that instances claim. `K` is the owner of a claim, `V` is kept of the
/// instance; both may be `()`, where a count is all that is needed.
pub(crate) struct AddressIndex<K, V> {
    claims: BTreeMap<Authority, Vec<Claim<K, V>>>,
    /// The authorities that changed since they were last asked for, and how each was then: whether
    /// it spoke TLS, if it was there.
    changed: BTreeMap<Authority, Option<bool>>,
}

/// One instance names one address.
struct Claim<K, V> {
    key: K,
    secure: bool,
    value: V,
}

/// What an address has become.
#[derive(Debug, PartialEq)]
pub(crate) enum AddressChange<V> {
    /// The address is named. TLS outweighs plain text where the claims differ, and the value is
    /// that of the last claim.
    Present {
        address: Address,
        value: V,
        /// The address is new, or changed between TLS and plain text. Otherwise only its claims
        /// did.
        is_new: bool,
    },
    /// No instance names it any more.
    Gone(Authority),
}

impl<K, V> Default for AddressIndex<K, V> {
    fn default() -> Self {
        Self { claims: BTreeMap::new(), changed: BTreeMap::new() }
    }
}

impl<K: Clone + PartialEq, V: Clone> AddressIndex<K, V> {
    /// Adds the claims of an instance: one for each of its addresses. An instance that is draining
    /// takes no new calls, so it claims none; this is the one place that says so.
    pub(crate) fn insert(&mut self, key: &K, instance: &Instance, value: &V) {
        self.claim(instance, |claims, secure| claims.push(Claim { key: key.clone(), secure, value: value.clone() }));
    }

    /// Takes back the claims of an instance that was inserted under this key.
    pub(crate) fn remove(&mut self, key: &K, instance: &Instance) {
        self.claim(instance, |claims, secure| {
            let own = claims.iter().position(|claim| claim.key == *key && claim.secure == secure);
            own.into_iter().for_each(|own| drop(claims.remove(own)));
        });
    }

    fn claim(&mut self, instance: &Instance, mut change: impl FnMut(&mut Vec<Claim<K, V>>, bool)) {
        let addresses = instance.addresses().iter().filter(|_| !instance.is_draining());
        for address in addresses {
            let authority = address.parsed_authority();
            let claims = self.claims.entry(authority.clone()).or_default();
            self.changed.entry(authority.clone()).or_insert_with(|| is_secure(claims));
            change(claims, address.is_secure());
        }
    }

    /// What has changed since this was last called, in the order of addresses. An address that came
    /// and went in between is left out.
    pub(crate) fn take_changes(&mut self) -> Vec<AddressChange<V>> {
        let change = |(authority, before): (Authority, Option<bool>)| {
            let claims = self.claims.get(&authority).map(Vec::as_slice).unwrap_or_default();
            if let (Some(secure), Some(last)) = (is_secure(claims), claims.last()) {
                let (value, is_new) = (last.value.clone(), before != Some(secure));
                return Some(AddressChange::Present { address: Address::from_parts(authority, secure), value, is_new });
            }
            self.claims.remove(&authority);
            before.map(|_| AddressChange::Gone(authority))
        };
        std::mem::take(&mut self.changed).into_iter().filter_map(change).collect()
    }
}

/// Whether the server speaks TLS, if it is claimed at all: one claim that says so outweighs all
/// that do not.
fn is_secure<K, V>(claims: &[Claim<K, V>]) -> Option<bool> {
    (!claims.is_empty()).then(|| claims.iter().any(|claim| claim.secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(address: &str) -> Instance {
        Instance::new(address).unwrap()
    }

    fn changes(index: &mut AddressIndex<&'static str, u8>) -> Vec<String> {
        let show = |change: AddressChange<u8>| match change {
            AddressChange::Present { address, value, is_new } => {
                format!("{}{address} {value}", if is_new { "+" } else { "" })
            }
            AddressChange::Gone(authority) => format!("-{}", authority.as_str()),
        };
        index.take_changes().into_iter().map(show).collect()
    }

    #[test]
    fn claims_of_one_address_are_one_server_and_tls_outweighs() {
        let mut index = AddressIndex::default();
        let (plain, secure) = (instance("h:1"), instance("https://h:1"));
        index.insert(&"a", &plain, &1);
        index.insert(&"b", &secure, &2);
        assert_eq!(changes(&mut index), ["+https://h:1 2"]);
        index.insert(&"c", &plain, &3);
        assert_eq!(changes(&mut index), ["https://h:1 3"], "the last claim speaks");
        index.remove(&"b", &secure);
        assert_eq!(changes(&mut index), ["+h:1 3"]);
        index.remove(&"b", &secure);
        assert_eq!(changes(&mut index), ["h:1 3"], "it had no claim");
        index.remove(&"a", &plain);
        index.remove(&"c", &plain);
        assert_eq!(changes(&mut index), ["-h:1"]);
        assert!(changes(&mut index).is_empty() && index.claims.is_empty());
    }

    #[test]
    fn what_comes_again_is_not_gone_and_what_comes_and_goes_never_was() {
        let mut index = AddressIndex::default();
        index.insert(&"a", &instance("h:1"), &1);
        assert_eq!(changes(&mut index), ["+h:1 1"]);
        index.remove(&"a", &instance("h:1"));
        index.insert(&"b", &instance("h:1"), &2);
        index.insert(&"c", &instance("h:2"), &3);
        index.remove(&"c", &instance("h:2"));
        assert_eq!(changes(&mut index), ["h:1 2"]);
        assert_eq!(index.claims.len(), 1);
    }

    /// F41: what is draining names no server, under whatever key.
    #[test]
    fn draining_instances_claim_nothing() {
        let mut index = AddressIndex::default();
        let draining = instance("h:1").with_draining(true);
        index.insert(&"a", &draining, &1);
        assert!(changes(&mut index).is_empty());
        index.insert(&"b", &instance("h:1"), &2);
        index.remove(&"a", &draining);
        assert_eq!(changes(&mut index), ["+h:1 2"]);
    }
}
