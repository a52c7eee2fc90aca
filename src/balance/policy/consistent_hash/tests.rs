//! Which servers calls go to, in sets of servers.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::*;
use crate::Instance;
use crate::testing::{TestCall, TestServer, ready_set, ready_set_of, ready_set_within};

fn picked(picker: &dyn Picker, call: &TestCall) -> usize {
    match picker.pick(&call.call()) {
        Pick::Server(server) => server,
        other => panic!("{other:?}"),
    }
}

fn call(key: impl AsRef<[u8]>) -> TestCall {
    TestCall::new("/a.B/C").with_extension(HashKey::of(key))
}

fn servers() -> [TestServer; 5] {
    ["h:1", "h:2", "h:3", "h:4", "h:5"].map(TestServer::at)
}

#[test]
fn a_header_is_hashed_with_all_its_values() {
    let user = HeaderName::from_static("x-user");
    let with = |values: &[&'static str]| {
        let add =
            |call: TestCall, value: &&'static str| call.with_header(user.clone(), HeaderValue::from_static(value));
        values.iter().fold(TestCall::new("/a.B/C"), add)
    };
    let source = KeySource::header("X-User").unwrap();
    let key = |values: &[&'static str]| source.of(&with(values).call());
    assert_eq!(key(&["anna"]), Some(HashKey::of("anna")));
    assert_eq!(key(&["anna", "bea"]), Some(HashKey::of("anna,bea")));
    assert_eq!((key(&[""]), key(&[])), (Some(HashKey::of("")), None));
    for (name, reason) in
        [("x-user-bin", "binary"), ("X-User-Bin", "binary"), ("", "name"), ("x user", "name"), (":a", "name")]
    {
        let error = ConsistentHash::by_header(name).unwrap_err();
        assert!(error.to_string().contains(reason) && error.name() == name, "{error}");
    }
    assert_eq!(format!("{:?}", KeySource::header("X-User").unwrap()), r#"Header("x-user")"#);
}

/// XXH64's own test vectors, with seed 0.
#[test]
fn keys_are_hashed_by_xxh64() {
    assert_eq!(HashKey::of("").as_u64(), 0xef46_db37_51d8_e999);
    assert_eq!(HashKey::of("abc").as_u64(), 0x44bc_2cf5_ad77_0999);
    assert_eq!(HashKey::from_hash(7).as_u64(), 7);
}

#[test]
fn a_key_stays_at_its_server_and_calls_without_one_go_anywhere() {
    let set = ready_set(servers());
    let by_path = ConsistentHash::by(|call| (call.path() != "/").then(|| HashKey::of(call.path()))).picker(&set);
    let all: BTreeSet<_> = (0..200)
        .map(|path| {
            let call = TestCall::new(format!("/{}", path + 1));
            let server = picked(&*by_path, &call);
            assert!((0..5).all(|_| picked(&*by_path, &call) == server));
            server
        })
        .collect();
    assert_eq!(all.len(), 5);
    let without: BTreeSet<_> = (0..200).map(|_| picked(&*by_path, &TestCall::new("/"))).collect();
    assert_eq!(without.len(), 5);
    let picker = ConsistentHash::by_extension().picker(&set);
    assert_eq!((0..200).map(|_| picked(&*picker, &TestCall::new("/"))).collect::<BTreeSet<_>>().len(), 5);
}

#[test]
fn the_next_on_the_ring_gets_the_calls_of_a_server_that_is_not_ready_or_not_available() {
    let (servers, policy) = (servers(), ConsistentHash::by_extension());
    let all = ready_set(servers.clone());
    let picker = policy.picker(&all);
    for key in 0..100_u32 {
        let call = call(key.to_be_bytes());
        let own = picked(&*picker, &call);
        let next = picked(&*picker, &call.clone().without_server(own));
        assert_ne!(own, next);
        // The same one takes over when the connection is lost, and the rest of the order stays too.
        let left: Vec<_> = (0..5).filter(|server| *server != own).collect();
        let lost = ready_set_within(all.selected(), left.iter().map(|server| servers[*server].clone()));
        assert_eq!(left[picked(&*policy.picker(&lost), &call)], next);
        let third = picked(&*picker, &call.clone().without_server(own).without_server(next));
        assert!(third != own && third != next);
        // While none is available, the key's own server stands for the others.
        let none = (0..5).fold(call, TestCall::without_server);
        assert_eq!(picked(&*picker, &none), own);
    }
}

#[test]
fn a_lost_connection_builds_no_other_ring() {
    let (servers, policy) = (servers(), ConsistentHash::by_extension());
    let all = ready_set(servers.clone());
    let fewer = ready_set_within(all.selected(), servers[1..].to_vec());
    assert!(Arc::ptr_eq(&policy.ring(all.selected()), &policy.ring(fewer.selected())));
    let other = policy.clone().ring_size(0, 100);
    assert!(!Arc::ptr_eq(&policy.ring(all.selected()), &other.ring(all.selected())));
    assert!(Arc::ptr_eq(
        &policy.balance_factor(125).ring(all.selected()),
        &ConsistentHash::by(|_| None).ring(all.selected())
    ));
}

#[test]
fn a_server_is_known_by_its_id_and_by_its_address_where_it_has_several() {
    let named = |address: &str, id: &str| TestServer::new(Instance::new(address).unwrap().with_id(id));
    let name = |server: TestServer| name(ready_set([server]).selected(), 0);
    assert_eq!(name(named("h:1", "shard-1")), "shard-1");
    assert_eq!(name(TestServer::at("https://H:1")), "h:1");
    assert_eq!(name(TestServer::at("unix:/run/a.sock")), "/run/a.sock");
    let two = Instance::new("h:1").unwrap().with_address("h:2").unwrap().with_id("shard-1");
    assert_eq!(name(TestServer::new(two)), "shard-1/h:1");
    // It keeps its keys at another address.
    let policy = ConsistentHash::by_extension();
    let before = policy.picker(&ready_set([named("h:1", "a"), named("h:2", "b"), named("h:3", "c")]));
    let after = policy.picker(&ready_set([named("h:2", "b"), named("h:3", "c"), named("h:4", "a")]));
    for key in 0..100_u32 {
        let call = call(key.to_be_bytes());
        assert_eq!((picked(&*before, &call) + 2) % 3, picked(&*after, &call));
    }
}

/// An id is one server's, but if it is not, no server is left without calls, and one that is not ready without
/// one for its calls.
#[test]
fn servers_with_the_same_id_share_its_keys() {
    let server = |address| TestServer::new(Instance::new(address).unwrap().with_id("same"));
    let policy = ConsistentHash::by_extension();
    let picker = policy.picker(&ready_set(["h:1", "h:2", "h:3"].map(server)));
    let mut counts = [0; 3];
    (0..3_000_u32).for_each(|key| counts[picked(&*picker, &call(key.to_be_bytes()))] += 1);
    assert!(counts.iter().all(|count| (700..1_300).contains(count)), "{counts:?}");
    let restarted = [(server("h:1"), false), (server("h:2"), true), (TestServer::at("h:3"), true)];
    let picker = policy.picker(&ready_set_of(restarted));
    let alone = policy.picker(&ready_set([server("h:2"), TestServer::at("h:3")]));
    assert!(
        (0..100_u32).map(|key| call(key.to_be_bytes())).all(|call| picked(&*picker, &call) == picked(&*alone, &call))
    );
}

#[test]
fn servers_that_are_not_selected_are_drawn_where_no_other_is_ready() {
    let set = ready_set_within(ready_set([TestServer::at("h:9")]).selected(), servers());
    for policy in [ConsistentHash::by_extension(), ConsistentHash::by_extension().balance_factor(125)] {
        let picker = policy.picker(&set);
        assert_eq!((0..200).map(|_| picked(&*picker, &call("a"))).collect::<BTreeSet<_>>().len(), 5);
    }
}
