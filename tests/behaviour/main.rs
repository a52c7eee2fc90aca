//! Behaviour against a real etcd, which each test starts and ends itself: run by `cargo xtask test`.

// With each event all handles are used (F15).
extern crate probed as tonic_etcd;

mod cache;
mod channel;
mod connect;
#[path = "../corpus/mod.rs"]
mod corpus;
mod doubt;
mod field;
mod greeter;
mod metrics;
mod ownership;
mod random;
mod registrar;
mod resolver;
mod rights;
mod serve;
mod service_config;
mod support;
mod trouble;
