//! The members that SRV records name, in the order of RFC 2782. PURE: the randomness is a seed.
//!
//! The order is stable: the same records and seed give the same order however DNS shuffles its
//! answer. So a lookup that brings the same records changes nothing, and no connection moves.

use std::collections::HashSet;

use crate::address::Authority;
use crate::backoff::Random;
use crate::etcd::members::endpoint::Endpoint;

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    /// The lowest priority is tried first.
    pub(crate) priority: u16,
    /// The share among records of one priority.
    pub(crate) weight: u16,
    /// The port of the member.
    pub(crate) port: u16,
    /// The host name of the member.
    pub(crate) target: String,
}

/// The name of the records, as etcdctl builds it. `name` is the suffix of one of several clusters
/// in a domain.
pub(crate) fn record_name(domain: &str, secure: bool, name: Option<&str>) -> String {
    let ssl = if secure { "-ssl" } else { "" };
    let (dash, name) = name.map_or(("", ""), |name| ("-", name));
    format!("_etcd-client{ssl}{dash}{name}._tcp.{domain}")
}

/// The members that the records name, in the order in which they are tried: by priority, and within
/// one priority at random by weight. The same seed and records give the same order. Records that
/// name no host are left out.
pub(crate) fn ordered_members(records: &[(Record, bool)], seed: u64) -> Vec<Endpoint> {
    let mut rest: Vec<(Endpoint, u16)> =
        records.iter().filter_map(|(record, secure)| member(record, *secure)).collect();
    // The order of DNS is random. Within a priority, records of weight 0 come first, as RFC 2782
    // asks.
    rest.sort_by(|(a, w), (b, v)| (a.priority, w, &a.text).cmp(&(b.priority, v, &b.text)));
    let (mut random, mut sorted, mut known) = (Random(seed), Vec::new(), HashSet::new());
    while let Some(priority) = rest.first().map(|(first, _)| first.priority) {
        let same = rest.iter().take_while(|(endpoint, _)| endpoint.priority == priority).count();
        let sum: u64 = rest[..same].iter().map(|(_, weight)| u64::from(*weight)).sum();
        let (mut chosen, drawn) = (0, random.next() % (sum + 1));
        let mut running = u64::from(rest[0].1);
        while running < drawn && chosen + 1 < same {
            chosen += 1;
            running += u64::from(rest[chosen].1);
        }
        let (endpoint, _) = rest.remove(chosen);
        if known.insert(endpoint.text.clone()) {
            sorted.push(endpoint);
        }
    }
    sorted
}

/// The endpoint and the weight of a record. `None` for the target ".", which says that there is no
/// such service, and for what is no host name.
fn member(record: &Record, secure: bool) -> Option<(Endpoint, u16)> {
    let host = record.target.trim_end_matches('.');
    let authority = Authority::parse(&format!("{host}:{}", record.port), None).ok()?;
    Some((Endpoint::of_record(authority, secure, record.priority), record.weight))
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> (Record, bool) {
        (Record { priority, weight, port: 2379, target: target.into() }, false)
    }

    fn order(records: &[(Record, bool)], seed: u64) -> Vec<String> {
        ordered_members(records, seed).into_iter().map(|member| member.text).collect()
    }

    #[test]
    fn names_are_those_of_etcdctl() {
        assert_eq!(record_name("example.org", false, None), "_etcd-client._tcp.example.org");
        assert_eq!(record_name("example.org", true, Some("blue")), "_etcd-client-ssl-blue._tcp.example.org");
    }

    #[test]
    fn priorities_come_before_weights() {
        let records = [record(2, 60_000, "c"), record(1, 0, "a"), record(1, 1, "b"), record(3, 0, "d")];
        for seed in 0..100 {
            let mut sorted = order(&records, seed);
            assert_eq!(sorted.split_off(2), ["http://c:2379", "http://d:2379"]);
        }
    }

    #[test]
    fn weights_share_out_the_first_place() {
        let records = [record(0, 30, "a"), record(0, 10, "b"), record(0, 0, "c")];
        let first = |name: &str| (0..4_000).filter(|seed| order(&records, *seed)[0].contains(name)).count();
        let (a, b, c) = (first("//a"), first("//b"), first("//c"));
        assert!((2_700..3_200).contains(&a) && (800..1_200).contains(&b) && (20..250).contains(&c), "{a} {b} {c}");
        let alike = [record(0, 0, "a"), record(0, 0, "b"), record(0, 0, "c")];
        assert_eq!(order(&alike, 1).len(), 3);
    }

    #[test]
    fn the_same_records_give_the_same_order() {
        let mut records = vec![record(0, 5, "a"), record(0, 5, "b"), record(0, 5, "c"), record(0, 5, "a")];
        let sorted = order(&records, 7);
        assert_eq!(sorted.len(), 3);
        records.reverse();
        assert_eq!(order(&records, 7), sorted);
    }

    /// F18: what is no host is left out, and with it whatever else it may be.
    #[test]
    fn what_names_no_host_is_left_out() {
        for target in [".", "", "root:secret@h", "a b", "1.2.3", "h:1", "ä"] {
            assert!(order(&[record(0, 0, target)], 1).is_empty(), "{target}");
        }
        let port_0 = Record { priority: 0, weight: 0, port: 0, target: "h".into() };
        assert!(order(&[(port_0, false)], 1).is_empty());
        let secure = Record { priority: 0, weight: 0, port: 1, target: "H.example.org.".into() };
        assert_eq!(order(&[(secure, true)], 1), ["https://h.example.org:1"]);
    }

    proptest! {
        #[test]
        fn every_host_has_its_place((all, seed) in records()) {
            places_are_right(&all, seed)?;
        }
    }

    /// Priority, weight and target of each, and a seed.
    fn records() -> impl Strategy<Value = (Vec<(u16, u16, String)>, u64)> {
        let target = proptest::collection::vec(prop::sample::select(&['a', 'b', 'c', '.'][..]), 0..3)
            .prop_map(String::from_iter);
        (proptest::collection::vec((0u16..3, any::<u16>(), target), 0..8), any::<u64>())
    }

    fn places_are_right(all: &[(u16, u16, String)], seed: u64) -> TestCaseResult {
        let records: Vec<_> = all.iter().map(|(priority, weight, target)| record(*priority, *weight, target)).collect();
        let members = ordered_members(&records, seed);
        prop_assert!(members.is_sorted_by_key(|member| member.priority));
        let hosts: HashSet<_> =
            all.iter().map(|(.., target)| target.trim_end_matches('.')).filter(|t| !t.is_empty()).collect();
        prop_assert_eq!(members.len(), hosts.len());
        Ok(())
    }

    /// The fuzz target: the same property, and targets of any text.
    pub(crate) fn fuzz(bytes: &[u8]) {
        crate::fuzzing::with(bytes, records(), |(all, seed)| places_are_right(&all, seed));
        let lines = String::from_utf8_lossy(bytes);
        let records: Vec<_> = lines.lines().zip(0..).map(|(line, n)| record(n % 3, n, line)).collect();
        let members = ordered_members(&records, bytes.len() as u64);
        assert!(members.is_sorted_by_key(|member| member.priority));
        for member in &members {
            assert_eq!(
                Endpoint::parse(&member.text, false).as_ref().map(|read| &read.authority),
                Ok(&member.authority)
            );
        }
    }
}
