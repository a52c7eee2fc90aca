//! Which address a server registers.
//!
//! - `plan`: PURE: the decision from the settings, the environment and the listener. It may leave
//!   the address to `route`.
//! - `route`: what only the network tells: the interface that reaches etcd, and whether etcd is on
//!   this host.

pub(crate) mod plan;
pub(super) mod route;
