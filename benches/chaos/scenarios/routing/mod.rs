//! Which servers calls go to: zones, subsets, slow start, consistent hash, routes and splits.
//!
//! `zones.rs` has processes that register in etcd. The others have the servers of `host.rs` in this process, a channel
//! that is told of them (`directory.rs`), and calls in a closed (`closed.rs`) or an open loop (`open.rs`).

mod closed;
mod counted;
mod delay;
mod directory;
mod host;
mod open;

pub(super) mod bound;
pub(super) mod canary;
pub(super) mod full;
pub(super) mod keys;
pub(super) mod subset;
pub(super) mod warming;
pub(super) mod zones;

use tokio::runtime::Runtime;

use crate::world::Result;

/// Runs a part on a runtime of its own, so that nothing of one is left for the next.
fn block_on<T>(part: impl Future<Output = Result<T>>) -> Result<T> {
    Runtime::new()?.block_on(part)
}
