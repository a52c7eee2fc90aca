//! The cache of one service, as its task uses it: what was read, when it is used, and what is
//! written.
//!
//! What goes wrong is logged at WARN once for each service: a file that cannot be used, and a file that cannot be
//! written. A missing file is no news.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::resolver::cache::Cache;
use crate::resolver::cache::file::{Contents, FileError, Stamp, decode, decode_head, encode};
use crate::resolver::cache::name::file_name;
use crate::resolver::cache::store::Store;
use crate::resolver::record::RecordReader;
use crate::resolver::snapshot::{Snapshot, SnapshotEntry};
use crate::target::Target;

/// How long etcd may take before cached instances are used. A healthy etcd answers in milliseconds,
/// and a caller should not wait a second.
const USED_AFTER: Duration = Duration::from_millis(300);
/// Contents that stay are confirmed no more often.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(300);

/// What a file held.
#[derive(Clone)]
pub(in crate::resolver) struct Found {
    /// The instances.
    pub(in crate::resolver) snapshot: Arc<Snapshot>,
    /// The time since etcd had confirmed them, when the file was read.
    pub(in crate::resolver) age: Duration,
    /// When it was read.
    pub(in crate::resolver) read_at: Instant,
}

/// What came of reading a file; `None` if there is none.
type ReadResult = Result<Option<Found>, String>;

/// The cache of one service.
pub(in crate::resolver) struct ServiceCache {
    cache: Arc<Cache>,
    /// The name of the service, for the log.
    service: String,
    /// The records are those of a service's members.
    has_members: bool,
    /// What all keys begin with.
    prefix: Arc<[u8]>,
    /// The name of the file.
    file: String,
    /// The file that is being read.
    reading: Option<oneshot::Receiver<ReadResult>>,
    /// What was read, until etcd has answered.
    found: Option<Found>,
    /// When it is used; counted from when the task first runs, so that a runtime which is driven late
    /// still asks etcd first.
    use_at: Option<Instant>,
    /// Whether it is.
    is_used: bool,
    /// Whether etcd has answered.
    is_resolved: bool,
    /// When the instances were last handed to the writer.
    saved_at: Option<Instant>,
    /// The first failure to write.
    failure: watch::Sender<Option<String>>,
    /// The same, until it is logged.
    failed: Option<watch::Receiver<Option<String>>>,
}

impl ServiceCache {
    /// Begins to read the file of a service.
    ///
    /// `prefix` is what all keys begin with, and names the file. Without `has_members` the records are service configs, which have no
    /// instances.
    pub(in crate::resolver) fn new(
        cache: Arc<Cache>,
        target: &Target,
        prefix: &[u8],
        reader: &RecordReader,
        has_members: bool,
    ) -> Self {
        let prefix: Arc<[u8]> = prefix.into();
        let file = file_name(&prefix);
        let (failure, failed) = watch::channel(None);
        let (sender, reading) = oneshot::channel();
        let job = {
            let (file, prefix, cache) = (file.clone(), prefix.clone(), Arc::downgrade(&cache));
            let (target, reader) = (target.clone(), reader.clone());
            move |store: &Store| {
                // Without users nobody waits for it.
                let Some(cache) = cache.upgrade() else { return };
                let found = read(store, &file, &prefix, &cache, &target, &reader);
                let found = found.map_err(|error| format!("{}: {error}", store.path(&file).display()));
                let _ = sender.send(found); // the task may have ended
            }
        };
        // Where there is no thread, the sender is dropped, which tells the task.
        let _ = cache.writer.read(&file, Box::new(job));
        Self {
            cache,
            service: target.name().to_owned(),
            has_members,
            prefix,
            file,
            reading: Some(reading),
            found: None,
            use_at: None,
            is_used: false,
            is_resolved: false,
            saved_at: None,
            failure,
            failed: Some(failed),
        }
    }

    /// The cached instances, while they are used.
    pub(in crate::resolver) fn used(&self) -> Option<&Found> {
        self.found.as_ref().filter(|_| self.is_used)
    }

    /// Whether there are none, as far as the file goes: it was read, and cannot be used.
    pub(in crate::resolver) fn has_none(&self) -> bool {
        self.reading.is_none() && self.found.is_none()
    }

    /// When etcd's confirmation is to be noted in the file, once it was.
    pub(in crate::resolver) fn confirm_at(&self) -> Option<Instant> {
        self.saved_at.map(|at| at + CONFIRM_INTERVAL)
    }

    /// etcd has answered: what was read is not used any longer. The file stays.
    pub(in crate::resolver) fn on_answer(&mut self) {
        (self.is_resolved, self.is_used, self.found) = (true, false, None);
    }

    /// Waits until something has happened: the file was read, its instances are to be used, or
    /// writing has failed. Dropping the future loses nothing.
    pub(in crate::resolver) async fn next(&mut self) {
        let use_at = *self.use_at.get_or_insert_with(|| Instant::now() + USED_AFTER);
        let is_waiting = self.found.is_some() && !self.is_used;
        tokio::select! {
            read = received(self.reading.as_mut()) => {
                self.reading = None;
                self.on_read(read);
            }
            () = sleep_until(use_at), if is_waiting => self.use_found(),
            error = failure(self.failed.as_mut()) => {
                self.failed = None;
                tracing::warn!(
                    parent: None,
                    service = self.service,
                    error,
                    "cache file not written; logged once for each service"
                );
            }
        }
    }

    /// Takes what was read.
    fn on_read(&mut self, read: ReadResult) {
        let service = &self.service;
        match read {
            Ok(Some(found)) if self.has_members && found.snapshot.is_empty() => {
                tracing::debug!(parent: None, service, "cache file not used: it holds no instance");
            }
            Ok(Some(found)) if !self.is_resolved => self.found = Some(found),
            Ok(Some(_)) => {}
            Ok(None) => tracing::debug!(parent: None, service, "no cache file"),
            Err(error) => tracing::warn!(parent: None, service, error, "cache file not used"),
        }
    }

    /// Uses what was read.
    fn use_found(&mut self) {
        let Some(found) = &self.found else { return };
        self.is_used = true;
        let (instances, revision) = (found.snapshot.len(), found.snapshot.revision());
        let age_s = (found.age + found.read_at.elapsed()).as_secs();
        if !self.has_members {
            let service = &self.service;
            tracing::debug!(parent: None, service, revision, age_s, "etcd has not answered, using the cached service config");
            return;
        }
        tracing::warn!(
            parent: None,
            service = self.service,
            instances,
            revision,
            age_s,
            "etcd has not answered, using cached instances"
        );
    }

    /// etcd holds these instances now. They are written if they have changed. Otherwise only their
    /// time is written, every five minutes. Nothing is written while any loss is doubtful.
    pub(in crate::resolver) fn confirm(&mut self, snapshot: &Snapshot, has_changed: bool) {
        self.on_answer();
        // A program that starts now may need the servers whose loss is doubtful.
        if snapshot.doubtful_instances() > 0 {
            self.saved_at = None; // it is written once nothing is
            return;
        }
        let now = Instant::now();
        if !has_changed && self.saved_at.is_some_and(|at| now < at + CONFIRM_INTERVAL) {
            return;
        }
        self.saved_at = Some(now);
        let stamp = Stamp { confirmed_ms: now_ms(), revision: snapshot.revision() };
        let (file, prefix, codec) = (self.file.clone(), self.prefix.clone(), self.cache.codec.clone());
        let (snapshot, failure) = (snapshot.clone(), self.failure.clone());
        let job = move |store: &Store| {
            let records = snapshot.entries().map(|entry| (entry.key(), entry.value().unwrap_or_default())).collect();
            let saved = save(store, &file, stamp, &Contents { codec: &codec, prefix: &prefix, records });
            saved.unwrap_or_else(|error| {
                tell(&failure, format!("{}: {error}", store.path(&file).display()));
                true
            })
        };
        if let Err(error) = self.cache.writer.write(&self.file, Box::new(job)) {
            tell(&self.failure, format!("starting a thread: {error}"));
        }
    }
}

/// Keeps the first failure.
fn tell(failure: &watch::Sender<Option<String>>, error: String) {
    failure.send_if_modified(|first| {
        let is_first = first.is_none();
        first.get_or_insert(error);
        is_first
    });
}

/// What came of reading; never completes if nothing is being read.
async fn received(reading: Option<&mut oneshot::Receiver<ReadResult>>) -> ReadResult {
    match reading {
        Some(reading) => {
            reading.await.unwrap_or_else(|_| Err("it was not read: no thread could be started".to_owned()))
        }
        None => pending().await,
    }
}

/// The first failure to write; never completes if it was logged.
async fn failure(failed: Option<&mut watch::Receiver<Option<String>>>) -> String {
    if let Some(failed) = failed
        && let Ok(error) = failed.wait_for(Option::is_some).await
    {
        return error.clone().unwrap_or_default();
    }
    pending().await
}

/// Reads the file of a service. On the thread.
fn read(store: &Store, file: &str, prefix: &[u8], cache: &Cache, target: &Target, reader: &RecordReader) -> ReadResult {
    let bytes = || store.read(file).map_err(|error| error.to_string());
    let Some(mut file) = bytes()? else { return Ok(None) };
    // Another process may have written the head just now.
    if let Err(FileError::Checksum(_) | FileError::Short) = decode_head(&file) {
        file = bytes()?.unwrap_or_default();
    }
    let (entries, revision, age) = (|| {
        let (stamp, contents) = decode(&file)?;
        contents.check(prefix, &cache.codec)?;
        let age = stamp.age(now_ms(), cache.max_age)?;
        let entry = |(key, value): &(&[u8], &[u8])| reader.read(target, key, value);
        let entries: Vec<SnapshotEntry> = contents.records.iter().filter_map(entry).collect();
        Ok((entries, stamp.revision, age))
    })()
    .map_err(|error: FileError| error.to_string())?;
    let mut snapshot = Snapshot::default();
    snapshot.restore(revision, entries);
    Ok(Some(Found { snapshot: Arc::new(snapshot), age, read_at: Instant::now() }))
}

/// Writes the file of a service, or only its head if it has these contents already. Whether the whole
/// file was written. On the thread.
fn save(store: &Store, file: &str, stamp: Stamp, contents: &Contents<'_>) -> Result<bool, String> {
    let bytes = encode(stamp, contents).map_err(|error| error.to_string())?;
    if is_superseded(store, file, stamp, contents) || store.confirm(file, &bytes) {
        return Ok(false);
    }
    store.write(file, &bytes).map_err(|error| error.to_string()).map(|()| true)
}

/// Whether another process has written what etcd held later: these contents may have waited, while
/// etcd could no longer be reached from here.
fn is_superseded(store: &Store, file: &str, stamp: Stamp, contents: &Contents<'_>) -> bool {
    let Ok(Some(known)) = store.read(file) else { return false };
    decode(&known).is_ok_and(|(known, its)| {
        known.is_later_than(stamp, now_ms()) && its.check(contents.prefix, contents.codec).is_ok()
    })
}

/// The present time in milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "s%2F.cache";

    fn save_in(store: &Store, confirmed_ms: u64, revision: i64, value: &[u8]) -> bool {
        let records = vec![(b"s/1".as_slice(), value)];
        let contents = Contents { codec: "detect", prefix: b"s/", records };
        save(store, FILE, Stamp { confirmed_ms, revision }, &contents).unwrap()
    }

    fn saved(store: &Store) -> (u64, Vec<u8>) {
        let bytes = store.read(FILE).unwrap().unwrap();
        let (stamp, contents) = decode(&bytes).unwrap();
        (stamp.confirmed_ms, contents.records[0].1.to_vec())
    }

    #[test]
    fn contents_that_stay_cost_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        assert!(save_in(&store, 1, 1, b"h:1"), "there is no file");
        assert!(!save_in(&store, 2, 1, b"h:1"));
        assert_eq!(saved(&store), (2, b"h:1".to_vec()));
        assert!(save_in(&store, 3, 2, b"h:2"));
    }

    /// Of another process, which has seen etcd later.
    #[test]
    fn what_is_newer_stays() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        save_in(&store, 9, 5, b"h:1");
        assert!(!save_in(&store, 8, 4, b"h:2") && !save_in(&store, 8, 5, b"h:1"));
        assert_eq!(saved(&store), (9, b"h:1".to_vec()));
        assert!(save_in(&store, 8, 6, b"h:2"), "the other one had not seen this change");
        save_in(&store, now_ms() + 60_000, 6, b"h:3");
        assert!(save_in(&store, now_ms(), 6, b"h:4"), "the clock was set back");
        let mut damaged = store.read(FILE).unwrap().unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        store.write(FILE, &damaged).unwrap();
        assert!(save_in(&store, 1, 1, b"h:6"), "what is damaged is repaired");
    }
}
