//! The ring: which server a hash belongs to, and which ones follow. PURE.

use std::fmt::Write;

use twox_hash::XxHash64;

/// The points of a server of weight 1, unless the ring would be too small or too large. With so many, the fullest of
/// 20 servers has about 1.15 times the mean (160 points, Ketama's number: 1.2).
const POINTS: f64 = 320.0;
/// The most points in all, unless the policy is told otherwise: 768 KiB, and a search of 16 steps.
pub(crate) const MOST_POINTS: u32 = 65_536;
/// So many servers are told apart without an allocation when a walk goes on beyond the first one.
const INLINE: usize = 1_024;

/// How many points a ring has in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RingSize {
    pub(crate) least: u32,
    pub(crate) most: u32,
}

impl Default for RingSize {
    fn default() -> Self {
        Self { least: 0, most: MOST_POINTS }
    }
}

/// The points of all servers, in the order of their hashes. A hash belongs to the server of the first point at or
/// above it, and the last is followed by the first (gRFC A42).
#[derive(Debug)]
pub(crate) struct Ring {
    /// Of each point.
    hashes: Box<[u64]>,
    /// The server of each point, by its index.
    points: Box<[u32]>,
    /// How many servers there are.
    servers: usize,
}

impl Ring {
    /// Builds the ring of these servers, each with its key and its weight.
    pub(crate) fn new<K: AsRef<str>>(servers: &[(K, f64)], size: RingSize) -> Self {
        let numbers = numbers_of_points(servers.iter().map(|(_, weight)| *weight), size);
        let mut points = Vec::with_capacity(numbers.iter().map(|number| *number as usize).sum());
        let mut text = String::new();
        for (((key, _), number), server) in servers.iter().zip(numbers).zip(0_u32..) {
            text.clear();
            let _ = write!(text, "{}_", key.as_ref()); // writing to a string never fails
            let prefix = text.len();
            for point in 0..number {
                text.truncate(prefix);
                let _ = write!(text, "{point}");
                points.push((xxh64(text.as_bytes()), server));
            }
        }
        points.sort_unstable();
        share_equal_points(&mut points);
        let (hashes, points): (Vec<_>, Vec<_>) = points.into_iter().unzip();
        Self { hashes: hashes.into(), points: points.into(), servers: servers.len() }
    }

    /// The server of each point.
    #[cfg(test)]
    pub(crate) fn points(&self) -> &[u32] {
        &self.points
    }

    /// All servers, each once: first the one that the hash belongs to, then those that follow on the ring.
    pub(crate) fn walk(&self, hash: u64) -> Walk<'_> {
        let at = self.hashes.partition_point(|point| *point < hash);
        Walk { ring: self, at, points: self.points.len(), servers: self.servers, last: None, seen: Seen::default() }
    }
}

/// XXH64 without a seed.
pub(crate) fn xxh64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// The number of points of each server. It depends on its own weight alone as long as the scale is the same; and the
/// scale is doubled or halved, so that it changes at few sums: else each server that comes or goes would move points
/// of all others.
fn numbers_of_points(weights: impl Iterator<Item = f64>, size: RingSize) -> Vec<u32> {
    // A weight is at least 1 (also one that is no number), and of 32 bits.
    let weights: Vec<f64> = weights.map(|weight| weight.max(1.0).min(f64::from(u32::MAX))).collect();
    let (sum, most) = (weights.iter().sum::<f64>(), f64::from(size.most.clamp(1, MOST_POINTS)));
    let mut scale = POINTS;
    while sum * scale < f64::from(size.least) && sum * scale * 2.0 <= most && sum > 0.0 {
        scale *= 2.0;
    }
    while sum * scale > most {
        scale /= 2.0;
    }
    weights.iter().map(|weight| ((weight * scale) as u32).max(1)).collect()
}

/// Servers with the same key have the same points. Each of them comes first at a part of those, so that none of them
/// gets all calls.
fn share_equal_points(points: &mut [(u64, u32)]) {
    for alike in points.chunk_by_mut(|(one, _), (other, _)| one == other) {
        let (hash, count) = (alike[0].0, alike.len() as u64); // a chunk is never empty
        // The lowest bits of XXH64 are as good as any.
        alike.rotate_left((hash % count) as usize);
    }
}

/// See [`Ring::walk`].
pub(crate) struct Walk<'a> {
    ring: &'a Ring,
    /// The next point; the number of points stands for the first one.
    at: usize,
    /// How many points are left.
    points: usize,
    /// How many servers are left.
    servers: usize,
    /// Was returned, and is not among those seen yet: most walks end after one server.
    last: Option<u32>,
    seen: Seen,
}

impl Iterator for Walk<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if let Some(last) = self.last.take() {
            self.seen.insert(last);
        }
        while self.points > 0 && self.servers > 0 {
            let server = self.ring.points[self.at % self.ring.points.len()]; // there are points, as one is left
            self.at += 1;
            self.points -= 1;
            if !self.seen.contains(server) {
                self.servers -= 1;
                self.last = Some(server);
                return Some(server as usize);
            }
        }
        None
    }
}

/// A set of servers.
#[derive(Default)]
struct Seen {
    inline: [u64; INLINE / 64],
    /// Of the servers beyond, once there is one.
    beyond: Vec<u64>,
}

impl Seen {
    fn contains(&self, server: u32) -> bool {
        let (word, bit) = place(server);
        let beyond = || self.beyond.get(word - self.inline.len()).copied().unwrap_or(0);
        self.inline.get(word).copied().unwrap_or_else(beyond) & bit != 0
    }

    fn insert(&mut self, server: u32) {
        let (word, bit) = place(server);
        if let Some(inline) = self.inline.get_mut(word) {
            *inline |= bit;
            return;
        }
        let word = word - self.inline.len();
        if self.beyond.len() <= word {
            self.beyond.resize(word + 1, 0);
        }
        self.beyond[word] |= bit; // it has just been made long enough
    }
}

/// The word of a server's bit, and the bit.
fn place(server: u32) -> (usize, u64) {
    (server as usize / 64, 1 << (server % 64))
}
