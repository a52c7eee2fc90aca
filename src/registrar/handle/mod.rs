//! What users hold of a registrar, and how its registrations are shown.

pub(super) mod builder;
pub(super) mod closing;
pub(super) mod health;
pub(super) mod readiness;
pub(super) mod registration;
pub(super) mod state;
