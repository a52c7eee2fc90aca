//! The queue of the calls that a server has room for.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::balance::queue::Queue;
use crate::connection::CapacityListener;

/// The queue of the partition that a server belongs to. Its connections wake the calls in it.
pub(crate) enum WaitingCalls {
    /// The channel has one partition. No exchange pays for a look which one it is.
    Only(Arc<Queue>),
    /// The server may come to belong to another one.
    OfPartition(Arc<PartitionQueue>),
}

/// Replaced when the server comes to belong to another partition.
pub(crate) struct PartitionQueue(ArcSwap<Queue>);

impl WaitingCalls {
    /// Those in this queue. `may_change` says whether [`WaitingCalls::set`] may be called. `before` is what connections of the same
    /// server from before tell of their room: a limit that they share with the new ones makes room for the calls of these.
    pub(crate) fn new(queue: Arc<Queue>, may_change: bool, before: Option<Arc<PartitionQueue>>) -> Self {
        if !may_change {
            return Self::Only(queue);
        }
        let own = before.unwrap_or_else(|| Arc::new(PartitionQueue(ArcSwap::new(queue.clone()))));
        own.0.store(queue);
        Self::OfPartition(own)
    }

    /// What is handed to the connections of the same server when it comes back.
    pub(crate) fn handed_on(&self) -> Option<&Arc<PartitionQueue>> {
        match self {
            Self::Only(_) => None,
            Self::OfPartition(queue) => Some(queue),
        }
    }

    /// From now on the server has room for the calls in this queue.
    pub(crate) fn set(&self, queue: &Arc<Queue>) {
        if let Self::OfPartition(own) = self
            && !Arc::ptr_eq(&own.0.load(), queue)
        {
            own.0.store(queue.clone());
        }
    }

    /// What the connections of the server tell of their room.
    pub(crate) fn listener(&self) -> Arc<dyn CapacityListener> {
        match self {
            Self::Only(queue) => queue.clone(),
            Self::OfPartition(queue) => queue.clone(),
        }
    }

    /// Whether calls wait that the server may have room for.
    pub(crate) fn has_waiters(&self) -> bool {
        match self {
            Self::Only(queue) => queue.has_waiters(),
            Self::OfPartition(queue) => queue.0.load().has_waiters(),
        }
    }
}

impl CapacityListener for PartitionQueue {
    fn freed(&self, streams: usize) {
        self.0.load().freed(streams);
    }
}
