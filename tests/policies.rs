//! The built-in policies, compiled outside of the crate: they use its public items and nothing else, so that what they do can be done by
//! any policy. Their tests run here too, on `tonic_etcd::testing`.
#![allow(unreachable_pub, dead_code, clippy::pedantic)] // they are part of a library elsewhere

// What they call `crate::policy`, `crate::testing` and `crate::Instance` are the public items here.
use tonic_etcd::{Instance, policy, testing};

#[path = "../src/balance/policy/consistent_hash/mod.rs"]
mod consistent_hash;
#[path = "../src/balance/policy/least_request.rs"]
mod least_request;
#[path = "../src/balance/policy/peak_ewma.rs"]
mod peak_ewma;
#[path = "../src/balance/policy/pick_first.rs"]
mod pick_first;
#[path = "../src/balance/policy/random.rs"]
mod random;
#[path = "../src/balance/policy/round_robin.rs"]
mod round_robin;
#[path = "../src/balance/policy/two_choices.rs"]
mod two_choices;
#[path = "../src/balance/policy/weighted_round_robin/mod.rs"]
mod weighted_round_robin;

/// No built-in policy is left out here.
#[test]
fn all_built_in_policies_are_here() {
    let module = std::fs::read_to_string("src/balance/policy/mod.rs").unwrap();
    let built_in: Vec<_> = module.lines().filter(|line| line.starts_with("pub use crate::balance::policy::")).collect();
    let policies = [
        "consistent_hash",
        "least_request",
        "peak_ewma",
        "pick_first",
        "random",
        "round_robin",
        "weighted_round_robin",
    ];
    let others = ["attempt_end", "call", "set"];
    for line in built_in {
        let known = policies.iter().chain(&others).any(|file| line.contains(&format!("policy::{file}::")));
        assert!(known, "{line}: is it a policy that this test has to compile?");
    }
}
