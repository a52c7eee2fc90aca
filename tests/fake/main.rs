//! Answers that a real etcd gives too rarely, given by a scripted fake of its services.

// With each event all handles are used (F15).
extern crate probed as tonic_etcd;

mod few;
mod garbage;
mod learned;
mod learners;
mod leases;
mod lengths;
mod messages;
mod pages;
mod proxies;
mod recovery;
mod refusals;
mod revisions;
mod runtimes;
mod server;
mod silence;
mod storms;
mod support;
mod tokens;
mod truth;
