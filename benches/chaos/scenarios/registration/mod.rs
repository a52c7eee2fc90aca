//! What is done to registered servers and to the etcd that they stand in.

pub(super) mod faults;
mod keeper;
pub(super) mod many;
pub(super) mod panics;
pub(super) mod renewed;
pub(super) mod rolling;
pub(super) mod shutdown;
pub(super) mod slow;
mod stage;
pub(super) mod stop;
pub(super) mod storm;
