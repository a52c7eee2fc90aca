//! From a resolution to a [`BalancedChannel`].

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::balance::{BalancedChannel, BalancedChannelBuilder, DirectoryStatus, InstanceChange, Update};
use crate::error::Error;
use crate::resolver::snapshot::{Difference, Snapshot, SnapshotEntry, diff, diff_doubtful};
use crate::resolver::task::View;
use crate::resolver::{Resolution, ResolutionState, Resolver, WatchedService};
use crate::target::Target;

/// Names one instance: the etcd key and the position in its record.
type Key = (Box<[u8]>, usize);

impl Resolution {
    /// The recommended channel over the servers, with its default settings.
    ///
    /// The channel keeps the resolution alive until its last clone is dropped. Use
    /// [`BalancedChannel::builder`] for other settings.
    ///
    /// # Errors
    /// Outside a tokio runtime.
    pub fn channel(&self) -> Result<BalancedChannel, Error> {
        BalancedChannel::builder().build(self)
    }
}

impl Resolver {
    /// Resolves a service and returns the recommended channel over its servers: short for
    /// [`Resolver::resolve`] and [`Resolution::channel`]. Returns immediately. The channel does not
    /// show the state of the directory: keep a [`Resolution`] of the same service if you want to
    /// see [`Resolution::state`]; both share one watch.
    ///
    /// # Errors
    /// As [`Resolver::resolve`]. While etcd is unavailable and no servers are known, calls wait, at
    /// most for `BalancedChannelBuilder::wait_limit` (10 s by default).
    pub fn channel<T>(&self, target: T) -> Result<BalancedChannel, Error>
    where
        T: TryInto<Target>,
        Error: From<T::Error>,
    {
        self.resolve(target)?.channel()
    }
}

impl BalancedChannelBuilder {
    /// A channel over the servers of a resolution, which it keeps alive.
    ///
    /// # Errors
    /// As those of [`BalancedChannelBuilder::build_with_discovery`], but with
    /// [`BalancedChannelBuilder::service_config_from_etcd`] it builds. An invalid document in etcd, in a file or in a watch channel is
    /// no error here: [`BalancedChannel::service_config`] tells of it.
    pub fn build(self, resolution: &Resolution) -> Result<BalancedChannel, Error> {
        let feed = ChannelUpdates::new(resolution.target(), resolution.service.clone());
        let config = self.takes_config_from_directory().then(|| resolution.config_updates()).transpose()?;
        let builder = self.default_metrics(resolution.metrics().cloned());
        builder.start(resolution.target().uri(), feed.directory.clone(), feed, config)
    }
}

/// The views of a service as updates for the channel: the difference of each view to the one
/// before.
struct ChannelUpdates {
    /// The views.
    updates: WatchStream<View>,
    /// The snapshot of the last update.
    seen: Arc<Snapshot>,
    /// What the channel says of the directory in its errors.
    directory: DirectoryStatus,
    /// Keeps the watch alive.
    _service: Arc<WatchedService>,
}

impl ChannelUpdates {
    /// Updates that start with the present view.
    fn new(target: &Target, service: Arc<WatchedService>) -> Self {
        let updates = WatchStream::new(service.view());
        let directory = DirectoryStatus::new(target.name(), Some(target.prefix()));
        Self { updates, seen: Arc::default(), directory, _service: service }
    }

    /// The update that leads from the last view to this one.
    fn update(&mut self, view: View) -> Update<Key> {
        let changes = changes(&self.seen, &view.snapshot);
        let state = view.state();
        self.seen = view.snapshot;
        // Calls that find no cached server wait for etcd, which may know others.
        let known = !matches!(state, ResolutionState::Unresolved | ResolutionState::Cached { .. });
        let trouble = match state {
            ResolutionState::Unresolved | ResolutionState::Cached { .. } | ResolutionState::Stale { .. } => {
                view.error.map(|error| format!("{error:?}").into())
            }
            _ => None,
        };
        self.directory.unreadable = self.seen.unreadable();
        self.directory.first_unreadable = first_unreadable(&self.seen);
        self.directory.revision = known.then(|| self.seen.revision());
        (self.directory.resolved, self.directory.error) = (known, trouble);
        Update { changes, directory: Some(self.directory.clone()) }
    }
}

/// What leads from one snapshot to another one. An instance whose loss is doubtful is in doubt until that
/// has changed.
fn changes(before: &Snapshot, after: &Snapshot) -> Vec<InstanceChange<Key>> {
    let nothing = Arc::<Snapshot>::default();
    let doubtful = |snapshot: &Snapshot| snapshot.doubtful_set().unwrap_or(&nothing).clone();
    let (was_doubtful, is_doubtful) = (doubtful(before), doubtful(after));
    // What was told of a key: its instances as they are listed, or as they were lost.
    let told = |key: &[u8]| before.get(key).or_else(|| was_doubtful.get(key)).map(SnapshotEntry::instances);
    let key = |entry: &SnapshotEntry, index| (entry.key().into(), index);
    let mut changes = Vec::new();
    let remove = |changes: &mut Vec<_>, entry: &SnapshotEntry, left: usize| {
        let known = told(entry.key()).unwrap_or_default().len();
        changes.extend((left..known).map(|index| InstanceChange::Remove(key(entry, index))));
    };
    for Difference { before, after } in diff(before, after) {
        if let Some(entry) = &after {
            let keyed = entry.instances().iter().cloned().enumerate();
            changes.extend(keyed.map(|(index, instance)| InstanceChange::Insert(key(entry, index), instance)));
            remove(&mut changes, entry, entry.instances().len());
        } else if let Some(entry) = before.filter(|entry| is_doubtful.get(entry.key()).is_none()) {
            remove(&mut changes, &entry, 0);
        }
    }
    for Difference { before, after: lost } in diff_doubtful(&was_doubtful, &is_doubtful) {
        if let Some(entry) = &lost {
            let (Some(doubt), Some(_)) = (entry.doubt(), told(entry.key())) else { continue };
            // As it was lost, and not as a view before that had it.
            for (index, instance) in entry.instances().iter().cloned().enumerate() {
                changes.push(InstanceChange::Insert(key(entry, index), instance));
                changes.push(InstanceChange::PutInDoubt(key(entry, index), doubt));
            }
            remove(&mut changes, entry, entry.instances().len());
        } else if let Some(entry) = before.filter(|entry| after.get(entry.key()).is_none()) {
            remove(&mut changes, &entry, 0);
        }
    }
    changes
}

/// The first key that cannot be read and the reason, for errors of the channel.
fn first_unreadable(snapshot: &Snapshot) -> Option<Arc<str>> {
    if snapshot.unreadable() == 0 {
        return None;
    }
    let wrong = |entry: &SnapshotEntry| {
        entry.error().map(|error| format!("{}: {error}", crate::secret::shown_key(entry.key())).into())
    };
    snapshot.entries().find_map(wrong)
}

impl Stream for ChannelUpdates {
    type Item = Update<Key>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update<Key>>> {
        let view = ready!(Pin::new(&mut self.updates).poll_next(cx));
        Poll::Ready(view.map(|view| self.update(view)))
    }
}
