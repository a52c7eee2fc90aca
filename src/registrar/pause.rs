//! Why a registration is kept out of etcd.

/// Something that can keep a registration out of etcd, independently of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseReason {
    /// [`Registration::pause`](crate::registrar::Registration::pause).
    Manual,
    /// The health service says that the whole server does not serve.
    #[cfg(feature = "tonic-health")]
    ServerHealth,
    /// The health service, or
    /// [`Registration::set_serving`](crate::registrar::Registration::set_serving), says that the
    /// service does not serve.
    ServiceHealth,
    /// The health check that [`Serve::healthy_when`](crate::Serve::healthy_when) asks fails.
    HealthCheck,
}

/// The reasons that keep a registration out of etcd at present. None at first: an instance is
/// registered unless one of these reasons is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct PauseReasons {
    bits: u8,
}

impl PauseReasons {
    /// Adds or removes a reason. Whether that changed anything.
    pub(super) fn set(&mut self, reason: PauseReason, paused: bool) -> bool {
        let (before, bit) = (self.bits, 1 << reason as u8);
        self.bits = if paused { before | bit } else { before & !bit };
        self.bits != before
    }

    /// The reasons as a text for
    /// [`RegistrationState::Paused`](crate::registrar::RegistrationState::Paused).
    pub(super) fn describe(self) -> String {
        let texts = [
            (PauseReason::Manual, "it is paused by hand"),
            #[cfg(feature = "tonic-health")]
            (PauseReason::ServerHealth, "the health service says that the server does not serve"),
            (PauseReason::ServiceHealth, "it is said not to serve"),
            (PauseReason::HealthCheck, "its health check fails"),
        ];
        let held = texts.into_iter().filter(|(reason, _)| self.bits & (1 << *reason as u8) != 0);
        held.map(|(_, text)| text).collect::<Vec<_>>().join(", and ")
    }

    /// Whether nothing keeps the registration out of etcd.
    pub(super) fn is_empty(self) -> bool {
        self.bits == 0
    }
}
