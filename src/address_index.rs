//! The server addresses that a set of instances names, each with its claims. PURE.
//!
//! The resolver tells tower's balancers of addresses with it, and the balanced channel keeps one
//! subchannel for each. Both want one server for one address, however many instances name it, and
//! both leave out instances that are draining. They differ in what they keep of an instance (`V`),
//! and in which changes they pass on.
//!
//! A claim may be in doubt: the directory has lost the instance, in a way in which it may still be
//! there. An address has claims in doubt only if it has no others.

use std::collections::{BTreeMap, HashMap};

use crate::address::{Address, Authority};
use crate::instance::Instance;

/// The addresses that instances claim. `K` is the owner of a claim, `V` is kept of the
/// instance; both may be `()`, where a count is all that is needed.
pub(crate) struct AddressIndex<K, V> {
    /// Looked up alone and never walked over, so that runs repeat, and a lookup costs the same among many addresses as among few.
    claims: HashMap<Authority, Vec<Claim<K, V>>>,
    /// The authorities that changed since they were last asked for, and how each was then, if it
    /// was there.
    changed: BTreeMap<Authority, Option<AddressState>>,
}

/// One instance names one address.
struct Claim<K, V> {
    key: K,
    secure: bool,
    doubt: Option<Doubt>,
    value: V,
}

/// In which way the directory has lost an instance that may still be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// Most instances went one after the other, in a short time. All of them may have left.
    Gradual,
    /// Most instances went at once, as servers do not leave.
    Sudden,
}

/// What its claims make of an address.
#[derive(Clone, Copy, PartialEq)]
struct AddressState {
    /// The server speaks TLS: one claim that says so outweighs all that do not.
    secure: bool,
    /// All of its claims are in doubt.
    doubt: Option<Doubt>,
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
    /// All instances that name it are in doubt. It was `Present` before.
    InDoubt(Authority, Doubt),
    /// No instance names it any more.
    Gone(Authority),
}

impl<K, V> Default for AddressIndex<K, V> {
    fn default() -> Self {
        Self { claims: HashMap::new(), changed: BTreeMap::new() }
    }
}

impl<K: Clone + PartialEq, V: Clone> AddressIndex<K, V> {
    /// Adds the claims of an instance: one for each of its addresses. An instance that is draining
    /// takes no new calls, so it claims none; this is the one place that says so.
    ///
    /// Claims in doubt of these addresses are dropped, also if it is draining: the directory says again
    /// what the servers are.
    pub(crate) fn insert(&mut self, key: &K, instance: &Instance, value: &V) {
        self.change_claims(instance, |claims, _| claims.retain(|claim| claim.doubt.is_none()));
        self.claim(instance, |claims, secure| {
            claims.push(Claim { key: key.clone(), secure, doubt: None, value: value.clone() });
        });
    }

    /// Puts the claims of an instance that was inserted under this key in doubt, or drops those of
    /// addresses that are listed otherwise.
    pub(crate) fn put_in_doubt(&mut self, key: &K, instance: &Instance, doubt: Doubt) {
        self.claim(instance, |claims, secure| {
            let own = claims.iter_mut().filter(|claim| claim.key == *key && claim.secure == secure);
            own.for_each(|claim| claim.doubt = Some(doubt));
        });
        self.claim(instance, |claims, _| {
            if claims.iter().any(|claim| claim.doubt.is_none()) {
                claims.retain(|claim| claim.doubt.is_none());
            }
        });
    }

    /// Takes back the claims of an instance that was inserted under this key.
    pub(crate) fn remove(&mut self, key: &K, instance: &Instance) {
        self.claim(instance, |claims, secure| {
            let own = claims.iter().position(|claim| claim.key == *key && claim.secure == secure);
            own.into_iter().for_each(|own| drop(claims.remove(own)));
        });
    }

    fn claim(&mut self, instance: &Instance, change: impl FnMut(&mut Vec<Claim<K, V>>, bool)) {
        if !instance.is_draining() {
            self.change_claims(instance, change);
        }
    }

    /// Changes the claims of each address of an instance.
    fn change_claims(&mut self, instance: &Instance, mut change: impl FnMut(&mut Vec<Claim<K, V>>, bool)) {
        for address in instance.addresses() {
            let authority = address.parsed_authority();
            let claims = self.claims.entry(authority.clone()).or_default();
            self.changed.entry(authority.clone()).or_insert_with(|| state_of(claims));
            change(claims, address.is_secure());
        }
    }

    /// What has changed since this was last called, in the order of addresses. An address that came
    /// and went in between is left out.
    pub(crate) fn take_changes(&mut self) -> Vec<AddressChange<V>> {
        let change = |(authority, before): (Authority, Option<AddressState>)| {
            let claims = self.claims.get(&authority).map(Vec::as_slice).unwrap_or_default();
            let state = state_of(claims);
            match state {
                Some(AddressState { secure, doubt: None }) => {
                    let last = claims.last()?;
                    let (value, is_new) = (last.value.clone(), before.map(|before| before.secure) != Some(secure));
                    Some(AddressChange::Present { address: Address::from_parts(authority, secure), value, is_new })
                }
                Some(AddressState { doubt: Some(doubt), .. }) => {
                    let Some(before) = before else {
                        self.claims.remove(&authority); // it was never told: there is nothing to keep
                        return None;
                    };
                    (before.doubt != Some(doubt)).then_some(AddressChange::InDoubt(authority, doubt))
                }
                None => {
                    self.claims.remove(&authority);
                    before.map(|_| AddressChange::Gone(authority))
                }
            }
        };
        std::mem::take(&mut self.changed).into_iter().filter_map(change).collect()
    }
}

/// What the claims make of their address; `None` if there are none. All of them are in doubt, or none.
fn state_of<K, V>(claims: &[Claim<K, V>]) -> Option<AddressState> {
    let doubt = claims.iter().filter_map(|claim| claim.doubt).max();
    (!claims.is_empty()).then(|| AddressState { secure: claims.iter().any(|claim| claim.secure), doubt })
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
            AddressChange::InDoubt(authority, doubt) => format!("?{} {doubt:?}", authority.as_str()),
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

    #[test]
    fn an_address_has_claims_in_doubt_only_if_it_has_no_others() {
        let mut index = AddressIndex::default();
        let (plain, secure) = (instance("h:1"), instance("https://h:1"));
        index.insert(&"a", &secure, &1);
        index.insert(&"b", &plain, &2);
        assert_eq!(changes(&mut index), ["+https://h:1 2"]);
        index.put_in_doubt(&"a", &secure, Doubt::Gradual);
        assert_eq!(changes(&mut index), ["+h:1 2"], "who says TLS is in doubt");
        index.put_in_doubt(&"b", &plain, Doubt::Sudden);
        assert_eq!(changes(&mut index), ["?h:1 Sudden"]);
        index.put_in_doubt(&"b", &plain, Doubt::Sudden);
        assert!(changes(&mut index).is_empty());
        index.insert(&"c", &secure, &3);
        assert_eq!(changes(&mut index), ["+https://h:1 3"]);
        index.remove(&"c", &secure);
        assert_eq!(changes(&mut index), ["-h:1"], "it was listed after the doubt, and has left");
        index.remove(&"b", &plain);
        index.insert(&"d", &plain, &4);
        index.put_in_doubt(&"d", &plain, Doubt::Sudden);
        assert!(changes(&mut index).is_empty(), "it was never told");
        index.remove(&"d", &plain);
        assert!(changes(&mut index).is_empty() && index.claims.is_empty());
    }

    #[test]
    fn two_keys_that_are_lost_together_leave_their_address_in_doubt() {
        let mut index = AddressIndex::default();
        let one = instance("h:1");
        index.insert(&"a", &one, &1);
        index.insert(&"b", &one, &2);
        assert_eq!(changes(&mut index), ["+h:1 2"]);
        index.put_in_doubt(&"a", &one, Doubt::Sudden);
        index.put_in_doubt(&"b", &one, Doubt::Sudden);
        assert_eq!(changes(&mut index), ["?h:1 Sudden"]);
    }
}
