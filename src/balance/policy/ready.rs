//! The servers that calls may go to, as one immutable snapshot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::uri::{Authority, Scheme};

use crate::address::Address;
use crate::balance::policy::weights::Weights;
use crate::balance::subchannel::Server;
use crate::balance::subchannel::cost::Standing;
use crate::connection::{Connection, StreamPermit};
use crate::instance::Instance;

/// A server that is connected, as a [`Picker`](crate::balance::Picker) sees it. Cheap to clone.
#[derive(Clone)]
pub struct ReadyServer(pub(crate) Arc<ReadySubchannel>);

pub(crate) struct ReadySubchannel {
    pub(crate) server: Arc<Server>,
    pub(crate) connection: Connection,
    pub(crate) instance: Arc<Instance>,
    pub(crate) authority: Authority,
    pub(crate) scheme: Scheme,
    /// One token of the retry budget was paid for the loss of the connection.
    pub(crate) loss_paid: AtomicBool,
}

impl ReadySubchannel {
    /// What its instance says.
    fn weight(&self) -> Option<u32> {
        self.instance.weight()
    }

    /// Calls in flight, and the places that bad ones go on holding.
    pub(crate) fn load(&self) -> u64 {
        self.connection.in_flight() as u64 + self.server.kept()
    }

    /// Asks for a sign of life where it was silent for so long that it takes no call without; never true.
    pub(crate) fn prove(&self) -> bool {
        self.connection.probe();
        false
    }

    pub(crate) fn reserve(&self) -> Option<StreamPermit> {
        self.connection.reserve()
    }
}

impl ReadyServer {
    /// Where it is.
    pub fn address(&self) -> &Address {
        self.0.server.address()
    }

    /// The instance that names it: its weight, zone, version and metadata. Where several name one address, the one
    /// that was put last.
    pub fn instance(&self) -> &Instance {
        &self.0.instance
    }

    /// Calls from their start to the end of their answers, and calls that were given up and whose streams are yet to be reset
    /// (see [`BalancedChannel`](crate::balance::BalancedChannel#cancelled-calls)).
    pub fn in_flight(&self) -> usize {
        self.0.connection.in_flight()
    }

    /// What [`Policy::LeastRequest`](crate::balance::Policy::LeastRequest) compares: calls in flight, and calls that ended badly a short
    /// while ago. Those are calls that ended with another code than OK, were refused, reset or lost, or were given up before their
    /// answer began. They go on counting as if they were in flight, so that a server which fails at once does not look idle:
    ///
    /// - each as long as if it had taken as long as the server's OK calls take (its peers' where it has none; 2 s at most);
    /// - then for about twenty times as long as it took, or as an OK call takes at the peers, whichever is more, and as if there were
    ///   two of it from its end on. That is 2 s at most, or twenty such OK calls where they take longer, and never more than 60 s. It ends when the server answers a call
    ///   with OK, unless its share of OK is below half of its peers'.
    ///
    /// Where all servers fail alike, each keeps its share of the calls.
    pub fn load(&self) -> u64 {
        self.0.load()
    }

    /// The estimate of its latency (peak EWMA), from a call's start to the head of an answer that says nothing bad; none before the
    /// first.
    pub fn latency(&self) -> Option<Duration> {
        self.0.server.cost.average()
    }

    /// Whether the server would take a further call now: it is below its limit of concurrent streams, and was not silent for
    /// [`BalancedChannelBuilder::idle_timeout`](crate::balance::BalancedChannelBuilder::idle_timeout).
    pub fn has_room(&self) -> bool {
        self.0.connection.has_capacity()
    }

    /// How many further calls the server would take now.
    pub(crate) fn free_slots(&self) -> usize {
        self.0.connection.available_streams()
    }
}

impl fmt::Debug for ReadyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyServer").field("address", self.address()).field("in_flight", &self.in_flight()).finish()
    }
}

/// The weights of servers beside each other.
pub(crate) fn weights(servers: &[ReadyServer]) -> impl Fn(&ReadyServer) -> u64 + use<> {
    let weights = Weights::of(servers.iter().map(|server| server.0.weight()));
    move |server| weights.weight(server.0.weight())
}

/// In the order of their addresses.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) servers: Box<[ReadyServer]>,
    /// Where the weights differ.
    weights: Option<Shares>,
}

struct Shares {
    each: Box<[u64]>,
    /// Sums of the weights up to each server.
    sums: Box<[u64]>,
}

impl Ready {
    pub(crate) fn new(servers: Vec<ReadyServer>) -> Self {
        let each: Box<[u64]> = servers.iter().map(weights(&servers)).collect();
        let sum = |sum: &mut u64, weight: &u64| {
            *sum = sum.saturating_add(*weight);
            Some(*sum)
        };
        let differ = each.windows(2).any(|pair| pair[0] != pair[1]);
        let weights = differ.then(|| Shares { sums: each.iter().scan(0, sum).collect(), each });
        Self { servers: servers.into(), weights }
    }

    /// One server at random, by weight. Not to be asked of an empty set.
    pub(crate) fn sample(&self, random: &mut impl FnMut(u64) -> u64) -> usize {
        match &self.weights {
            None => random(self.servers.len() as u64) as usize,
            Some(Shares { sums, .. }) => {
                let point = random(sums.last().copied().unwrap_or(1));
                sums.partition_point(|sum| *sum <= point)
            }
        }
    }

    /// What a choice goes by.
    pub(crate) fn standing(&self, server: usize) -> Standing {
        let weight = self.weights.as_ref().map_or(1, |shares| shares.each[server]);
        Standing { load: self.servers[server].load(), weight }
    }
}
