//! Whom a connection tells of free slots.

use tokio::sync::Notify;

/// Where those wait who found each connection at its limit of concurrent streams.
pub(crate) trait CapacityListener: Send + Sync {
    /// So many slots have become free. Called for each exchange that ends, so it has to be cheap where nobody waits. The slots
    /// are free before this is called: with sequentially consistent operations on both sides, whoever begins to wait and
    /// then looks either finds the slot or is found here.
    fn freed(&self, slots: usize);
}

/// Wakes one, who has to look for more and to wake the next.
impl CapacityListener for Notify {
    fn freed(&self, _: usize) {
        self.notify_one();
    }
}
