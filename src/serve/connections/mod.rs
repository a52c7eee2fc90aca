//! The connections that a server accepts, and the calls on them.

pub(super) mod calls;
pub(super) mod listener;
pub(super) mod seen;
pub(super) mod socket;
#[cfg(unix)]
pub(super) mod socket_file;
pub(super) mod sockets;
pub(super) mod wire;
