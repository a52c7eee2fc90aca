//! What the pool publishes for calls: the ready servers with their connections, and the picker for
//! them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::uri::{Authority, Scheme};

use crate::address::Address;
use crate::balance::policy::{LatencyEstimate, Picker, ReadyServer, ServerMetrics};
use crate::balance::subchannel::Subchannel;
use crate::connection::{Connection, ConnectionLoad};
use crate::instance::Instance;

/// One immutable set, which calls read without a lock until the next one takes its place.
#[derive(Default)]
pub(crate) struct Published {
    /// In the order of their addresses: the indexes of the picker's set are the same.
    pub(crate) servers: Box<[Arc<ReadySubchannel>]>,
    /// `None` while no server is ready.
    pub(crate) picker: Option<Arc<dyn Picker>>,
}

impl Published {
    /// How many further calls all servers together take now.
    pub(crate) fn free_slots(&self) -> usize {
        self.servers.iter().map(|server| server.connection.available_streams()).fold(0, usize::saturating_add)
    }

    /// Whether a server takes a further call now: it is below its limit of concurrent streams, and
    /// its connection is not waiting for a sign of life.
    pub(crate) fn has_room(&self) -> bool {
        self.servers.iter().any(|server| server.connection.has_capacity())
    }
}

/// A subchannel that is connected. Another connection, or another instance, makes another one.
pub(crate) struct ReadySubchannel {
    /// Told of what becomes of its calls.
    pub(crate) subchannel: Arc<Subchannel>,
    /// Kept open by this, until the last call over it has ended.
    pub(crate) connection: Connection,
    /// How policies see it.
    pub(crate) server: ReadyServer,
    /// The `:authority` of its requests: the address's, unless the user has set one.
    pub(crate) authority: Authority,
    /// The `:scheme` of its requests: `https` if the server speaks TLS.
    pub(crate) scheme: Scheme,
    /// The loss of the connection has taken its one token from the retry budget.
    pub(crate) loss_paid: AtomicBool,
}

impl ReadySubchannel {
    /// `connection` is that of the subchannel; `authority` is what requests carry.
    pub(crate) fn new(
        subchannel: Arc<Subchannel>,
        connection: Connection,
        instance: Arc<Instance>,
        authority: Authority,
    ) -> Self {
        let scheme = if subchannel.address().is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let metrics = LiveMetrics { subchannel: subchannel.clone(), connection: connection.load(), instance };
        let server = ReadyServer::new(Arc::new(metrics));
        Self { subchannel, connection, server, authority, scheme, loss_paid: AtomicBool::new(false) }
    }

    /// Whether it was made for this very instance.
    pub(crate) fn is_of(&self, instance: &Arc<Instance>) -> bool {
        std::ptr::eq(self.server.instance(), Arc::as_ptr(instance))
    }
}

/// The numbers of a server while it is ready. Holds no connection: a policy may keep it.
struct LiveMetrics {
    subchannel: Arc<Subchannel>,
    connection: ConnectionLoad,
    instance: Arc<Instance>,
}

impl ServerMetrics for LiveMetrics {
    fn address(&self) -> &Address {
        self.subchannel.address()
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn in_flight(&self) -> usize {
        self.connection.in_flight()
    }

    fn load(&self) -> u64 {
        self.connection.in_flight() as u64 + self.subchannel.cost.penalties(|| self.subchannel.now())
    }

    fn latency(&self) -> Option<Duration> {
        self.subchannel.cost.latency()
    }

    fn latency_estimate(&self) -> LatencyEstimate {
        self.subchannel.cost.latency_estimate(self.subchannel.now())
    }
}
