//! Service configs in etcd change while calls are made.

pub(super) mod live;
mod server;
