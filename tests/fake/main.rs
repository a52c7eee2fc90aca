//! Answers that a real etcd gives too rarely, given by a scripted fake of its services.

mod garbage;
mod learners;
mod leases;
mod lengths;
mod messages;
mod pages;
mod proofs;
mod refusals;
mod revisions;
mod server;
mod silence;
mod support;
mod tokens;
mod truth;
