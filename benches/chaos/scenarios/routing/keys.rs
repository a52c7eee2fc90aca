//! Consistent hash without servers: which keys move when one leaves, joins and returns?

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use test_support::Bar;
use tonic_etcd::policy::{ConsistentHash, Pick, Picker, Policy, ReadySet};
use tonic_etcd::testing::{TestCall, TestServer, ready_set, ready_set_within};

use crate::findings::Findings;
use crate::world::{Result, World};

const SERVERS: usize = 20;
const KEYS: usize = 10_000;
const SEEDS: usize = 10;
const KEY: &str = "x-key";

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let policy = ConsistentHash::by_header(KEY)?;
    let (mut left, mut joined, mut fullest) = (0.0_f64, 0.0_f64, 0.0_f64);
    let (mut strayed, mut not_back) = (0, 0);
    for seed in 0..SEEDS {
        let servers: Vec<_> = (0..=SERVERS).map(|server| format!("10.0.{seed}.{server}:50051")).collect();
        let (with, more) = (&servers[..SERVERS], &servers[..]);
        let gone = &servers[seed * SERVERS / SEEDS];
        let without: Vec<_> = with.iter().filter(|server| *server != gone).cloned().collect();
        let all = set(with);
        // Registered no more; and registered, but not connected.
        let not_connected = ready_set_within(all.selected(), without.iter().map(|server| TestServer::at(server)));
        let before = owners(&policy, &all, seed)?;
        for after in [owners(&policy, &set(&without), seed)?, owners(&policy, &not_connected, seed)?] {
            let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
            left = left.max(moved.len() as f64 / KEYS as f64);
            strayed += moved.iter().filter(|(before, _)| *before != gone).count();
        }
        let after = owners(&policy, &set(more), seed)?;
        let moved: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
        joined = joined.max(moved.len() as f64 / KEYS as f64);
        strayed += moved.iter().filter(|(_, after)| **after != servers[SERVERS]).count();
        let connected_again =
            ready_set_within(not_connected.selected(), with.iter().map(|server| TestServer::at(server)));
        let returned = owners(&policy, &connected_again, seed)?;
        not_back += before.iter().zip(&returned).filter(|(before, returned)| before != returned).count();
        let counts = with.iter().map(|server| before.iter().filter(|owner| *owner == server).count());
        fullest = fullest.max(counts.max().unwrap_or_default() as f64 / (KEYS as f64 / SERVERS as f64));
    }
    let of = "10 000 keys, 20 servers, worst of 10 seeds";
    findings.ours(&format!("keys that move when one leaves, {of}"), left * 100.0, "%", Bar::AtMost(7.5));
    findings.ours(&format!("keys that move when one joins, {of}"), joined * 100.0, "%", Bar::AtMost(7.5));
    let of = "10 000 keys, 20 servers, sum of 10 seeds";
    findings.ours(&format!("keys that move between two that stayed, {of}"), strayed as f64, "", Bar::Equal(0.0));
    findings.ours(&format!("keys that are not back when it returns, {of}"), not_back as f64, "", Bar::Equal(0.0));
    let name = "keys of the fullest server / mean, 10 000 keys, 20 servers, worst of 10 seeds";
    findings.ours(name, fullest, "×", Bar::AtMost(1.3));
    Ok(())
}

fn set(servers: &[String]) -> ReadySet {
    ready_set(servers.iter().map(|server| TestServer::at(server)))
}

/// The address of the server that each key belongs to.
fn owners(policy: &ConsistentHash, set: &ReadySet, seed: usize) -> Result<Vec<String>> {
    let picker: Arc<dyn Picker> = policy.picker(set);
    let owner = |key: usize| {
        let value = HeaderValue::try_from(format!("{seed}/{key}"))?;
        let call = TestCall::new("/helloworld.Greeter/SayHello").with_header(HeaderName::from_static(KEY), value);
        match picker.pick(&call.call()) {
            Pick::Server(server) => Ok(set.servers()[server].address().to_string()),
            other => Err(format!("a key has no server: {other:?}").into()),
        }
    };
    (0..KEYS).map(owner).collect()
}
