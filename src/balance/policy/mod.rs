//! How a channel picks a server for each call, in gRPC's two levels: a [`Policy`] builds a
//! [`Picker`], and the picker picks.
//!
//! | | runs in | when | must |
//! |---|---|---|---|
//! | [`Policy::picker`] | the channel's background task | a server becomes ready, goes away, is ejected or comes back, its connection is replaced, an instance or an effective weight changes, or a server warms up | build what the picks need: sums, a ring, a schedule |
//! | [`Picker::pick`] | the caller's task | a call needs a server, once or more for each attempt | be quick: no blocking, no allocation, no lock if possible |
//! | [`Picker::ended`] | the task that ends the attempt, usually the caller's | an attempt has ended | the same |
//!
//! The channel hands over a [`ReadySet`]: the servers that are connected, healthy and not ejected, with their
//! effective weights and their loads, and the [`SelectedServers`]: those and the ones that are not ready. The picker
//! returns a [`Pick`]: the index of a server in that set, [`Pick::Wait`], or [`Pick::Fail`]. The channel sends the
//! call to that server. If that server takes no call at that moment, or has already failed this call, the next
//! available server in the set gets the call. If none is available, a retry goes to a server that has failed the call
//! and has room; if no server has room, the call waits.
//!
//! So a policy is a preference, and not a rule: any server of the set may get any call.
//! [`Call::is_available`] tells which servers would take the call, but another call may take the
//! last stream before this one is sent. If some calls must never go to some servers, use a channel
//! for each group of servers.
//!
//! The built-in policies:
//!
//! | | a call goes to | weights | slow start | zones | health checks |
//! |---|---|---|---|---|---|
//! | [`LeastRequest`], the default | the one of two random servers with less load | yes | yes | yes | yes |
//! | [`PeakEwma`] | the one of two random servers that should respond sooner | yes | yes | yes | yes |
//! | [`WeightedRoundRobin`] | one server after the other, by weight | yes | yes | yes | yes |
//! | [`RoundRobin`] | one server after the other | no | yes | yes | yes |
//! | [`Random`] | a random server | yes | yes | yes | yes |
//! | [`ConsistentHash`] | the server of the call's key | yes | no | no | yes |
//! | [`PickFirst`] | one server while it is ready | yes, for which one | no | yes | no |
//!
//! They are written with the public items of this module and nothing else, one file or folder each, so they are
//! examples too. `examples/zone_aware.rs` is another one.
//! [`testing`](crate::testing) builds sets and calls, so that a policy can be tested without
//! servers:
//!
//! ```
//! use std::sync::Arc;
//!
//! use tonic_etcd::policy::{Call, Pick, Picker, Policy, ReadySet};
//! use tonic_etcd::testing::{TestCall, TestServer, ready_set};
//! use tonic_etcd::{Error, Instance};
//!
//! /// Prefers the servers with large disks for uploads. While none of them takes the upload, any server may get it.
//! #[derive(Debug)]
//! struct UploadsToLargeDisks;
//!
//! struct UploadPicker {
//!     set: ReadySet,
//!     /// The indexes of the servers with large disks.
//!     large: Vec<usize>,
//! }
//!
//! impl Policy for UploadsToLargeDisks {
//!     fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
//!         let is_large = |server: &usize| set.servers()[*server].instance().zone() == Some("large-disks");
//!         Arc::new(UploadPicker { set: set.clone(), large: (0..set.len()).filter(is_large).collect() })
//!     }
//! }
//!
//! impl Picker for UploadPicker {
//!     fn pick(&self, call: &Call<'_>) -> Pick {
//!         if call.path().ends_with("/Upload") {
//!             // From a random one on, so that they take turns.
//!             let (before, after) = self.large.split_at(fastrand::usize(..=self.large.len()));
//!             if let Some(large) = after.iter().chain(before).find(|server| call.is_available(**server)) {
//!                 return Pick::Server(*large);
//!             }
//!         }
//!         Pick::Server(self.set.draw(fastrand::u64(..)))
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let small = TestServer::new(Instance::new("10.0.0.1:50051")?);
//! let large = TestServer::new(Instance::new("10.0.0.2:50051")?.with_zone("large-disks"));
//! let picker = UploadsToLargeDisks.picker(&ready_set([small.clone(), large]));
//! let upload = TestCall::new("/shop.Files/Upload");
//! assert!(matches!(picker.pick(&upload.call()), Pick::Server(1)));
//! let picker = UploadsToLargeDisks.picker(&ready_set([small]));
//! assert!(matches!(picker.pick(&upload.call()), Pick::Server(0)));
//! # Ok(())
//! # }
//! ```
//!
//! # Panics
//! A panic in [`Policy::picker`] is logged at ERROR, and [`LeastRequest`] picks from that set. A
//! panic in [`Picker::pick`] or [`Picker::ended`] goes to the task that it runs in, which is usually
//! the caller's, as if the call itself had panicked.

// The files: a policy gets `set/`, a picker gets `call.rs` and, afterwards, `attempt_end.rs`. Each policy has a file
// or a folder of its own. `least_request.rs` and `peak_ewma.rs` share `two_choices.rs`; `round_robin.rs` uses the
// schedule of `weighted_round_robin/` while a server warms up.
mod attempt_end;
mod call;
mod consistent_hash;
mod least_request;
mod peak_ewma;
mod pick_first;
mod random;
mod round_robin;
pub(crate) mod set;
mod two_choices;
mod weighted_round_robin;

use std::fmt;
use std::sync::Arc;

use tonic::Status;

use crate::error::Error;

pub use crate::balance::policy::attempt_end::{AttemptEnd, AttemptResult};
pub use crate::balance::policy::call::Call;
pub(crate) use crate::balance::policy::call::IsAvailable;
pub use crate::balance::policy::consistent_hash::{ConsistentHash, HashKey, InvalidHashHeader};
pub use crate::balance::policy::least_request::LeastRequest;
pub use crate::balance::policy::peak_ewma::PeakEwma;
pub use crate::balance::policy::pick_first::PickFirst;
pub use crate::balance::policy::random::Random;
pub use crate::balance::policy::round_robin::RoundRobin;
pub(crate) use crate::balance::policy::set::ReadySetParts;
pub use crate::balance::policy::set::selected::{SelectedServer, SelectedServers};
pub use crate::balance::policy::set::server::ReadyServer;
pub(crate) use crate::balance::policy::set::server::ServerMetrics;
pub use crate::balance::policy::set::{PickNotifier, ReadySet};
pub use crate::balance::policy::weighted_round_robin::WeightedRoundRobin;
pub use crate::balance::subchannel::cost::LatencyEstimate;

/// The choices of the built-in policies, for the simulation of their effect.
#[cfg(test)]
pub(crate) mod simulated {
    pub(crate) use crate::balance::policy::peak_ewma::{by_latency, median};
    pub(crate) use crate::balance::policy::two_choices::{WeightedLoad, by_load, draw};
}

/// Builds a [`Picker`] for each set of ready servers.
/// [`BalancedChannelBuilder::policy`](crate::BalancedChannelBuilder::policy) sets the policy of a
/// channel; the default is [`LeastRequest`].
///
/// Several channels may share a policy: a clone of a builder has the same policy. So derive what
/// belongs to one channel, such as an order of servers, from [`ReadySet::seed`]. The channel's
/// builder shows the policy in its `Debug` output.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Builds the picker for this set. It replaces the picker of the previous set.
    ///
    /// The channel calls this in its background task each time that the set changes: when a server becomes ready,
    /// goes away, is ejected or comes back, when its connection is replaced, when an instance or an effective weight
    /// changes, and about ten times a second while a server warms up. Changes of load, and further connections of a
    /// server, do not build a new set: read loads in [`Picker::pick`]. The set is never empty: while no server is
    /// ready, this is not called. Calls that wait for a server go on waiting until this returns, so it should take
    /// milliseconds at most.
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker>;

    /// Whether servers are asked for their health under this policy, where the channel is told to ask
    /// ([`BalancedChannelBuilder::health_check`](crate::BalancedChannelBuilder::health_check)). `true`
    /// by default; `false` for [`PickFirst`] (gRFC A17). A policy that wraps another one should return
    /// what that one does.
    ///
    /// The channel calls this when it is built, and again after each change of its service config, which may also replace the policy
    /// ([`policy_from_service_config`](crate::BalancedChannelBuilder::policy_from_service_config)). Always return the same.
    fn checks_health(&self) -> bool {
        true
    }

    /// Whether the channel's zones divide the servers before this policy sees them: it then gets the
    /// servers of one zone at a time. `true` by default; `false` for [`ConsistentHash`], whose keys
    /// belong to a server wherever that is. A policy that wraps another one should return what that
    /// one does.
    ///
    /// The picker of the first zone decides for the call: its [`Pick::Wait`] and [`Pick::Fail`] hold as they are. The
    /// picker of a further zone is asked when the server that was picked is busy or takes no call. If that returns
    /// [`Pick::Wait`] or [`Pick::Fail`], no server of its zone gets the call; the other zones may. If none of those
    /// takes it either, for lack of room, the call waits or fails as the nearest of these zones says.
    ///
    /// The channel calls this once, when the policy comes into use.
    fn uses_zones(&self) -> bool {
        true
    }

    /// Whether the weights of servers are reduced while they warm up
    /// ([`ReadySet::slow_start_factor`]). `true` by default; `false` for [`PickFirst`] and
    /// [`ConsistentHash`], under which calls would change their servers without need. A policy that
    /// wraps another one should return what that one does.
    ///
    /// The channel calls this once, when the policy comes into use.
    fn uses_slow_start(&self) -> bool {
        true
    }

    /// Whether a server of more weight takes more calls at the same time. Zones compare calls in flight by weight then: see
    /// [`BalancedChannelBuilder::zone`](crate::BalancedChannelBuilder::zone). `true` by default; `false` for
    /// [`RoundRobin`], which gives all the same number of calls, and for [`PickFirst`], which gives one all of them. While
    /// servers warm up, their [`ReadySet::slow_start_factor`] counts in any case. A policy that wraps another one should
    /// return what that one does.
    ///
    /// The channel calls this once, when the policy comes into use.
    fn uses_weights(&self) -> bool {
        true
    }
}

impl From<InvalidHashHeader> for Error {
    fn from(header: InvalidHashHeader) -> Self {
        Self::invalid("hash header", header.name(), header.reason())
    }
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        (**self).picker(set)
    }

    fn checks_health(&self) -> bool {
        (**self).checks_health()
    }

    fn uses_zones(&self) -> bool {
        (**self).uses_zones()
    }

    fn uses_slow_start(&self) -> bool {
        (**self).uses_slow_start()
    }

    fn uses_weights(&self) -> bool {
        (**self).uses_weights()
    }
}

/// Picks servers from one [`ReadySet`].
///
/// Many calls may use it at the same time. The channel drops it when a later set has a picker of
/// its own and the last attempt that it picked for has ended.
pub trait Picker: Send + Sync + 'static {
    /// Picks a server for this attempt of a call.
    ///
    /// Runs in the caller's task: it must not block. The channel may ask again for the same
    /// attempt, if no server took the call or if the call had to wait.
    fn pick(&self, call: &Call<'_>) -> Pick;

    /// Whether a server still takes the attempt that was picked for it a moment ago. The attempt counts among the server's calls in
    /// flight now. `true` by default; for pickers with a bound on load, because several picks at the same moment see the same load.
    ///
    /// After `false` the attempt gives its place back, and [`Picker::pick`] is asked again, up to three times for one attempt. The
    /// channel asks once for each server that it is about to send the attempt to, also if that is the next one in order.
    fn confirms(&self, _server: usize) -> bool {
        true
    }

    /// An attempt for which this picker picked the server has ended. Does nothing by default.
    ///
    /// Called once for each attempt that was sent, in the task that ends it. That is usually the
    /// caller's, when it has read or dropped the response.
    fn ended(&self, _end: &AttemptEnd<'_>) {}
}

/// What a [`Picker`] decides for a call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick {
    /// This server, by its index in the [`ReadySet`] that the picker was built from. If it is not
    /// available, the next one in order that is takes the call.
    ///
    /// An index out of range picks the first available server, counted from index 0, so that a
    /// mistake in a policy does not fail calls. This is logged at WARN, once for each channel.
    Server(usize),
    /// No server now. The call asks again when the set changes and when [`PickNotifier::notify`] is
    /// called, but not when a server of this set gets room. It waits until its deadline, and for at
    /// most [`BalancedChannelBuilder::wait_limit`](crate::BalancedChannelBuilder::wait_limit) unless
    /// it waits for ready. Meanwhile it does not hold up other calls.
    ///
    /// Of a zone beyond the first one this keeps the call away from that zone: see [`Policy::uses_zones`].
    Wait,
    /// The call fails at once, also if it waits for ready (gRPC calls this a drop). The caller gets
    /// this status as it is. One case differs: if a server that may have processed the call has
    /// failed it, and this pick is for a retry, then only the retry is prevented, and the call ends
    /// with that server's failure.
    ///
    /// Of a zone beyond the first one this keeps the call away from that zone: see [`Policy::uses_zones`].
    Fail(Status),
}
