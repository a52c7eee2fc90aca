//! The servers that calls may go to, as one immutable snapshot.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::uri::{Authority, Scheme};

use super::cost::Standing;
use super::server::Server;
use crate::address::Address;
use crate::connection::{Connection, Slot};
use crate::instance::Instance;

/// A server that is connected, as a [`Picker`](super::Picker) sees it. Cheap to clone.
#[derive(Clone)]
pub struct ReadyServer(pub(crate) Arc<Member>);

pub(crate) struct Member {
    pub(crate) server: Arc<Server>,
    pub(crate) connection: Connection,
    pub(crate) instance: Arc<Instance>,
    pub(crate) authority: Authority,
    pub(crate) scheme: Scheme,
    /// One token of the retry budget was paid for the loss of the connection.
    pub(crate) loss_paid: AtomicBool,
}

impl Member {
    pub(crate) fn weight(&self) -> u32 {
        self.instance.weight().unwrap_or(1)
    }

    /// Calls in flight, and the places that bad ones go on holding.
    pub(crate) fn load(&self) -> u64 {
        self.connection.in_flight() as u64 + self.server.kept()
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { load: self.load(), weight: self.weight() }
    }

    /// Asks for a sign of life where it was silent for so long that it takes no call without; never true.
    pub(crate) fn prove(&self) -> bool {
        self.connection.prove();
        false
    }

    pub(crate) fn reserve(&self) -> Option<Slot> {
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

    /// Calls from their start to the end of their answers.
    pub fn in_flight(&self) -> usize {
        self.0.connection.in_flight()
    }

    /// Calls in flight, and the places of those that ended badly: with another code than OK, refused, reset, lost, or given
    /// up before their answer began. Such a call keeps its place for as long as an OK call takes at the server's peers, and
    /// for twenty times as long (2 s at most, or twenty OK calls of its peers) while the server answers no call with OK, or
    /// its share of OK is below half of theirs. So a server that fails at once does not look idle.
    pub fn load(&self) -> u64 {
        self.0.load()
    }

    /// The estimate of its latency (peak EWMA); none before its first answer.
    pub fn latency(&self) -> Option<Duration> {
        self.0.server.cost.average()
    }

    /// Whether the server would take a further call now.
    pub fn has_room(&self) -> bool {
        self.0.connection.has_room()
    }

    /// How many further calls the server would take now.
    pub(crate) fn free_slots(&self) -> usize {
        self.0.connection.free_slots()
    }
}

impl fmt::Debug for ReadyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyServer").field("address", self.address()).field("in_flight", &self.in_flight()).finish()
    }
}

/// In the order of their addresses.
#[derive(Default)]
pub(crate) struct Ready {
    pub(crate) servers: Box<[ReadyServer]>,
    /// Sums of the weights up to each server, where they differ.
    sums: Option<Box<[u64]>>,
}

impl Ready {
    pub(crate) fn new(servers: Vec<ReadyServer>) -> Self {
        let weight = |server: &ReadyServer| server.0.weight();
        let differ = servers.windows(2).any(|pair| weight(&pair[0]) != weight(&pair[1]));
        let sums = differ.then(|| {
            let sum = |sum: &mut u64, server: &ReadyServer| {
                *sum += u64::from(weight(server));
                Some(*sum)
            };
            servers.iter().scan(0, sum).collect()
        });
        Self { servers: servers.into(), sums }
    }

    /// One server at random, by weight. Not to be asked of an empty set.
    pub(crate) fn sample(&self, random: &mut impl FnMut(u64) -> u64) -> usize {
        match &self.sums {
            None => random(self.servers.len() as u64) as usize,
            Some(sums) => {
                let point = random(sums.last().copied().unwrap_or(1));
                sums.partition_point(|sum| *sum <= point)
            }
        }
    }
}
