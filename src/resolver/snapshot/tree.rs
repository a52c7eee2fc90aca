//! The entries of a snapshot: a sorted list in chunks, and the chunks in groups, which snapshots share. PURE.
//!
//! A change copies one chunk, one group and the list of groups, so that it costs nearly the same among ten entries as among ten
//! thousand. A difference skips what both sides share.
//!
//! Invariants: groups, chunks and entries are in the order of the keys; no chunk and no group is empty, and none holds
//! `2 * NODE_SIZE` items or more.

use std::sync::Arc;

use crate::resolver::snapshot::SnapshotEntry;

/// Entries in a chunk, and chunks in a group. A chunk or a group of twice as many is split, one of less than half as many is
/// merged with the next one if that fits. Smaller in tests, so that a few hundred entries take many groups.
const NODE_SIZE: usize = if cfg!(any(test, tonic_etcd_fuzzing)) { 4 } else { 16 };

/// A list of items, shared by snapshots.
type Node<T> = Arc<Vec<T>>;
/// A chunk of entries.
type Chunk = Node<Arc<SnapshotEntry>>;
/// A group of chunks.
type Group = Node<Chunk>;

/// The entries, by their keys. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Entries {
    groups: Vec<Group>,
}

/// Where an entry is, or belongs.
#[derive(Clone, Copy)]
pub(super) struct Place {
    group: usize,
    chunk: usize,
    entry: usize,
}

impl Entries {
    /// Those of a list that is in the order of its keys, each of which is there once.
    pub(super) fn from_sorted(entries: impl IntoIterator<Item = Arc<SnapshotEntry>>) -> Self {
        Self { groups: nodes(nodes(entries)) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// All entries in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<SnapshotEntry>> {
        self.groups.iter().flat_map(|group| group.iter()).flat_map(|chunk| chunk.iter())
    }

    /// The place of a key; as an error that at which it belongs.
    pub(super) fn find(&self, key: &[u8]) -> Result<Place, Place> {
        let group = self.groups.partition_point(|group| group[0][0].key() <= key).saturating_sub(1);
        let Some(chunks) = self.groups.get(group) else { return Err(Place { group: 0, chunk: 0, entry: 0 }) };
        let chunk = chunks.partition_point(|chunk| chunk[0].key() <= key).saturating_sub(1);
        match chunks[chunk].binary_search_by(|entry| entry.key().cmp(key)) {
            Ok(entry) => Ok(Place { group, chunk, entry }),
            Err(entry) => Err(Place { group, chunk, entry }),
        }
    }

    /// The entry at a place that was found.
    pub(super) fn at(&self, place: Place) -> &Arc<SnapshotEntry> {
        &self.groups[place.group][place.chunk][place.entry]
    }

    /// Replaces the entry at a place that was found. Gives the old one.
    pub(super) fn replace(&mut self, place: Place, entry: Arc<SnapshotEntry>) -> Arc<SnapshotEntry> {
        let chunk = &mut Arc::make_mut(&mut self.groups[place.group])[place.chunk];
        std::mem::replace(&mut Arc::make_mut(chunk)[place.entry], entry)
    }

    /// Inserts an entry at the place at which its key belongs.
    pub(super) fn insert(&mut self, place: Place, entry: Arc<SnapshotEntry>) {
        if self.groups.is_empty() {
            self.groups.push(Arc::new(vec![Chunk::default()]));
        }
        let group = Arc::make_mut(&mut self.groups[place.group]);
        Arc::make_mut(&mut group[place.chunk]).insert(place.entry, entry);
        split(group, place.chunk);
        split(&mut self.groups, place.group);
    }

    /// Removes the entry at a place that was found.
    pub(super) fn remove(&mut self, place: Place) -> Arc<SnapshotEntry> {
        let group = Arc::make_mut(&mut self.groups[place.group]);
        let old = Arc::make_mut(&mut group[place.chunk]).remove(place.entry);
        shrink(group, place.chunk);
        shrink(&mut self.groups, place.group);
        old
    }

    /// A position before the first entry.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor { groups: &self.groups, chunk: 0, entry: 0 }
    }
}

/// The items in nodes.
fn nodes<T>(items: impl IntoIterator<Item = T>) -> Vec<Node<T>> {
    let mut items = items.into_iter();
    let next = || Some(items.by_ref().take(NODE_SIZE).collect::<Vec<T>>()).filter(|node| !node.is_empty());
    std::iter::from_fn(next).map(Arc::new).collect()
}

/// Splits the node at a place if it is too large.
fn split<T: Clone>(nodes: &mut Vec<Node<T>>, place: usize) {
    if nodes[place].len() >= 2 * NODE_SIZE {
        let upper = Arc::make_mut(&mut nodes[place]).split_off(NODE_SIZE);
        nodes.insert(place + 1, Arc::new(upper));
    }
}

/// Removes the node at a place if it is empty, and merges a small one with the next one if that fits.
fn shrink<T: Clone>(nodes: &mut Vec<Node<T>>, place: usize) {
    if nodes[place].is_empty() {
        nodes.remove(place);
    } else if nodes[place].len() < NODE_SIZE / 2 && nodes.get(place + 1).is_some_and(|next| next.len() <= NODE_SIZE) {
        let next = nodes.remove(place + 1);
        Arc::make_mut(&mut nodes[place]).extend(next.iter().cloned());
    }
}

/// A position in the entries.
pub(super) struct Cursor<'a> {
    /// The groups from the present one on.
    groups: &'a [Group],
    /// The position in the first of them.
    chunk: usize,
    /// The position in that chunk.
    entry: usize,
}

impl<'a> Cursor<'a> {
    /// Goes on, together with another one, while both are at the start of a group or of a chunk that they share.
    pub(super) fn skip_shared(&mut self, other: &mut Self) {
        while self.entry == 0 && other.entry == 0 {
            let (Some(own), Some(others)) = (self.groups.first(), other.groups.first()) else { return };
            if self.chunk == 0 && other.chunk == 0 && Arc::ptr_eq(own, others) {
                self.groups = &self.groups[1..];
                other.groups = &other.groups[1..];
            } else if Arc::ptr_eq(&own[self.chunk], &others[other.chunk]) {
                self.skip_chunk();
                other.skip_chunk();
            } else {
                return;
            }
        }
    }

    /// The present entry.
    pub(super) fn entry(&self) -> Option<&'a Arc<SnapshotEntry>> {
        Some(&self.groups.first()?[self.chunk][self.entry])
    }

    /// Takes the present entry.
    pub(super) fn next(&mut self) -> Option<&'a Arc<SnapshotEntry>> {
        let entry = self.entry()?;
        self.entry += 1;
        if self.entry == self.groups[0][self.chunk].len() {
            self.skip_chunk();
        }
        Some(entry)
    }

    /// Goes to the start of the next chunk. Not called at the end.
    fn skip_chunk(&mut self) {
        (self.chunk, self.entry) = (self.chunk + 1, 0);
        if self.chunk == self.groups[0].len() {
            (self.groups, self.chunk) = (&self.groups[1..], 0);
        }
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(super) mod check {
    use super::*;

    impl Entries {
        /// Panics if an invariant does not hold.
        pub(in crate::resolver::snapshot) fn check(&self) {
            let is_well = |len: usize| (1..2 * NODE_SIZE).contains(&len);
            assert!(self.groups.iter().all(|group| is_well(group.len())));
            assert!(self.groups.iter().flat_map(|group| group.iter()).all(|chunk| is_well(chunk.len())));
            assert!(self.iter().map(|entry| entry.key()).is_sorted_by(|one, next| one < next));
        }

        /// How many groups, and how many chunks, the other one does not share.
        #[cfg(test)]
        pub(in crate::resolver::snapshot) fn unshared(&self, other: &Self) -> (usize, usize) {
            let groups = self.groups.iter().filter(|group| !other.groups.iter().any(|other| Arc::ptr_eq(group, other)));
            let chunks =
                |entries: &Self| entries.groups.iter().flat_map(|group| group.iter().cloned()).collect::<Vec<_>>();
            let others = chunks(other);
            let own = chunks(self);
            let unshared = own.iter().filter(|chunk| !others.iter().any(|other| Arc::ptr_eq(chunk, other)));
            (groups.count(), unshared.count())
        }
    }
}
