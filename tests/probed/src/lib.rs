//! tonic-etcd under its own name, with handles that are used from within each event that it logs: every accessor and `{:?}` of
//! every handle that the process has, on the thread that logs, under a watchdog. An event that is logged while a lock is held ends
//! the process, with its place in the source (FIELD F15).
//!
//! A test binary has it by `extern crate probed as tonic_etcd;` at its root, and nothing else changes in its tests. Handles live as
//! long as without it: the probe holds none.

#![allow(clippy::disallowed_types)] // real time is meant

mod handles;
mod probe;

pub use tonic_etcd::*;

pub use self::handles::{Registrar, RegistrarBuilder, Resolution, Resolver, ResolverBuilder};
pub use self::probe::sites;
