//! All instances of a service at one etcd revision, and what differs between two of them. PURE.
//!
//! A snapshot is a sorted list of entries in chunks that snapshots share: a change copies one chunk and the list of
//! chunks, and a diff steps over the chunks that both sides share. So an event costs the same among ten instances as
//! among ten thousand, and a thousand readers can each hold the snapshot that they have seen.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::codec::DecodeError;
use crate::instance::Instance;
use crate::secret::shown_key;

/// Entries in a chunk; at twice as many it is split.
const CHUNK_SIZE: usize = 32;

/// One etcd key of a service and what its value says. Entries compare by value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    key: Box<[u8]>,
    read: Result<Box<[Instance]>, DecodeError>,
}

impl SnapshotEntry {
    pub(crate) fn new(key: &[u8], read: Result<Vec<Instance>, DecodeError>) -> Self {
        Self { key: key.into(), read: read.map(Vec::into_boxed_slice) }
    }

    /// The etcd key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The instances that the key's value names: none, one or many; none where it could not be read.
    pub fn instances(&self) -> &[Instance] {
        self.read.as_deref().unwrap_or_default()
    }

    /// Why the value could not be read, if so.
    pub fn error(&self) -> Option<&DecodeError> {
        self.read.as_ref().err()
    }
}

type Chunk = Arc<Vec<Arc<SnapshotEntry>>>;

/// All instances of a service at one etcd revision, ordered by etcd key. Cheap to clone; immutable.
#[derive(Clone, Default)]
pub struct Snapshot {
    revision: i64,
    chunks: Vec<Chunk>,
    instances: usize,
    unreadable: usize,
}

impl Snapshot {
    /// The etcd revision up to which this is known to be true; 0 before anything was read.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How many instances there are.
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

    /// Every key with what it says, the unreadable ones included, in order.
    pub fn entries(&self) -> impl Iterator<Item = &SnapshotEntry> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|entry| &**entry)
    }

    /// The entry of an etcd key.
    pub fn get(&self, key: &[u8]) -> Option<&SnapshotEntry> {
        let (chunk, place) = self.find(key).ok()?;
        Some(&self.chunks[chunk][place])
    }

    /// How many keys hold a value that could not be read; [`SnapshotEntry::error`] says why.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    pub(crate) fn set_revision(&mut self, revision: i64) {
        self.revision = revision;
    }

    /// Puts an entry; `false` if an equal one was there.
    pub(crate) fn put(&mut self, entry: SnapshotEntry) -> bool {
        match self.find(&entry.key) {
            Ok((chunk, place)) if *self.chunks[chunk][place] == entry => return false,
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

    /// Removes a key; `false` if it was not there.
    pub(crate) fn remove(&mut self, key: &[u8]) -> bool {
        let Ok((chunk, place)) = self.find(key) else { return false };
        let entries = Arc::make_mut(&mut self.chunks[chunk]);
        let old = entries.remove(place);
        if entries.is_empty() {
            self.chunks.remove(chunk);
        } else if entries.len() < CHUNK_SIZE / 4 {
            self.merge_with_next(chunk);
        }
        self.count(&old, false);
        true
    }

    /// Replaces everything by a list, in any order; of two entries with one key the later holds. `false` if nothing
    /// differs. What is equal stays shared with what was there.
    pub(crate) fn restore(&mut self, revision: i64, entries: Vec<SnapshotEntry>) -> bool {
        let next = Self::build(revision, entries);
        if self.chunks.is_empty() {
            let differs = !next.chunks.is_empty();
            *self = next;
            return differs;
        }
        let changes: Vec<Difference> = diff(self, &next).collect();
        for change in &changes {
            match (&change.before, &change.after) {
                (_, Some(entry)) => self.put((**entry).clone()),
                (Some(entry), None) => self.remove(&entry.key),
                (None, None) => false,
            };
        }
        self.revision = revision;
        !changes.is_empty()
    }

    fn build(revision: i64, mut entries: Vec<SnapshotEntry>) -> Self {
        if !entries.is_sorted_by(|a, b| a.key < b.key) {
            entries.sort_by(|a, b| a.key.cmp(&b.key)); // stable: the later of two equals stays the later
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

    fn count(&mut self, entry: &SnapshotEntry, added: bool) {
        let unreadable = usize::from(entry.error().is_some());
        if added {
            self.instances += entry.instances().len();
            self.unreadable += unreadable;
        } else {
            self.instances -= entry.instances().len();
            self.unreadable -= unreadable;
        }
    }

    /// Chunk and place of a key, or where it belongs.
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

    /// Joins a small chunk with the next, so that many removals do not leave many chunks of one.
    fn merge_with_next(&mut self, chunk: usize) {
        let fits = self.chunks.get(chunk + 1).is_some_and(|next| next.len() <= CHUNK_SIZE);
        if fits {
            let next = self.chunks.remove(chunk + 1);
            Arc::make_mut(&mut self.chunks[chunk]).extend(next.iter().cloned());
        }
    }
}

impl PartialEq for Snapshot {
    /// By revision and value.
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

/// One key that two snapshots disagree on: as it was before and as it is after, at least one of them there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) before: Option<Arc<SnapshotEntry>>,
    pub(crate) after: Option<Arc<SnapshotEntry>>,
}

/// What differs, in the order of the keys; entries compare by value, shared chunks are stepped over.
pub(crate) fn diff<'a>(before: &'a Snapshot, after: &'a Snapshot) -> impl Iterator<Item = Difference> + 'a {
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
                // Most entries of a chunk that differs are shared: no key is compared for them.
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.key.cmp(&b.key),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            match (&before, &after) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) || a == b => {}
                _ => return Some(Difference { before: before.cloned(), after: after.cloned() }),
            }
        }
    })
}

struct Cursor<'a> {
    chunks: &'a [Chunk],
    place: usize,
}

impl<'a> Cursor<'a> {
    fn whole_chunk(&self) -> Option<&'a Chunk> {
        if self.place == 0 { self.chunks.first() } else { None }
    }

    fn skip_chunk(&mut self) {
        self.chunks = &self.chunks[1..];
        self.place = 0;
    }

    fn entry(&self) -> Option<&'a Arc<SnapshotEntry>> {
        self.chunks.first()?.get(self.place)
    }

    fn next(&mut self) -> Option<&'a Arc<SnapshotEntry>> {
        let entry = self.entry()?;
        self.place += 1;
        if self.place == self.chunks[0].len() {
            self.skip_chunk();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests;
