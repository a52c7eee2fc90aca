//! How a registrar's registrations stand together.

use crate::error::Error;
use crate::registrar::RegistrationState;

/// How all registrations of a [`Registrar`](crate::registrar::Registrar) stand together, at one moment.
///
/// For a readiness probe [`RegistrarHealth::is_ready`] is the flag, for a liveness probe [`RegistrarHealth::is_live`]: a
/// server must not be restarted because etcd is away.
#[derive(Clone, Debug)]
pub struct RegistrarHealth {
    live: bool,
    missing: usize,
    error: Option<Error>,
}

impl RegistrarHealth {
    /// Where the lease is over by our clock nothing stands, also where nobody drives the runtime that would find out.
    pub(crate) fn new(live: bool, lease_is_over: bool, states: &[RegistrationState]) -> Self {
        let is_there = |state: &RegistrationState| state.is_in_etcd() && !lease_is_over;
        let is_missing =
            |state: &&RegistrationState| !is_there(state) && !matches!(state, RegistrationState::Paused { .. });
        let missing = states.iter().filter(is_missing).count();
        let well = |state: &&RegistrationState| matches!(state, RegistrationState::Paused { .. });
        let wrong = states.iter().filter(|state| !well(state)).find_map(RegistrationState::why);
        Self { live, missing, error: wrong.cloned() }
    }

    /// Whether everything that is to be in etcd is there, as far as is known; so where nothing is registered.
    pub fn is_ready(&self) -> bool {
        self.live && self.missing == 0
    }

    /// Whether what was registered is still being looked after: false only after the runtime that did so has ended.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// How many registrations are not in etcd and should be.
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// What last went wrong with the first of those that do not stand as they should; none while all is well.
    pub fn last_error(&self) -> Option<&Error> {
        self.error.as_ref()
    }
}
