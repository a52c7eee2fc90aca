//! What is done to registered servers and to the etcd that they stand in.

pub(super) mod faults;
pub(super) mod full;
mod keeper;
pub(super) mod late;
pub(super) mod many;
pub(super) mod many_far;
pub(super) mod panics;
pub(super) mod renewed;
pub(super) mod rolling;
pub(super) mod shutdown;
pub(super) mod slow;
mod stage;
pub(super) mod stop;
pub(super) mod storm;
