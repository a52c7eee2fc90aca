//! How a channel picks a server for each call, in gRPC's two levels: a [`Policy`] builds a
//! [`Picker`], and the picker picks.
//!
//! | | runs in | when | must |
//! |---|---|---|---|
//! | [`Policy::picker`] | the channel's background task | a server became ready, or went, or an instance or a weight changed | build what the picks need: sums, a ring, a schedule |
//! | [`Picker::pick`] | the task of the caller | a call needs a server, once for each attempt and sometimes more | be quick: no blocking, no allocation, better no lock |
//! | [`Picker::ended`] | the task of the caller | an attempt has ended | the same |
//!
//! The channel hands over a [`ReadySet`]: the servers that are connected and not ejected, with
//! their effective weights and their loads. The picker answers with a [`Pick`]: the index of a
//! server in that set, [`Pick::Wait`], or [`Pick::Fail`]. The channel sends the call to that
//! server, unless it is full by then or has already failed the call: then the next server in the
//! set that takes the call gets it.
//!
//! Four policies are built in: [`LeastRequest`] (the default), [`PeakEwma`], [`RoundRobin`] and
//! [`PickFirst`]. They are written with the public items of this module and nothing else, one file
//! each, so they are examples too. `examples/zone_aware.rs` is another one.
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
//! /// Sends writes to the server in the zone "primary", and all else to a random server.
//! #[derive(Debug)]
//! struct WritesToPrimary;
//!
//! struct PrimaryPicker {
//!     set: ReadySet,
//!     primary: Option<usize>,
//! }
//!
//! impl Policy for WritesToPrimary {
//!     fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
//!         let is_primary = |server: &usize| set.servers()[*server].instance().zone() == Some("primary");
//!         Arc::new(PrimaryPicker { set: set.clone(), primary: (0..set.len()).find(is_primary) })
//!     }
//! }
//!
//! impl Picker for PrimaryPicker {
//!     fn pick(&self, call: &Call<'_>) -> Pick {
//!         match self.primary {
//!             _ if !call.path().contains("/Write") => Pick::Server(self.set.draw(fastrand::u64(..))),
//!             Some(primary) => Pick::Server(primary),
//!             None => Pick::Wait, // until a set with a primary comes
//!         }
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! let replica = TestServer::new(Instance::new("10.0.0.1:50051")?);
//! let primary = TestServer::new(Instance::new("10.0.0.2:50051")?.with_zone("primary"));
//! let picker = WritesToPrimary.picker(&ready_set([replica.clone(), primary]));
//! assert!(matches!(picker.pick(&TestCall::new("/shop.Orders/Write").call()), Pick::Server(1)));
//! let picker = WritesToPrimary.picker(&ready_set([replica]));
//! assert!(matches!(picker.pick(&TestCall::new("/shop.Orders/Write").call()), Pick::Wait));
//! # Ok(())
//! # }
//! ```
//!
//! # Panics
//! A panic in [`Policy::picker`] is logged as an ERROR, and [`LeastRequest`] picks from that set. A
//! panic in [`Picker::pick`] or [`Picker::ended`] is the caller's, as if the call itself had
//! panicked.

// The way through the files: `set/` has what a policy is given, `call.rs` what a picker is given, `attempt_end.rs` what it is told
// afterwards. `two_choices.rs` is shared by the first two of the policies, which have a file each.
mod attempt_end;
mod call;
mod least_request;
mod peak_ewma;
mod pick_first;
mod round_robin;
mod set;
mod two_choices;

use std::fmt;
use std::sync::Arc;

use tonic::Status;

pub use crate::balance::policy::attempt_end::{AttemptEnd, AttemptResult};
pub use crate::balance::policy::call::Call;
pub(crate) use crate::balance::policy::call::IsAvailable;
pub use crate::balance::policy::least_request::LeastRequest;
pub use crate::balance::policy::peak_ewma::PeakEwma;
pub use crate::balance::policy::pick_first::PickFirst;
pub use crate::balance::policy::round_robin::RoundRobin;
pub use crate::balance::policy::set::server::ReadyServer;
pub(crate) use crate::balance::policy::set::server::ServerMetrics;
pub use crate::balance::policy::set::testing;
pub use crate::balance::policy::set::{PickNotifier, ReadySet};
pub use crate::balance::subchannel::cost::LatencyEstimate;

/// The choices of the built-in policies, for the simulation of their effect.
#[cfg(test)]
pub(crate) mod simulated {
    pub(crate) use crate::balance::policy::peak_ewma::by_latency;
    pub(crate) use crate::balance::policy::two_choices::{WeightedLoad, by_load, draw};
}

/// Builds a [`Picker`] for each set of ready servers. Set with
/// [`BalancedChannelBuilder::policy`](crate::BalancedChannelBuilder::policy); the default is
/// [`LeastRequest`].
///
/// A policy may be shared by several channels: a clone of a builder has the same policy. What
/// belongs to one channel, such as an order of servers, should follow from [`ReadySet::seed`]. The
/// channel's builder shows the policy in its `Debug` output.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Builds the picker for this set, which takes the place of the picker before it.
    ///
    /// The channel calls this in its background task, each time that the set changes: a server
    /// became ready or went, a connection was replaced, an instance or an effective weight changed.
    /// Changes of load do not count: read them when you pick. The set is never empty: while no
    /// server is ready, no policy is asked. Calls that wait meanwhile go on waiting, so this should
    /// take milliseconds at most.
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker>;
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        (**self).picker(set)
    }
}

/// Picks servers from one [`ReadySet`].
///
/// Many calls may use it at the same time. The channel drops it when a later set has a picker of
/// its own and the last attempt that it picked for has ended.
pub trait Picker: Send + Sync + 'static {
    /// Picks a server for this attempt of a call.
    ///
    /// Runs in the task of the caller: it must not block. The channel may ask more than once for an
    /// attempt, because the server that was picked has no room when the call comes to it, or
    /// because the call waited.
    fn pick(&self, call: &Call<'_>) -> Pick;

    /// An attempt for which this picker picked the server has ended. Does nothing by default.
    ///
    /// Called once for each attempt that was sent, in whichever task ends it: mostly the caller's,
    /// when it has read or dropped the answer.
    fn ended(&self, _end: &AttemptEnd<'_>) {}
}

/// What a [`Picker`] decides for a call.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pick {
    /// This server, by its index in the [`ReadySet`] that the picker was built from. An index
    /// beyond the last stands for the last.
    Server(usize),
    /// No server now. The call asks again when the set changes and when [`PickNotifier::notify`] is
    /// called. It waits within its deadline and
    /// [`BalancedChannelBuilder::wait_limit`](crate::BalancedChannelBuilder::wait_limit), as for a
    /// connection, and does not keep other calls waiting.
    Wait,
    /// The call fails with this status at once, also one that is to wait for ready (gRPC calls this
    /// a drop). The caller gets the status as it is. It takes the place of a later attempt only: a
    /// call that a server has already answered with a failure ends with that failure.
    Fail(Status),
}
