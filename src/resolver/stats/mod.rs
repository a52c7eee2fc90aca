//! The numbers of one service: [`ResolutionStats`], made of the view that is published, and the series of a recorder, which get
//! the same ones.
//!
//! The task counts what no view shows (`relists`, `changes`), and publishes it with the next view. So all numbers are of one
//! moment, and readers need nothing of the task.

mod series;

use std::time::Duration;

use crate::metrics::ByState;
use crate::resolver::ResolutionState;
use crate::resolver::snapshot::Snapshot;

pub(super) use self::series::ServiceSeries;

/// The states of [`ResolutionStats::instances`], by the position of their counts.
const INSTANCE_STATES: [&str; 4] = ["current", "cached", "stale", "draining"];
/// Those that take calls, …
const CURRENT: usize = 0;
const CACHED: usize = 1;
const STALE: usize = 2;
/// … and those that do not.
const DRAINING: usize = 3;

/// What a service has counted since its watch began.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// See [`ResolutionStats::relists`].
    pub(super) relists: u64,
    /// See [`ResolutionStats::changes`].
    pub(super) changes: u64,
}

/// The numbers of a resolution at one moment: those of the instruments `tonic_etcd.resolver.*` of [`metrics`](crate::metrics),
/// without a recorder. From [`Resolution::stats`](crate::Resolution::stats).
///
/// Resolutions that share a watch have the same numbers: those of one service, resolver and tokio runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolutionStats {
    is_connected: bool,
    staleness: Duration,
    relists: u64,
    changes: u64,
    unreadable: usize,
    held: usize,
    instances: ByState<{ INSTANCE_STATES.len() }>,
}

impl ResolutionStats {
    /// `staleness` is how old the snapshot is, if it is not confirmed.
    pub(super) fn new(state: ResolutionState, staleness: Duration, snapshot: &Snapshot, counts: Counts) -> Self {
        let mut instances = ByState::none(INSTANCE_STATES);
        instances.counts[DRAINING] = snapshot.draining();
        let known = match state {
            ResolutionState::Cached { .. } => CACHED,
            ResolutionState::Stale { .. } => STALE,
            _ => CURRENT,
        };
        instances.counts[known] = snapshot.len() - snapshot.draining();
        let is_connected = is_confirmed(state);
        Self {
            is_connected,
            staleness: if is_connected { Duration::ZERO } else { staleness },
            relists: counts.relists,
            changes: counts.changes,
            unreadable: snapshot.unreadable(),
            held: snapshot.doubtful_instances(),
            instances,
        }
    }

    /// What is left once the watch has ended.
    pub(super) fn ended(Counts { relists, changes }: Counts) -> Self {
        Self {
            is_connected: false,
            staleness: Duration::ZERO,
            relists,
            changes,
            unreadable: 0,
            held: 0,
            instances: ByState::none(INSTANCE_STATES),
        }
    }

    /// Whether etcd confirms the snapshot: the state is `Current`, `ConfirmedEmpty` or `Doubtful`.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Returns the time since etcd has last confirmed the snapshot: of a cached one, since etcd confirmed what the file holds; before
    /// the first response of etcd and without a cache, since the watch began. Zero while etcd confirms it.
    pub fn staleness(&self) -> Duration {
        self.staleness
    }

    /// Returns how many lists were read because a watch could not be resumed (its revision was compacted, or etcd ended it), or have
    /// shown that another etcd has taken the place of the known one (wiped, or restored). Lists that only confirm what the watch has
    /// told do not count: there is one every 5 to 10 minutes, and one after each break.
    pub fn relists(&self) -> u64 {
        self.relists
    }

    /// Returns how many changes of records were published: each key that has come, gone or changed from one snapshot to the next one.
    /// Several events of a key between two snapshots are one change. The first snapshot counts too.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Returns how many records of the snapshot cannot be read ([`Snapshot::unreadable`]).
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// Returns how many instances are doubtful ([`Snapshot::doubtful`]): etcd has lost them, and channels hold those that answer. They
    /// are not among [`ResolutionStats::instances`].
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns the number of instances of the snapshot in each state, by the names that the label `state` has: `current`, `cached` and
    /// `stale` say how they are known ([`ResolutionState`]), `draining` are those of any that take no new calls
    /// ([`Instance::is_draining`](crate::Instance::is_draining)). The sum is [`Snapshot::len`].
    pub fn instances(&self) -> impl ExactSizeIterator<Item = (&'static str, usize)> {
        self.instances.iter()
    }
}

/// Whether the snapshot is what etcd holds, as far as can be known.
pub(super) fn is_confirmed(state: ResolutionState) -> bool {
    matches!(state, ResolutionState::Current | ResolutionState::ConfirmedEmpty | ResolutionState::Doubtful { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_names_the_states() {
        let mut stats = ResolutionStats::ended(Counts::default());
        stats.instances.counts[STALE] = 3;
        let shown = format!("{stats:?}");
        assert!(shown.contains(r#"instances: {"stale": 3}"#), "{shown}");
    }
}
