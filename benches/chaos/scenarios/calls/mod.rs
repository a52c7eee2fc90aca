//! What is done to calls: by servers that fail, hang or stand still, and by the calls beside them.

mod callers;
pub(super) mod channel;
mod company;
mod fleet;
mod worst;

pub(super) mod attempts;
pub(super) mod backlog;
pub(super) mod ejected;
pub(super) mod failing;
pub(super) mod given_up;
pub(super) mod metadata;
pub(super) mod metrics;
pub(super) mod pauses;
pub(super) mod resets;
pub(super) mod stopped;
pub(super) mod texts;
pub(super) mod unread;
pub(super) mod waiting;
pub(super) mod weights;

use tokio::runtime::Runtime;

use crate::world::Result;

/// Runs a scenario on a runtime of its own, so that nothing of one is left for the next.
pub(super) fn block_on<T>(scenario: impl Future<Output = Result<T>>) -> Result<T> {
    Runtime::new()?.block_on(scenario)
}
