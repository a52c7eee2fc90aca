//! All registrations of a registrar together.

use crate::error::Error;
use crate::registrar::handle::state::RegistrationState;

/// The health of all registrations of a [`Registrar`](crate::Registrar), at one moment. From
/// [`Registrar::health`](crate::Registrar::health).
///
/// For servers that you start and stop yourself, [`RegistrarHealth::is_ready`] is the flag for a
/// readiness probe. With [`Serve`](crate::Serve), use
/// [`ServeControl::is_ready`](crate::ServeControl::is_ready), which is false until the server has
/// registered. In both cases [`RegistrarHealth::is_live`] is the flag for a liveness probe: a
/// server must not be restarted because etcd is unavailable.
///
/// ```no_run
/// # fn probes(registrar: tonic_etcd::Registrar) {
/// let health = registrar.health();
/// let ready = if health.is_ready() { 200 } else { 503 };
/// let live = if health.is_live() { 200 } else { 500 };
/// if let Some(error) = health.last_error() {
///     println!("{} registrations are missing: {error}", health.missing());
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RegistrarHealth {
    /// The runtime that maintains the registrations has not ended.
    live: bool,
    /// Registrations that are neither in etcd nor paused.
    missing: usize,
    /// The error of the first registration that is not paused and has one.
    error: Option<Error>,
}

impl RegistrarHealth {
    /// If the lease has expired by our clock, nothing counts as registered, also while nobody
    /// drives the runtime that would update the states.
    pub(super) fn new(live: bool, lease_is_expired: bool, states: &[RegistrationState]) -> Self {
        let unpaused = || states.iter().filter(|state| !matches!(state, RegistrationState::Paused { .. }));
        let missing = unpaused().filter(|state| lease_is_expired || !state.is_in_etcd()).count();
        Self { live, missing, error: unpaused().find_map(RegistrationState::why).cloned() }
    }

    /// Whether no registration is missing, as far as is known, and all are maintained
    /// ([`RegistrarHealth::is_live`]). True if nothing is registered, so also before the first
    /// registration.
    pub fn is_ready(&self) -> bool {
        self.live && self.missing == 0
    }

    /// Whether the registrations are maintained. False only after the runtime that maintained them
    /// has ended.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// How many registrations are not in etcd and should be. One that waits for a key of another
    /// instance ([`RegistrationState::HeldByOther`]) counts, a paused one does not.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// The error of one of the registrations that are missing, not up to date, or not renewed.
    /// `None` while there is no such registration.
    pub fn last_error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}
