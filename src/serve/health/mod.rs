//! What decides, in addition to the lifecycle, whether a server is in the directory.
//!
//! - `check`: checks of the user's.
//! - `reporter`: the server's own gRPC health service, followed within the process.

pub(super) mod check;
#[cfg(feature = "tonic-health")]
pub(super) mod reporter;
