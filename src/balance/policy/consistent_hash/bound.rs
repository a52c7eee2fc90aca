//! Bounded load: when a server has so many calls in flight that the next one on the ring gets a call.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::ReadySet;

/// In sets of up to so many servers the calls in flight are added up for each pick. In larger ones as many servers
/// are read on average.
const ADDED_UP: usize = 128;

/// After "Consistent Hashing with Bounded Loads" (Mirrokni and others) and Envoy's `hash_balance_factor`.
pub(crate) struct LoadBound {
    /// Of a server's fair share, in percent; more than 100.
    percent: u32,
    /// The part of the weight of all ready servers that each of them has.
    shares: Box<[f64]>,
    /// The calls in flight of all ready servers, as they were last added up.
    in_flight: AtomicU64,
    picks: AtomicU64,
}

impl LoadBound {
    /// The bound for the ready servers with these weights.
    pub(crate) fn new(percent: u32, weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let shares = weights.iter().map(|weight| weight / sum.max(f64::MIN_POSITIVE)).collect();
        Self { percent, shares, in_flight: AtomicU64::new(0), picks: AtomicU64::new(0) }
    }

    /// Whether a server of the set takes one more call. `all` keeps the number of calls in flight of all for one pick.
    pub(crate) fn has_room(&self, set: &ReadySet, server: usize, all: &mut Option<u64>) -> bool {
        let own = set.servers()[server].in_flight() as u64;
        // Any server takes a call, so an idle one does whatever the others do.
        own == 0 || {
            let all = *all.get_or_insert_with(|| self.all_in_flight(set));
            own < bound(self.percent, all, self.shares.get(server).copied().unwrap_or(1.0))
        }
    }

    /// Whether a server of the set has no more calls than it may have, the one that was just picked for it among them.
    pub(crate) fn is_within(&self, set: &ReadySet, server: usize) -> bool {
        let before = set.servers().get(server).map_or(0, |server| server.in_flight() as u64).saturating_sub(1);
        before == 0 || {
            let all = self.all_in_flight(set).saturating_sub(1);
            before < bound(self.percent, all, self.shares.get(server).copied().unwrap_or(1.0))
        }
    }

    /// The calls in flight of all servers. In a set of n servers, for n over 128, it is added up once in n / 128 picks.
    fn all_in_flight(&self, set: &ReadySet) -> u64 {
        let every = set.len().div_ceil(ADDED_UP) as u64;
        if every > 1 && !self.picks.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            return self.in_flight.load(Ordering::Relaxed);
        }
        let all = set.servers().iter().map(|server| server.in_flight() as u64).sum();
        self.in_flight.store(all, Ordering::Relaxed);
        all
    }
}

/// The number of calls in flight at which a server with this share of the weight takes no more: ⌈percent/100 × (all +
/// 1) × share⌉. The sum over all servers is more than `all`, so at least one has room.
pub(crate) fn bound(percent: u32, all: u64, share: f64) -> u64 {
    let exact = f64::from(percent) / 100.0 * (all as f64 + 1.0) * share;
    // A whole number stays one if its product was rounded up.
    (exact - 1e-9).ceil().max(1.0) as u64
}
