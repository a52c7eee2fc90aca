//! [`Snapshot`]: all instances of a service at one etcd revision; and the difference of two
//! snapshots. PURE.
//!
//! A snapshot is a sorted list of entries in chunks, which snapshots share. A change copies one
//! chunk and the list of chunks. A difference skips the chunks that both sides share. So an event
//! costs the same among ten instances as among ten thousand, and each of a thousand readers can
//! hold the snapshot that it has seen.
//!
//! Invariants: chunks and their entries are in the order of the keys; no chunk is empty;
//! `instances`, `draining` and `unreadable` are the sums over all entries.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::address_index::Doubt;
use crate::codec::DecodeError;
use crate::instance::Instance;
use crate::secret::shown_key;

/// Entries in a chunk. A chunk of twice as many is split.
const CHUNK_SIZE: usize = 32;

/// One etcd key of a service, with the instances that its value names. Entries compare by what was
/// read.
#[derive(Clone)]
pub struct SnapshotEntry {
    /// The etcd key.
    key: Box<[u8]>,
    /// What the codec has read, or why it could not.
    read: Result<Box<[Instance]>, DecodeError>,
    /// The value as etcd holds it, where it is kept: for a cache file, or because nothing is read of it.
    /// Otherwise it tells nothing that `read` does not, so that it is neither compared nor shown.
    value: Option<Box<[u8]>>,
    /// The lease of the key; 0 for none. Who owns a key is no part of what it says: not compared.
    lease: i64,
    /// How etcd has lost it, if its loss is doubtful. Not compared.
    doubt: Option<Doubt>,
}

impl SnapshotEntry {
    /// An entry of what was read.
    pub(crate) fn new(key: &[u8], read: Result<Vec<Instance>, DecodeError>) -> Self {
        Self { key: key.into(), read: read.map(Vec::into_boxed_slice), value: None, lease: 0, doubt: None }
    }

    /// The same entry of a key under this lease.
    pub(crate) fn with_lease(mut self, lease: i64) -> Self {
        self.lease = lease;
        self
    }

    /// The same entry, as one that etcd has lost.
    pub(crate) fn in_doubt(mut self, doubt: Doubt) -> Self {
        self.doubt = Some(doubt);
        self
    }

    /// How etcd has lost it, if its loss is doubtful.
    pub(crate) fn doubt(&self) -> Option<Doubt> {
        self.doubt
    }

    /// The lease of the key; 0 for none.
    pub(crate) fn lease(&self) -> i64 {
        self.lease
    }

    /// The same entry, which also keeps the value.
    pub(crate) fn with_value(mut self, value: &[u8]) -> Self {
        self.value = Some(value.into());
        self
    }

    /// The value as etcd holds it, if it was kept.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// The etcd key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The instances that the value names: none, one or many. None if the value cannot be read.
    pub fn instances(&self) -> &[Instance] {
        self.read.as_deref().unwrap_or_default()
    }

    /// If the value cannot be read: the reason.
    pub fn error(&self) -> Option<&DecodeError> {
        self.read.as_ref().err()
    }
}

impl PartialEq for SnapshotEntry {
    /// By what was read. Of a value that names no instance, the value itself is what was read, where it is kept.
    fn eq(&self, other: &Self) -> bool {
        let is_same = (&self.key, &self.read) == (&other.key, &other.read);
        let names_none = matches!(self.read.as_deref(), Ok([]));
        is_same && (!names_none || self.value == other.value)
    }
}

impl Eq for SnapshotEntry {}

impl fmt::Debug for SnapshotEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotEntry").field("key", &self.key).field("read", &self.read).finish_non_exhaustive()
    }
}

/// A chunk of entries, shared by snapshots.
type Chunk = Arc<Vec<Arc<SnapshotEntry>>>;

/// All instances of a service at one etcd revision, ordered by etcd key. Immutable; cheap to clone.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// The etcd revision.
    revision: i64,
    /// The entries.
    chunks: Vec<Chunk>,
    /// How many instances they have.
    instances: usize,
    /// How many of them drain.
    draining: usize,
    /// How many entries cannot be read.
    unreadable: usize,
    /// What etcd has lost, and may still be there. None of its keys is among the entries. `None` if
    /// nothing is.
    doubtful: Option<Arc<Snapshot>>,
}

impl Snapshot {
    /// The etcd revision up to which the snapshot is known to be true; 0 before the first response
    /// of etcd. It falls if etcd's data are replaced by older ones, as by a restored backup.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The number of instances.
    pub fn len(&self) -> usize {
        self.instances
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.instances == 0
    }

    /// The instances, in the order of their etcd keys.
    pub fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.entries().flat_map(SnapshotEntry::instances)
    }

    /// Every key with its instances, unreadable ones included, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = &SnapshotEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|entry| &**entry)
    }

    /// The entry of an etcd key.
    pub fn get(&self, key: &[u8]) -> Option<&SnapshotEntry> {
        let (chunk, place) = self.find(key).ok()?;
        Some(&self.chunks[chunk][place])
    }

    /// The number of keys whose value cannot be read. [`SnapshotEntry::error`] says why.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    /// The number of instances that drain.
    pub(crate) fn draining(&self) -> usize {
        self.draining
    }

    /// The entries that etcd no longer holds, and whose loss is doubtful
    /// ([`MassLoss`](crate::MassLoss)), in the order of their keys. They are not part of the snapshot:
    /// [`Snapshot::instances`] and [`Snapshot::entries`] are what etcd holds, and two snapshots are
    /// equal whatever is doubtful.
    pub fn doubtful(&self) -> impl Iterator<Item = &SnapshotEntry> {
        self.doubtful.iter().flat_map(|doubtful| doubtful.entries())
    }

    /// The same as a set of its own, if there are any.
    pub(crate) fn doubtful_set(&self) -> Option<&Arc<Snapshot>> {
        self.doubtful.as_ref()
    }

    /// The number of doubtful instances.
    pub(crate) fn doubtful_instances(&self) -> usize {
        self.doubtful.as_ref().map_or(0, |doubtful| doubtful.len())
    }

    /// Sets what is doubtful.
    pub(crate) fn set_doubtful(&mut self, doubtful: Arc<Snapshot>) {
        self.doubtful = (!doubtful.is_empty()).then_some(doubtful);
    }

    /// Sets the revision up to which the snapshot is true.
    pub(crate) fn set_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Puts an entry. `false` if an equal one was there.
    pub(crate) fn put(&mut self, entry: SnapshotEntry) -> bool {
        match self.find(&entry.key) {
            Ok((chunk, place)) if *self.chunks[chunk][place] == entry => {
                self.keep_value(chunk, place, entry);
                return false;
            }
            Ok((chunk, place)) => {
                self.count(&entry, true);
                let old = std::mem::replace(&mut Arc::make_mut(&mut self.chunks[chunk])[place], Arc::new(entry));
                self.count(&old, false);
            }
            Err((chunk, place)) => {
                self.count(&entry, true);
                if self.chunks.is_empty() {
                    self.chunks.push(Chunk::default());
                }
                let entries = Arc::make_mut(&mut self.chunks[chunk]);
                entries.insert(place, Arc::new(entry));
                if entries.len() >= 2 * CHUNK_SIZE {
                    let upper = entries.split_off(CHUNK_SIZE);
                    self.chunks.insert(chunk + 1, Arc::new(upper));
                }
            }
        }
        true
    }

    /// Replaces an equal entry if its value as it stands in etcd, or its lease, differs.
    fn keep_value(&mut self, chunk: usize, place: usize, entry: SnapshotEntry) {
        if !is_stored_equal(&self.chunks[chunk][place], &entry) {
            Arc::make_mut(&mut self.chunks[chunk])[place] = Arc::new(entry);
        }
    }

    /// Removes a key, and returns its entry. `None` if it was not there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Arc<SnapshotEntry>> {
        let (chunk, place) = self.find(key).ok()?;
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let old = entries.remove(place);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else if entries.len() < CHUNK_SIZE / 4 {
            self.merge_with_next(chunk);
        }
        self.count(&old, false);
        Some(old)
    }

    /// Replaces all entries by a list in any order; of two entries of one key the later one counts.
    /// `false` if nothing differs.
    ///
    /// Equal entries stay shared with what was there: a list that brings nothing new copies
    /// nothing, and later differences stay cheap.
    pub(crate) fn restore(&mut self, revision: i64, entries: Vec<SnapshotEntry>) -> bool {
        let next = Self::build(revision, entries);
        if self.chunks.is_empty() {
            let differs = !next.chunks.is_empty();
            *self = Self { doubtful: self.doubtful.clone(), ..next };
            return differs;
        }
        let changes: Vec<Difference> = differences(self, &next, is_stored_equal).collect();
        let mut differs = false;
        for change in &changes {
            differs |= match (&change.before, &change.after) {
                (_, Some(entry)) => self.put((**entry).clone()),
                (Some(entry), None) => self.remove(&entry.key).is_some(),
                (None, None) => false,
            };
        }
        self.revision = revision;
        differs
    }

    /// A snapshot of a list.
    fn build(revision: i64, mut entries: Vec<SnapshotEntry>) -> Self {
        if !entries.is_sorted_by(|a, b| a.key < b.key) {
            // A stable sort keeps the later of two equal keys later. Reversed, it is the one that
            // `dedup_by` keeps.
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            entries.reverse();
            entries.dedup_by(|a, b| a.key == b.key);
            entries.reverse();
        }
        let mut snapshot = Self { revision, ..Self::default() };
        snapshot.chunks.reserve_exact(entries.len().div_ceil(CHUNK_SIZE));
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let chunk: Vec<_> = entries.by_ref().take(CHUNK_SIZE).map(Arc::new).collect();
            for entry in &chunk {
                snapshot.count(entry, true);
            }
            snapshot.chunks.push(Arc::new(chunk));
        }
        snapshot
    }

    /// Adds an entry to the sums, or takes it away.
    fn count(&mut self, entry: &SnapshotEntry, added: bool) {
        let unreadable = usize::from(entry.error().is_some());
        let draining = entry.instances().iter().filter(|instance| instance.is_draining()).count();
        if added {
            self.instances += entry.instances().len();
            self.draining += draining;
            self.unreadable += unreadable;
        } else {
            self.instances -= entry.instances().len();
            self.draining -= draining;
            self.unreadable -= unreadable;
        }
    }

    /// The chunk and the position of a key; as an error those at which it belongs.
    fn find(&self, key: &[u8]) -> Result<(usize, usize), (usize, usize)> {
        // No chunk is ever empty, so each has a first key.
        let after = self.chunks.partition_point(|chunk| *chunk[0].key <= *key);
        let chunk = after.saturating_sub(1);
        let Some(entries) = self.chunks.get(chunk) else { return Err((0, 0)) };
        match entries.binary_search_by(|entry| (*entry.key).cmp(key)) {
            Ok(place) => Ok((chunk, place)),
            Err(place) => Err((chunk, place)),
        }
    }

    /// Merges a small chunk with the next one, so that many removals do not leave many small
    /// chunks.
    fn merge_with_next(&mut self, chunk: usize) {
        let fits = self.chunks.get(chunk + 1).is_some_and(|next| next.len() <= CHUNK_SIZE);
        if fits {
            let next = self.chunks.remove(chunk + 1);
            Arc::make_mut(&mut self.chunks[chunk]).extend(next.iter().cloned());
        }
    }
}

impl PartialEq for Snapshot {
    /// By revision and value. What is doubtful is no part of it.
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && diff(self, other).next().is_none()
    }
}

impl Eq for Snapshot {}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries().map(|entry| (shown_key(&entry.key), &entry.read));
        write!(f, "Snapshot at {} ", self.revision)?;
        f.debug_map().entries(entries).finish()
    }
}

/// One key on which two snapshots differ. At least one side is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// The entry of the earlier snapshot.
    pub(crate) before: Option<Arc<SnapshotEntry>>,
    /// The entry of the later snapshot.
    pub(crate) after: Option<Arc<SnapshotEntry>>,
}

/// The differences of two snapshots, in the order of the keys. Entries compare by value. Shared
/// chunks are skipped.
pub(crate) fn diff<'a>(before: &'a Snapshot, after: &'a Snapshot) -> impl Iterator<Item = Difference> + 'a {
    differences(before, after, PartialEq::eq)
}

/// As [`diff`], of sets of doubtful entries: entries differ too if they were lost in another way.
pub(crate) fn diff_doubtful<'a>(before: &'a Snapshot, after: &'a Snapshot) -> impl Iterator<Item = Difference> + 'a {
    differences(before, after, |one, other| one == other && one.doubt == other.doubt)
}

/// Whether two entries are equal, and keep the same value, lease and doubt.
fn is_stored_equal(one: &SnapshotEntry, other: &SnapshotEntry) -> bool {
    one == other && (&one.value, one.lease, one.doubt) == (&other.value, other.lease, other.doubt)
}

/// As [`diff`], with this comparison.
fn differences<'a>(
    before: &'a Snapshot,
    after: &'a Snapshot,
    is_equal: fn(&SnapshotEntry, &SnapshotEntry) -> bool,
) -> impl Iterator<Item = Difference> + 'a {
    let mut old = Cursor { chunks: &before.chunks, place: 0 };
    let mut new = Cursor { chunks: &after.chunks, place: 0 };
    std::iter::from_fn(move || {
        loop {
            if let (Some(a), Some(b)) = (old.whole_chunk(), new.whole_chunk())
                && Arc::ptr_eq(a, b)
            {
                old.skip_chunk();
                new.skip_chunk();
                continue;
            }
            let order = match (old.entry(), new.entry()) {
                (None, None) => return None,
                // Most entries of a chunk that differs are shared: their keys are not compared.
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.key.cmp(&b.key),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (&before, &after) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) || is_equal(a, b) => {}
                _ => return Some(Difference { before: before.cloned(), after: after.cloned() }),
            }
        }
    })
}

/// A position in the entries of a snapshot.
struct Cursor<'a> {
    /// The chunks from the present one on.
    chunks: &'a [Chunk],
    /// The position in the first of them.
    place: usize,
}

impl<'a> Cursor<'a> {
    /// The present chunk, at its start.
    fn whole_chunk(&self) -> Option<&'a Chunk> {
        if self.place == 0 { self.chunks.first() } else { None }
    }

    /// Goes to the start of the next chunk.
    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.place = 0;
    }

    /// The present entry.
    fn entry(&self) -> Option<&'a Arc<SnapshotEntry>> {
        self.chunks.first()?.get(self.place)
    }

    /// Takes the present entry.
    fn next(&mut self) -> Option<&'a Arc<SnapshotEntry>> {
        let entry = self.entry()?;
        self.place += 1;
        if self.place == self.chunks[0].len() {
            self.skip_chunk();
        }
        Some(entry)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
