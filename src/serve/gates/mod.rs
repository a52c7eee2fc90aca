//! What decides whether a server is registered beside its own life: checks and health services.

pub(super) mod checks;
#[cfg(feature = "tonic-health")]
pub(super) mod health;
