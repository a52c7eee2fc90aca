//! Which of the ready servers a call goes to.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;

use super::ready::{Ready, ReadyServer};

/// How a channel picks a server for each call. Every policy picks among connected servers alone, passes over those that
/// are at their limit of concurrent streams, and over those that have just failed the same call.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Policy {
    /// Power of two choices on calls in flight: of two servers drawn at random, by weight, the one with fewer of them
    /// for its weight. The default: it needs no history, and slow servers get fewer calls by themselves.
    #[default]
    LeastRequest,
    /// Power of two choices on peak EWMA latency times calls in flight: a slow server gets next to nothing. After
    /// Finagle's, but bad news is believed within 200 ms and not at the first call: of thousands one is always slow.
    /// For servers whose calls take alike; one method that is slow by nature speaks against whoever answers it.
    PeakEwma,
    /// One after the other, in the order of their addresses; weights are not regarded.
    RoundRobin,
    /// The first in the order of their addresses; the others are kept connected, and take over at once.
    PickFirst,
    /// The user's own.
    #[non_exhaustive]
    Custom(Arc<dyn Picker>),
}

impl Policy {
    /// A policy of one's own.
    pub fn custom(picker: impl Picker) -> Self {
        Self::Custom(Arc::new(picker))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LeastRequest => "LeastRequest",
            Self::PeakEwma => "PeakEwma",
            Self::RoundRobin => "RoundRobin",
            Self::PickFirst => "PickFirst",
            Self::Custom(_) => "Custom",
        })
    }
}

/// What a policy may go by.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub(crate) path: &'a str,
    pub(crate) headers: &'a HeaderMap,
}

impl<'a> Call<'a> {
    /// The method: `/package.Service/Method`.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The request's metadata.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

/// A policy of one's own: `examples/zone_aware.rs` is one.
///
/// Called in the task of each caller for each attempt: it must not block, and should not lock.
pub trait Picker: Send + Sync + 'static {
    /// The index of the server that the call should go to. Asked where two or more are ready, and perhaps more than once for
    /// an attempt. `servers` stand in the order of their addresses, and are the same until one comes or goes. An index beyond
    /// the last stands for the last; where the chosen one is full, or has failed this call already, the next in order that can takes
    /// the call.
    ///
    /// # Panics
    /// A panic in here is the caller's.
    fn pick(&self, call: &Call<'_>, servers: &[ReadyServer]) -> usize;
}

/// What the policies need between picks.
#[derive(Default)]
pub(crate) struct Memory {
    next: AtomicUsize,
}

/// Where to begin to look for a server that takes the call. `usable` tells which may be asked.
pub(crate) fn pick(
    policy: &Policy,
    memory: &Memory,
    call: &Call<'_>,
    ready: &Ready,
    usable: impl Fn(&ReadyServer) -> bool,
) -> usize {
    let servers = &ready.servers;
    match policy {
        _ if servers.len() < 2 => 0,
        Policy::LeastRequest => two_choices(
            ready,
            |a, b| {
                // Fewer for its weight, without a division.
                if ready.is_weighted() {
                    a.0.load() * u64::from(b.0.weight()) <= b.0.load() * u64::from(a.0.weight())
                } else {
                    a.0.load() <= b.0.load()
                }
            },
            usable,
        ),
        Policy::PeakEwma => two_choices(ready, |a, b| cost(a) <= cost(b), usable),
        Policy::RoundRobin => memory.next.fetch_add(1, Ordering::Relaxed) % servers.len(),
        Policy::PickFirst => 0,
        Policy::Custom(picker) => picker.pick(call, servers).min(servers.len() - 1),
    }
}

fn two_choices(
    ready: &Ready,
    first_is_better: impl Fn(&ReadyServer, &ReadyServer) -> bool,
    usable: impl Fn(&ReadyServer) -> bool,
) -> usize {
    let mut random = |below| fastrand::u64(..below);
    let a = ready.sample(&mut random);
    let mut b = ready.sample(&mut random);
    if a == b {
        b = (a + 1 + random(ready.servers.len() as u64 - 1) as usize) % ready.servers.len();
    }
    let (first, second) = (&ready.servers[a], &ready.servers[b]);
    match (usable(first), usable(second)) {
        (true, false) => a,
        (false, true) => b,
        _ if first_is_better(first, second) => a,
        _ => b,
    }
}

/// A server that has not answered yet and has calls in flight counts as one that takes ten milliseconds.
const UNKNOWN_NS: f64 = 1e7;

fn cost(server: &ReadyServer) -> f64 {
    let known = server.0.server.estimate();
    let load = server.0.load();
    match known {
        0.0 if load == 0 => 0.0,
        0.0 => UNKNOWN_NS * (load + 1) as f64 / f64::from(server.0.weight()),
        known => known * (load + 1) as f64 / f64::from(server.0.weight()),
    }
}
