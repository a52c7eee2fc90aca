//! Consistent hash: calls with the same key go to the same server. `key.rs` says what the key of a call is, `ring.rs`
//! (pure) which server it belongs to, `bound.rs` when that server has enough to do. `figures.rs` holds the promises
//! of the policy's documentation.

mod bound;
#[cfg(test)]
mod figures;
mod key;
mod ring;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::policy::{Call, Pick, Picker, Policy, ReadySet, SelectedServers};

use self::bound::LoadBound;
use self::key::KeySource;
pub use self::key::{HashKey, InvalidHashHeader};
use self::ring::{Ring, RingSize};

/// Calls with the same key go to the same server, as long as that server is there (gRFC A42's ring hash).
///
/// Choose it if servers keep something for a key: a cache, a session, a shard. It is a preference and
/// no promise: a call goes to another server while its own is not ready, is at its limit of concurrent
/// streams, or has failed the call. Servers must be able to handle that.
///
/// # The key of a call
/// The values of a header ([`by_header`](Self::by_header)), an extension of the request
/// ([`by_extension`](Self::by_extension)) or what a function returns ([`by`](Self::by)). A call without
/// a key goes to a random server (gRFC A76).
///
/// # The ring
/// - A server has 320 points on the ring, times its weight
///   ([`SelectedServers::weight`]). A key belongs to the server of the next point. Both are hashed by XXH64, as in gRFC
///   A42. The fullest of 20 servers has at most 1.3 times the mean of the keys.
/// - There are at most 65,536 points ([`ring_size`](Self::ring_size)). Beyond that, the points of all servers are
///   halved until they fit. So the number of a server's points depends on its own weight alone, except when the sum
///   passes such a bound: at more than 204 servers of weight 1, then at more than 409, and so on. Each server has at
///   least one point.
/// - The name of a server on the ring is the id of its instance ([`Instance::id`](crate::Instance::id)),
///   else its `host:port`. So a server with an id keeps its keys if it comes back at another address.
///   If an instance has several addresses, each is a server with the name `id/host:port`.
/// - When a server leaves or joins, its own keys move (about 1 in n), and none moves between two that stayed.
///
/// The ring has all servers, whether they are connected or not. When a connection is lost, calls go to the next
/// servers on the ring, and come back to their own one as soon as it is connected again. So does a retry: it goes on
/// along the ring. A connection that was silent for longer than
/// [`idle_timeout`](crate::BalancedChannelBuilder::idle_timeout) is no exception: the call that finds it so goes to
/// the next server.
///
/// Health checks count. Zones and slow start do not: the server of a key is the same in all zones, and a server that
/// warms up has its keys at once.
///
/// ```
/// use tonic_etcd::BalancedChannel;
/// use tonic_etcd::policy::ConsistentHash;
///
/// # fn main() -> Result<(), tonic_etcd::Error> {
/// let builder = BalancedChannel::builder().policy(ConsistentHash::by_header("x-user")?.balance_factor(125));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ConsistentHash {
    key: KeySource,
    /// In percent.
    balance_factor: Option<u32>,
    size: RingSize,
}

impl ConsistentHash {
    fn new(key: KeySource) -> Self {
        Self { key, balance_factor: None, size: RingSize::default() }
    }

    /// The key of a call is the value of this header. Several values are joined by commas, in their order (gRFC A76).
    ///
    /// # Errors
    /// If it is no name of a header, or one of binary metadata (`-bin`). The error can be turned into an
    /// [`Error`](crate::Error).
    pub fn by_header(name: &str) -> Result<Self, InvalidHashHeader> {
        KeySource::header(name).map(Self::new)
    }

    /// The key of a call is the [`HashKey`] in the extensions of its request, where an interceptor or a layer can put
    /// it.
    pub fn by_extension() -> Self {
        Self::new(KeySource::Extension)
    }

    /// The key of a call is what this function returns; `None` is no key.
    ///
    /// It runs for each pick in the caller's task, so it must not block.
    pub fn by(key: impl Fn(&Call<'_>) -> Option<HashKey> + Send + Sync + 'static) -> Self {
        Self::new(KeySource::Function(Arc::new(key)))
    }

    /// Bounds the load of a server (Envoy's `hash_balance_factor`): a server that has so many percent of its fair
    /// share of the calls in flight passes further calls on to the next server on the ring. Off by default, as in
    /// Envoy: then one key with many calls can overload its server.
    ///
    /// With 125, a server takes a call while it has fewer calls in flight than 1.25 × (the calls in flight at all
    /// ready servers + 1) × its share of their weights, rounded up. A smaller number spreads the load more evenly and
    /// keeps fewer calls at their own server. A number of 100 or less counts as 101: with
    /// it no server could have more than its share, and calls would have nowhere to go.
    ///
    /// In a set of n servers, where n is more than 128, the calls in flight at all servers are added up once in n /
    /// 128 picks.
    #[must_use]
    pub fn balance_factor(mut self, percent: u32) -> Self {
        self.balance_factor = Some(percent.max(101));
        self
    }

    /// Sets how many points the ring has at least and at most in all. Any number and 65,536 by default.
    ///
    /// The points of all servers are doubled while there are fewer than `least`, and halved while there are more than
    /// `most`, which holds where the two contradict each other. A `most` of more than 65,536 counts as that. More
    /// points spread the keys more evenly, and cost memory (12 bytes each) and time when servers come and go.
    #[must_use]
    pub fn ring_size(mut self, least: u32, most: u32) -> Self {
        self.size = RingSize { least, most };
        self
    }

    /// The ring of these servers. It is built once for them.
    fn ring(&self, selected: &SelectedServers) -> Arc<Ring> {
        // The ring depends on nothing else that the policy has.
        let mut key = DefaultHasher::new();
        self.size.hash(&mut key);
        selected.derived(key.finish(), |selected| {
            let named = |server| (name(selected, server), selected.weight(server));
            Ring::new(&(0..selected.len()).map(named).collect::<Vec<_>>(), self.size)
        })
    }
}

/// What a server is called on the ring.
fn name(selected: &SelectedServers, server: usize) -> String {
    let server = &selected.servers()[server];
    // All Unix sockets have the same authority.
    let address = server.address().unix_path().unwrap_or(server.address().authority());
    match server.instance().id() {
        Some(id) if server.instance().addresses().len() > 1 => format!("{id}/{address}"),
        Some(id) => id.to_owned(),
        None => address.to_owned(),
    }
}

impl Policy for ConsistentHash {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        let bound = self.balance_factor.map(|percent| {
            let mut weights = vec![0.0; set.len()];
            for selected in 0..set.selected().len() {
                if let Some(server) = set.ready_index(selected) {
                    weights[server] = set.selected().weight(selected);
                }
            }
            LoadBound::new(percent, &weights)
        });
        set.ready_index(0); // finds them all, here in the background
        Arc::new(ConsistentHashPicker {
            set: set.clone(),
            ring: self.ring(set.selected()),
            key: self.key.clone(),
            bound,
        })
    }

    /// The server of a key is the same wherever the caller is.
    fn uses_zones(&self) -> bool {
        false
    }

    /// A server's keys are its own from the start: calls with them would be wrong elsewhere.
    fn uses_slow_start(&self) -> bool {
        false
    }
}

/// Walks along the ring of all servers to one that is ready.
struct ConsistentHashPicker {
    set: ReadySet,
    ring: Arc<Ring>,
    key: KeySource,
    bound: Option<LoadBound>,
}

impl Picker for ConsistentHashPicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let hash = self.key.of(call).map_or_else(|| fastrand::u64(..), HashKey::as_u64);
        let (mut first_ready, mut first_available, mut all_in_flight) = (None, None, None);
        for server in self.ring.walk(hash).filter_map(|selected| self.set.ready_index(selected)) {
            first_ready = first_ready.or(Some(server));
            if !call.is_available(server) {
                continue;
            }
            let has_room = |bound: &LoadBound| bound.has_room(&self.set, server, &mut all_in_flight);
            if self.bound.as_ref().is_none_or(has_room) {
                return Pick::Server(server);
            }
            first_available = first_available.or(Some(server));
        }
        // Those on the ring are not ready in a channel that goes on with servers that it would not select any more.
        let otherwise = || self.set.draw(fastrand::u64(..));
        Pick::Server(first_available.or(first_ready).unwrap_or_else(otherwise))
    }

    fn confirms(&self, server: usize) -> bool {
        self.bound.as_ref().is_none_or(|bound| bound.is_within(&self.set, server))
    }
}
