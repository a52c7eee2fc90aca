//! Together with Go: its official client and ours in one fleet, gRPC's own cases against its interoperability server, with and
//! without TLS, and what its servers say to keep-alive. Run by `cargo xtask test --interop go`.

#[path = "../conformance/cases/mod.rs"]
mod cases;
mod corpus;
mod corpus_configs;
mod fleet;
mod go;
mod health;
mod keep_alive;
mod suite;
mod tap;
#[cfg(feature = "tls-ring")]
mod tls;
