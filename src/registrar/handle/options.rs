//! The choices of a registration: one value for [`Registrar`](crate::Registrar) and
//! [`Serve`](crate::Serve).

use std::fmt;

use crate::registrar::lease::Conflict;
use crate::registrar::pause::{PauseReason, PauseReasons};
use crate::secret;

/// How an instance is registered: under which key, what happens if another instance holds that key,
/// and whether it begins paused.
///
/// [`Registrar::register_with`](crate::Registrar::register_with) and
/// [`Serve::registration`](crate::Serve::registration) take it.
#[derive(Clone, Default)]
#[must_use]
pub struct RegistrationOptions {
    /// The name of the key, checked when the instance is registered.
    pub(super) key: Option<String>,
    /// The rule for a key that another instance holds.
    pub(super) conflict: Conflict,
    /// Why the registration begins paused, if it does. [`Serve`](crate::Serve) adds what health
    /// services say.
    pub(super) pauses: PauseReasons,
}

impl RegistrationOptions {
    /// The defaults: the key is the instance's address, [`Conflict::TakeOver`], not paused.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the name of the key below the service's prefix: `primary` for `greeter/primary`. It
    /// replaces the name that the codec gives the key. By default that is the address, as in etcd's
    /// gRPC naming, whose readers accept any key below the prefix.
    ///
    /// A chosen key holds one record, so the instance must have one: with etcd's gRPC naming,
    /// exactly one address. If the name has a slash in it, the key looks as if it belonged to
    /// another service, nested below this one (see [`Target`](crate::Target)). Empty names, names
    /// that begin or end with a slash, and names with control characters are refused when the
    /// instance is registered.
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.key = Some(name.into());
        self
    }

    /// Sets what happens if another instance holds the key. [`Conflict::TakeOver`] by default; its
    /// docs say why. The other rules need a role that may read the key, because they compare before
    /// they put. With a role that may only write, [`Conflict::TakeOver`] works, but does not notice
    /// other instances: the key is put once a minute, whoever has put it meanwhile.
    pub fn conflict(mut self, conflict: Conflict) -> Self {
        self.conflict = conflict;
        self
    }

    /// Whether the registration begins paused. False by default. A paused registration comes into
    /// etcd with [`Registration::resume`](crate::Registration::resume) or
    /// [`ServeControl::resume`](crate::ServeControl::resume).
    pub fn paused(self, paused: bool) -> Self {
        self.pause_reason(PauseReason::Manual, paused)
    }

    /// Whether the registration begins with this reason to pause.
    pub(crate) fn pause_reason(mut self, reason: PauseReason, paused: bool) -> Self {
        self.pauses.set(reason, paused);
        self
    }

    /// Whether it begins paused for any reason.
    pub(crate) fn is_paused(&self) -> bool {
        !self.pauses.is_empty()
    }
}

impl fmt::Debug for RegistrationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationOptions")
            .field("key", &self.key.as_deref().map(secret::without_password))
            .field("conflict", &self.conflict)
            .field("pauses", &self.pauses)
            .finish()
    }
}
