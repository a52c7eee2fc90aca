//! [`Resolution`]: one service, live, as its users hold it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::timeout;

use crate::balance::ConfigTexts;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::resolver::config::updates::ConfigUpdates;
use crate::resolver::discover::Configure;
use crate::resolver::snapshot::Snapshot;
use crate::resolver::stats::ResolutionStats;
use crate::resolver::task::View;
use crate::resolver::{Shared, WatchedService};
use crate::target::Target;
use crate::timers;

/// One service, live: its latest snapshot, its state, and the way to its changes.
///
/// ```no_run
/// # async fn show(resolver: tonic_etcd::Resolver) -> Result<(), Box<dyn std::error::Error>> {
/// let mut resolution = resolver.resolve("greeter")?;
/// let mut snapshot = resolution.ready(std::time::Duration::from_secs(5)).await?;
/// loop {
///     for instance in snapshot.instances() {
///         println!("{:?} {:?}", instance.addresses(), instance.zone());
///     }
///     snapshot = resolution.changed().await?;
/// }
/// # }
/// ```
///
/// Cheap to clone. The watch ends when the last clone, stream and channel of the service are
/// dropped.
#[derive(Clone)]
pub struct Resolution {
    /// The service, as it was asked for.
    target: Target,
    /// The watched service, kept alive.
    pub(super) service: Arc<WatchedService>,
    /// The view, …
    seen: Receiver<View>,
    /// … and which one [`Resolution::changed`] has returned last.
    shown: u64,
    /// How tonic endpoints are configured.
    pub(super) configure: Option<Configure>,
    /// For service configs.
    resolver: Arc<Shared>,
}

/// The state of a resolution: whether the snapshot is what etcd holds.
///
/// | state | next state |
/// |---|---|
/// | `Unresolved` | `Current` or `ConfirmedEmpty`, when etcd has responded; `Cached`, if it has not for 300 ms and there is a usable cache file |
/// | `Cached` | `Current` or `ConfirmedEmpty`, when etcd has responded |
/// | `Current`, `ConfirmedEmpty`, `Doubtful`, `Stale` | any of these four, again and again |
/// | any state | `Closed`, when the runtime ends; the last state |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolutionState {
    /// etcd has not responded yet. It is not known whether there are instances.
    Unresolved,
    /// The snapshot is what etcd holds, and it has instances. A watch reports changes, or etcd was
    /// read less than 5 s ago.
    Current,
    /// The snapshot is what etcd holds, and it has no instances: there are no records, or none that
    /// can be read ([`Snapshot::unreadable`]). Calls that do not wait for ready then fail at once.
    /// After etcd was wiped, the state is `Doubtful` first, and this one 60 s later if no server has
    /// registered.
    ConfirmedEmpty,
    /// The runtime of the watch has ended. The last snapshot stays. Resolve again for a new watch.
    Closed,
    /// etcd has not responded yet, and the snapshot is that of the cache file: only with
    /// [`ResolverBuilder::cache`](crate::ResolverBuilder::cache). It has instances. Calls of a
    /// [`BalancedChannel`](crate::BalancedChannel) go to its servers at once. If none of them can be
    /// connected, calls wait for etcd as without a cache.
    #[non_exhaustive]
    Cached {
        /// The time since etcd confirmed the instances.
        age: Duration,
    },
    /// The snapshot is what etcd holds, as in `Current` and `ConfirmedEmpty`, and etcd has lost most
    /// of the instances in a way in which servers do not leave, or in a short time
    /// ([`MassLoss`](crate::MassLoss)). Check etcd: it may have been wiped or restored. The lost
    /// instances are in [`Snapshot::doubtful`]. A [`BalancedChannel`](crate::BalancedChannel) keeps
    /// those of their servers that answer.
    #[non_exhaustive]
    Doubtful {
        /// The number of doubtful instances.
        instances: usize,
    },
    /// No watch reports changes, and the last read is more than 5 s old. The last snapshot stays, and the resolver retries.
    #[non_exhaustive]
    Stale {
        /// The time since etcd last responded.
        age: Duration,
    },
}

impl Resolution {
    /// A handle that has seen no view.
    pub(super) fn new(target: Target, service: Arc<WatchedService>, resolver: Arc<Shared>) -> Self {
        let (seen, configure) = (service.view(), resolver.configure.clone());
        Self { target, service, seen, shown: 0, configure, resolver }
    }

    /// The service configs of the service in etcd, one after the other.
    ///
    /// # Errors
    /// Outside a tokio runtime.
    pub(super) fn config_updates(&self) -> Result<ConfigTexts, Error> {
        let runtime = timers::runtime("a balanced channel")?;
        let (resolver, service) = (self.resolver.clone(), self.target.clone());
        Ok(Box::pin(ConfigUpdates::new(resolver, service, self.service.view(), runtime)))
    }

    /// The service, as it was asked for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The latest snapshot. Before the first response of etcd it is empty, or that of the cache file
    /// ([`ResolutionState::Cached`]).
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.seen.borrow().snapshot.clone()
    }

    /// The present state.
    pub fn state(&self) -> ResolutionState {
        if self.seen.has_changed().is_err() {
            return ResolutionState::Closed;
        }
        self.seen.borrow().state()
    }

    /// The last failure of etcd. `None` while a watch is open and the last read of the prefix
    /// succeeded.
    pub fn last_error(&self) -> Option<Error> {
        self.seen.borrow().error.clone()
    }

    /// The numbers of this moment, as a recorder of [`ResolverBuilder::metrics`](crate::ResolverBuilder::metrics) gets them. When the
    /// runtime of the watch has ended, what was counted stays, and all else is 0.
    pub fn stats(&self) -> ResolutionStats {
        let is_closed = self.seen.has_changed().is_err();
        let view = self.seen.borrow();
        if is_closed { view.last_stats() } else { view.stats() }
    }

    /// Where the resolver's metrics go, and those of its channels.
    pub(crate) fn metrics(&self) -> Option<&Metrics> {
        self.resolver.metrics.as_ref()
    }

    /// Waits for a change of the snapshot, the state or the error since this method last returned,
    /// and returns the snapshot. The first call of a handle returns at once if etcd has already responded
    /// or failed, also if [`Resolution::ready`] has returned that snapshot before. A growing [`ResolutionState::Stale`] age is no change. A slow reader skips to
    /// the latest snapshot.
    ///
    /// # Errors
    /// When the runtime of the watch has ended ([`Error::is_closed`]).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call sees the change.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, Error> {
        let shown = self.shown;
        let view = self.seen.wait_for(|view| view.shown != shown).await.map_err(|_| Error::closed("the resolution"))?;
        self.shown = view.shown;
        Ok(view.snapshot.clone())
    }

    /// Waits for the first response of etcd and returns the snapshot, which may be empty. With
    /// [`ResolverBuilder::cache`](crate::ResolverBuilder::cache) it returns the cached instances once
    /// etcd has not responded for 300 ms: [`Resolution::state`] is then `Cached`.
    ///
    /// # Errors
    /// - etcd has not responded within the time `within` ([`Error::is_timeout`]). The source is the
    ///   last failure, or says that the runtime of the watch is not driven. The resolution goes on.
    /// - The runtime of the watch has ended ([`Error::is_closed`]).
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<Arc<Snapshot>, Error> {
        let (mut seen, probe) = (self.seen.clone(), &self.service.probe);
        let before = probe.turns.now();
        probe.wake.notify_one();
        let resolved = timeout(within, seen.wait_for(|view| view.state() != ResolutionState::Unresolved)).await;
        match resolved {
            Ok(Ok(view)) => Ok(view.snapshot.clone()),
            Ok(Err(_)) => Err(Error::closed("the resolution")),
            Err(_) => {
                let doing = format!("resolving {}", self.target);
                Err(match probe.turns.stall_message(before, within, "on which it was resolved") {
                    Some(still) => Error::timeout_because(doing, within, still),
                    None => Error::timeout(doing, within, self.last_error()),
                })
            }
        }
    }
}

impl fmt::Debug for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not borrowed while the formatter runs: it is foreign code.
        let (state, instances) = {
            let view = self.seen.borrow();
            (view.state(), view.snapshot.len())
        };
        f.debug_struct("Resolution")
            .field("target", &self.target.to_string())
            .field("state", &state)
            .field("instances", &instances)
            .finish_non_exhaustive()
    }
}
