//! A resolution: one service, live, as its users hold it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch::Receiver;
use tokio::time::{Instant, timeout};

use crate::error::Error;
use crate::resolver::WatchedService;
use crate::resolver::discover::Configure;
use crate::resolver::snapshot::Snapshot;
use crate::resolver::task::View;
use crate::target::Target;

/// One service, live.
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
/// Cheap to clone; the watch ends when the last clone, stream and channel made of it are gone.
#[derive(Clone)]
pub struct Resolution {
    target: Target,
    pub(super) service: Arc<WatchedService>,
    seen: Receiver<View>,
    pub(super) configure: Option<Configure>,
}

/// What is known of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResolutionState {
    /// etcd has not been heard yet: nobody knows whether there is any instance.
    Unresolved,
    /// The snapshot is what etcd holds, and there are instances in it: a watch shows each change, or a list was answered less
    /// than 5 s ago.
    Current,
    /// etcd was heard, and holds no instance of the service, or none that can be read.
    ConfirmedEmpty,
    /// The runtime that kept it true has ended: what was known stays, and resolving again begins anew.
    Closed,
    /// No watch shows the changes of the service; etcd was last heard then. What was known stays in the snapshot, and it goes
    /// on trying.
    #[non_exhaustive]
    Stale {
        /// When etcd was last heard.
        since: Instant,
    },
}

impl Resolution {
    pub(super) fn new(target: Target, service: Arc<WatchedService>, configure: Option<Configure>) -> Self {
        let seen = service.view();
        Self { target, service, seen, configure }
    }

    /// The service.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The latest snapshot; empty before the first.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.seen.borrow().snapshot.clone()
    }

    /// What is known of the service now.
    pub fn state(&self) -> ResolutionState {
        if self.seen.has_changed().is_err() {
            return ResolutionState::Closed;
        }
        self.seen.borrow().state
    }

    /// What last went wrong with etcd; none while all is well: a watch stands, and the last list was answered.
    pub fn last_error(&self) -> Option<Error> {
        self.seen.borrow().error.clone()
    }

    /// Waits for a change of the snapshot, the state or the error that this handle has not seen yet, and gives the
    /// snapshot. The first call returns at once if anything is known. However long a reader sleeps, it gets the latest.
    ///
    /// # Errors
    /// When the resolver's runtime has ended.
    ///
    /// # Cancel safety
    /// A call that is dropped loses nothing: the next one sees the change.
    pub async fn changed(&mut self) -> Result<Arc<Snapshot>, Error> {
        self.seen.changed().await.map_err(|_| Error::closed("the resolution"))?;
        Ok(self.seen.borrow_and_update().snapshot.clone())
    }

    /// Waits until etcd was heard for the first time, and gives the snapshot, which may be empty.
    ///
    /// # Errors
    /// When that takes longer than `within`; the source is what last went wrong, or that the runtime on which it was resolved
    /// did not run in that time. The resolution goes on all the same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn ready(&self, within: Duration) -> Result<Arc<Snapshot>, Error> {
        let (mut seen, probe) = (self.seen.clone(), &self.service.probe);
        let before = probe.turns.now();
        probe.look.notify_one();
        let resolved = timeout(within, seen.wait_for(|view| view.state != ResolutionState::Unresolved)).await;
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
        // Not while it is written: nobody knows what the writer does.
        let (state, instances) = {
            let view = self.seen.borrow();
            (view.state, view.snapshot.len())
        };
        f.debug_struct("Resolution")
            .field("target", &self.target.to_string())
            .field("state", &state)
            .field("instances", &instances)
            .finish_non_exhaustive()
    }
}
