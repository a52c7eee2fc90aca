//! What the pool publishes for calls: the ready servers with their connections, and the picker for
//! them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::uri::{Authority, Scheme};

use crate::address::Address;
use crate::balance::policy::{LatencyEstimate, Picker, ReadyServer, ReadySet, ServerMetrics};
use crate::balance::subchannel::Subchannel;
use crate::connection::{Connection, ConnectionLoad, ServerStreams, StreamPermit};
use crate::instance::Instance;

/// One immutable set, which calls read without a lock until the next one takes its place.
#[derive(Default)]
pub(crate) struct Published {
    /// Tier by tier, and in the order of their addresses within a tier.
    pub(crate) servers: Box<[PublishedServer]>,
    /// Calls go to servers of the first one while those have room. One, unless the channel has a zone; none while no server is
    /// ready.
    pub(crate) tiers: Box<[Tier]>,
    /// Outlier detection has ejected all of them: calls that may go elsewhere do.
    pub(crate) are_ejected: bool,
}

impl Published {
    /// Whether a server is ready, and not ejected.
    pub(crate) fn is_ready(&self) -> bool {
        !self.tiers.is_empty() && !self.are_ejected && !self.servers.iter().all(PublishedServer::is_closing)
    }
}

/// Servers that calls prefer alike.
#[derive(Clone)]
pub(crate) struct Tier {
    /// Of [`Published::servers`]: the indexes of the picker's set begin with the first of these.
    pub(crate) range: Range<usize>,
    pub(crate) picker: Arc<dyn Picker>,
    /// The slow start factors that the picker was built with.
    pub(super) factors: Box<[f64]>,
    /// The mean weight of the tier divided by each server's weight, as far as the policy uses weights.
    relative: Box<[f64]>,
}

impl Tier {
    /// The servers in this range, for which the picker was built from the set. `uses_weights` is what the policy says of itself.
    pub(super) fn new(
        range: Range<usize>,
        picker: Arc<dyn Picker>,
        set: &ReadySet,
        factors: impl Iterator<Item = f64>,
        uses_weights: bool,
    ) -> Self {
        let weight =
            |server: usize| if uses_weights { set.weight(server) as f64 } else { set.slow_start_factor(server) };
        let weights = || (0..set.len()).map(weight);
        let mean = weights().sum::<f64>() / set.len() as f64;
        Self { range, picker, factors: factors.collect(), relative: weights().map(|weight| mean / weight).collect() }
    }

    /// The calls in flight of a server of this tier, by its index in the tier, as if it had the mean weight.
    pub(crate) fn load(&self, index: usize, server: &PublishedServer) -> f64 {
        server.first.server.in_flight() as f64 * self.relative.get(index).copied().unwrap_or(1.0)
    }
}

/// One ready server, with all its connections. Most have one: nothing else is looked at before that
/// one is full.
#[derive(Clone)]
pub(crate) struct PublishedServer {
    /// Of the oldest connection.
    pub(crate) first: Arc<ReadySubchannel>,
    /// Of the others, the oldest first.
    pub(crate) further: Box<[Arc<ReadySubchannel>]>,
}

/// One connection of a ready server, as attempts use it. Another connection, or another instance,
/// makes another one.
pub(crate) struct ReadySubchannel {
    /// Told of what becomes of its calls.
    pub(crate) subchannel: Arc<Subchannel>,
    /// Kept open by this, until the last call over it has ended.
    pub(crate) connection: Connection,
    /// How policies see the server.
    pub(crate) server: ReadyServer,
    /// The `:authority` of its requests: the address's, unless the user has set one.
    pub(crate) authority: Authority,
    /// The `:scheme` of its requests: `https` if the server speaks TLS.
    pub(crate) scheme: Scheme,
    /// The loss of the connection has taken its one token from the retry budget.
    pub(crate) loss_paid: AtomicBool,
}

impl PublishedServer {
    /// All connections, the oldest first, as attempts use them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReadySubchannel>> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// All connections, the oldest first.
    pub(crate) fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.all().map(|ready| &ready.connection)
    }

    /// Reserves a stream on the oldest connection with room, so that the later ones run empty.
    #[inline]
    pub(crate) fn reserve(&self) -> Option<(&Arc<ReadySubchannel>, StreamPermit)> {
        match self.first.connection.reserve() {
            Some(permit) => Some((&self.first, permit)),
            None => self.further.iter().find_map(|ready| Some((ready, ready.connection.reserve()?))),
        }
    }

    /// Whether [`PublishedServer::reserve`] would succeed now.
    #[inline]
    pub(crate) fn has_capacity(&self) -> bool {
        self.first.connection.has_capacity() || self.further.iter().any(|ready| ready.connection.has_capacity())
    }

    /// Whether none of its connections takes calls any more.
    #[inline]
    pub(crate) fn is_closing(&self) -> bool {
        self.first.connection.is_closing() && self.further.iter().all(|ready| ready.connection.is_closing())
    }

    /// Whether it has refused a call since it last took one.
    #[inline]
    pub(crate) fn refuses(&self) -> bool {
        self.first.subchannel.cost.refuses()
    }

    /// Whether it is one of these.
    #[inline]
    pub(crate) fn is_among(&self, servers: &[Arc<Subchannel>]) -> bool {
        servers.iter().any(|other| Arc::ptr_eq(other, &self.first.subchannel))
    }

    /// Begins to probe the connections that are idle. Returns whether there was one.
    pub(crate) fn probe(&self) -> bool {
        self.connections().fold(false, |probed, connection| connection.probe() | probed)
    }

    /// Whether it has exactly these connections.
    pub(super) fn is_over<'a>(&self, mut connections: impl Iterator<Item = &'a Connection>) -> bool {
        let mut same = self.connections().map(|own| connections.next().is_some_and(|other| own.is_same(other)));
        let are_same = same.all(|is_same| is_same);
        drop(same);
        are_same && connections.next().is_none()
    }

    /// Whether both have the very same connections.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let pairs = || self.further.iter().zip(&other.further);
        self.is_same_first(other)
            && self.further.len() == other.further.len()
            && pairs().all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether both have the same first connection, and so are the same to a policy.
    pub(super) fn is_same_first(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.first, &other.first)
    }
}

impl ReadySubchannel {
    /// `connection` is one of the subchannel; `authority` is what requests carry. `other` is of another
    /// connection of the server: if that counts calls over all of them, policies see both as one.
    pub(crate) fn new(
        subchannel: Arc<Subchannel>,
        connection: Connection,
        instance: Arc<Instance>,
        authority: Authority,
        other: Option<&Self>,
    ) -> Self {
        let scheme = if subchannel.address().is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let other = other.filter(|other| subchannel.streams().is_some() && other.is_of(&instance));
        let server = other.map(|other| other.server.clone());
        let server = server.unwrap_or_else(|| {
            let in_flight = match subchannel.streams() {
                Some(streams) => InFlight::OfServer(streams.clone()),
                None => InFlight::OfConnection(connection.load()),
            };
            ReadyServer::new(Arc::new(LiveMetrics { subchannel: subchannel.clone(), in_flight, instance }))
        });
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
    in_flight: InFlight,
    instance: Arc<Instance>,
}

/// Who counts the calls of a server.
enum InFlight {
    /// Its only connection.
    OfConnection(ConnectionLoad),
    /// All its connections together.
    OfServer(Arc<ServerStreams>),
}

impl LiveMetrics {
    #[inline]
    fn in_flight(&self) -> usize {
        match &self.in_flight {
            InFlight::OfConnection(connection) => connection.in_flight(),
            InFlight::OfServer(streams) => streams.in_flight(),
        }
    }
}

impl ServerMetrics for LiveMetrics {
    fn address(&self) -> &Address {
        self.subchannel.address()
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn in_flight(&self) -> usize {
        self.in_flight()
    }

    fn load(&self) -> u64 {
        self.in_flight() as u64 + self.subchannel.cost.penalties(|| self.subchannel.now())
    }

    fn latency(&self) -> Option<Duration> {
        self.subchannel.cost.latency()
    }

    fn latency_estimate(&self) -> LatencyEstimate {
        self.subchannel.cost.latency_estimate(self.subchannel.now())
    }
}
