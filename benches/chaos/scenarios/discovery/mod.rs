//! What is done to an etcd while its services are resolved, and what that costs.

pub(super) mod again;
pub(super) mod cold;
pub(super) mod doubt;
pub(super) mod drops;
pub(super) mod faults;
pub(super) mod flood;
pub(super) mod quiet;
pub(super) mod random;
mod reader;
mod stage;
pub(super) mod thousand;
