//! What keeps a registration out of etcd: each gate by itself.

use std::sync::Arc;

use crate::registrar::lease::Id;
use crate::registrar::shared::Shared;
use crate::registrar::wanted::Publication;

/// Something that decides whether a registration is to be in etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// [`Registration::pause`](crate::registrar::Registration::pause).
    Manual,
    /// What the server's health service says of the whole server.
    #[cfg(feature = "tonic-health")]
    Server,
    /// What it says of the service.
    Health,
    /// A check of the user's.
    Check,
}

/// Those that are closed. All are open at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gates {
    closed: u8,
}

impl Gates {
    /// Whether that makes a difference.
    pub(super) fn set(&mut self, gate: Gate, open: bool) -> bool {
        let (before, bit) = (self.closed, 1 << gate as u8);
        self.closed = if open { before & !bit } else { before | bit };
        self.closed != before
    }

    /// What those that are closed say.
    pub(super) fn why(self) -> String {
        let gates = [
            (Gate::Manual, "it is paused by hand"),
            #[cfg(feature = "tonic-health")]
            (Gate::Server, "the health service says that the server does not serve"),
            (Gate::Health, "it is said not to serve"),
            (Gate::Check, "its health check fails"),
        ];
        let closed = gates.into_iter().filter(|(gate, _)| self.closed & (1 << *gate as u8) != 0);
        closed.map(|(_, why)| why).collect::<Vec<_>>().join(", and ")
    }

    pub(super) fn are_open(self) -> bool {
        self.closed == 0
    }
}

/// Opens and closes gates of a registration from elsewhere; without effect once that leaves.
#[derive(Clone)]
pub(crate) struct Switch {
    pub(super) shared: Arc<Shared>,
    pub(super) id: Id,
}

impl Switch {
    pub(crate) fn set(&self, gate: Gate, open: bool) {
        self.turn(gate, open).into_iter().for_each(Publication::send);
    }

    /// The same for who holds a lock: whoever looks at the registration is told when the publication is sent.
    pub(crate) fn turn(&self, gate: Gate, open: bool) -> Option<Publication> {
        self.shared.set_gate(self.id, gate, open)
    }
}
