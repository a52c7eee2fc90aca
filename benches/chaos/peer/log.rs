//! Which peer each call has reached, in the order of their arrival.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The calls that have reached a fleet of peers, as the peers' numbers.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Vec<u8>>);

impl Arrivals {
    pub(crate) fn note(&self, peer: u8) {
        self.lock().push(peer);
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The part of these calls, in percent, that reached a peer; not a number where there are none.
    pub(crate) fn share(&self, peer: u8, calls: Range<usize>) -> f64 {
        let arrivals = self.lock();
        let calls = arrivals.get(calls).unwrap_or_default();
        calls.iter().map(|reached| f64::from(u8::from(*reached == peer))).sum::<f64>() * 1e2 / calls.len() as f64
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // Whole after every step of its holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
