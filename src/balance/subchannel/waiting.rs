//! The queue of the calls that a server has room for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use crate::balance::queue::Queue;
use crate::connection::CapacityListener;

/// The queue of the partition that a server belongs to, and its place among the servers of that. Its connections wake
/// the calls in it, and say where there is room.
pub(crate) enum WaitingCalls {
    /// The channel has one partition. No exchange pays for a look which one it is.
    Only(Arc<OnlyQueue>),
    /// The server may come to belong to another one.
    OfPartition(Arc<PartitionQueue>),
}

/// The queue of the channel.
pub(crate) struct OnlyQueue {
    queue: Arc<Queue>,
    place: Place,
}

/// The queue is replaced when the server comes to belong to another partition.
pub(crate) struct PartitionQueue {
    queue: ArcSwap<Queue>,
    place: Place,
}

/// The index of a server in the published set. It may be an old one: whoever goes by it looks who is there.
struct Place(AtomicUsize);

impl Place {
    /// No index of any set.
    const NONE: usize = usize::MAX;

    fn get(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|place| *place != Self::NONE)
    }
}

impl Default for Place {
    fn default() -> Self {
        Self(AtomicUsize::new(Self::NONE))
    }
}

impl WaitingCalls {
    /// Those in this queue. `may_change` says whether [`WaitingCalls::set`] may be called. `before` is what connections of the same
    /// server from before tell of their room: a limit that they share with the new ones makes room for the calls of these.
    pub(crate) fn new(queue: Arc<Queue>, may_change: bool, before: Option<Arc<PartitionQueue>>) -> Self {
        if !may_change {
            return Self::Only(Arc::new(OnlyQueue { queue, place: Place::default() }));
        }
        let new = |queue| Arc::new(PartitionQueue { queue: ArcSwap::new(queue), place: Place::default() });
        let own = before.unwrap_or_else(|| new(queue.clone()));
        own.queue.store(queue);
        Self::OfPartition(own)
    }

    /// From now on the server has this index.
    pub(crate) fn set_place(&self, index: usize) {
        let place = match self {
            Self::Only(only) => &only.place,
            Self::OfPartition(own) => &own.place,
        };
        place.0.store(index, Ordering::Relaxed);
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
            && !Arc::ptr_eq(&own.queue.load(), queue)
        {
            own.queue.store(queue.clone());
        }
    }

    /// What the connections of the server tell of their room.
    pub(crate) fn listener(&self) -> Arc<dyn CapacityListener> {
        match self {
            Self::Only(only) => only.clone(),
            Self::OfPartition(own) => own.clone(),
        }
    }

    /// Whether calls wait that the server may have room for.
    pub(crate) fn has_waiters(&self) -> bool {
        match self {
            Self::Only(only) => only.queue.has_waiters(),
            Self::OfPartition(own) => own.queue.load().has_waiters(),
        }
    }
}

impl CapacityListener for OnlyQueue {
    fn freed(&self, streams: usize) {
        self.queue.freed(streams, self.place.get());
    }
}

impl CapacityListener for PartitionQueue {
    fn freed(&self, streams: usize) {
        self.queue.load().freed(streams, self.place.get());
    }
}
