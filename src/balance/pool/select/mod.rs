//! Which servers a channel connects to, and how they are preferred. PURE.
//!
//! [`select`] runs whenever the servers, their states or the configuration change, and when
//! [`Selection::next`] is due. It costs calls nothing: they pick from what it leaves.
//!
//! ```text
//! candidates ─▶ filter ─▶ partition by route ─▶ zones ──▶ subset ───────▶ weights ─▶ a Verdict for each
//!                         partition.rs          zones.rs  subset.rs       shares.rs
//!                                                         substitutes.rs
//! ```
//!
//! `rank.rs` is the order in which a client prefers servers, `warmth.rs` since when a server warms up,
//! `slow_start.rs` what users set of that.

mod partition;
mod rank;
mod shares;
mod slow_start;
mod subset;
mod substitutes;
#[cfg(test)]
mod tests;
mod warmth;
mod zones;

use std::fmt;
use std::time::Duration;

use crate::balance::pool::select::partition::Partitions;
pub(crate) use crate::balance::pool::select::partition::{MAX_PARTITIONS, RouteValues};
pub(crate) use crate::balance::pool::select::rank::{client_id, rank};
pub use crate::balance::pool::select::slow_start::SlowStart;
pub(crate) use crate::balance::pool::select::substitutes::RETRY_AFTER;
pub(crate) use crate::balance::pool::select::warmth::Warmth;
use crate::balance::pool::select::zones::{Member, members};
use crate::instance::Instance;

/// What the user and the policy say of a selection.
#[derive(Clone, Debug, Default)]
pub(crate) struct SelectConfig {
    /// What calls are routed by; empty by default.
    pub(crate) route_keys: Vec<Box<str>>,
    /// The zone of the client. Without it zones mean nothing.
    pub(crate) zone: Option<Box<str>>,
    /// The zones that come after the own one, in this order. All others come last.
    pub(crate) further_zones: Vec<Box<str>>,
    /// Whether the policy looks at tiers. If not, zones mean nothing.
    pub(crate) uses_zones: bool,
    /// The maximum number of servers that are connected in each partition, beside substitutes for those that
    /// fail; 0 counts as 1. All by default.
    pub(crate) subset: Option<usize>,
    /// What [`rank`] was computed with.
    pub(crate) client_id: u64,
    /// How servers warm up; they are warm at once by default.
    pub(crate) slow_start: Option<SlowStart>,
    /// Whether the policy looks at weights that change. If not, servers are warm at once.
    pub(crate) uses_slow_start: bool,
}

impl SelectConfig {
    /// Whether a selection may leave out a server, or prefer one to another.
    pub(crate) fn selects(&self) -> bool {
        !self.route_keys.is_empty() || self.zone.is_some() || self.subset.is_some() || self.slow_start.is_some()
    }
}

/// One server that may be selected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'a> {
    /// Its `host:port`. Unique, and the candidates are in this order.
    pub(crate) key: &'a str,
    pub(crate) instance: &'a Instance,
    /// Its [`rank`], which does not change while the key and the instance stay.
    pub(crate) rank: u64,
    /// Whether the filter of the channel lets it pass.
    pub(crate) matches_filter: bool,
    pub(crate) state: CandidateState,
    /// Its instances have left one by one, in a way in which they may still be there. It keeps its connections until others are
    /// ready in its place.
    pub(crate) has_left: bool,
    /// When an attempt to connect to it last failed, or it last became unhealthy. It is kept while the server
    /// is not connected, or the same substitutes would be tried again and again.
    pub(crate) last_failure: Option<Duration>,
    pub(crate) warmth: Warmth,
}

/// The state of a server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CandidateState {
    /// There is no connection, and nobody makes one.
    Idle,
    /// A connection is being made, and the last attempt, if any, did not fail.
    Connecting,
    /// The last attempt to connect failed.
    Failing,
    /// It takes calls.
    Ready,
    /// It is connected and takes no calls for now, because outlier detection has ejected it.
    Ejected,
    /// It is connected and says that it takes no calls.
    Unhealthy,
}

/// What becomes of the candidates.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selection {
    /// One for each candidate, in the same order.
    pub(crate) servers: Vec<Verdict>,
    /// The partitions that have servers, and before them the default one, which is always there: no value for
    /// any key.
    pub(crate) partitions: Vec<RouteValues>,
    /// How many further partitions are left out, because there are too many.
    pub(crate) beyond: usize,
    /// When to select again if nothing has changed until then; later than now.
    pub(crate) next: Option<Duration>,
}

/// What becomes of one candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) reason: Reason,
    /// The index of its partition in [`Selection::partitions`]; 0 if it has none.
    pub(crate) partition: usize,
    /// Which servers of its partition it stands behind: calls go to those of tier 0 first. The tiers of the
    /// servers that are to be connected have no gaps. 0 if it is not to be connected.
    pub(crate) tier: usize,
    /// What its weight is multiplied by: greater than 0, at most 1. 1 if it is not ready.
    pub(crate) factor: f64,
}

/// Why a server is to be connected, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It is to be connected: it is in the own zone, or zones mean nothing.
    Selected,
    /// It is to be connected, in another zone than the own one.
    OtherZone,
    /// It is to be connected for as long as another one fails, or is being connected.
    Substitute,
    /// It is not to be connected: the filter does not let it pass.
    Filtered,
    /// It is not to be connected: there are too many values to route by.
    BeyondRouteValues,
    /// It is not to be connected: enough others are ([`subset`](crate::BalancedChannelBuilder::subset)).
    OutsideSubset,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Selected => "selected",
            Self::OtherZone => "other zone",
            Self::Substitute => "substitute",
            Self::Filtered => "filtered",
            Self::BeyondRouteValues => "too many values to route by",
            Self::OutsideSubset => "outside the subset",
        })
    }
}

impl Verdict {
    /// Whether the candidate has a partition, in which it may be chosen.
    fn may_be_chosen(&self) -> bool {
        !matches!(self.reason, Reason::Filtered | Reason::BeyondRouteValues)
    }
}

impl Reason {
    /// Whether the server is to be connected.
    pub(crate) fn is_connected(self) -> bool {
        matches!(self, Self::Selected | Self::OtherZone | Self::Substitute)
    }
}

/// Selects among the candidates. `known` are the [partitions](Selection::partitions) of the selection
/// before, which go before new ones. Times count from any fixed moment.
pub(crate) fn select(
    config: &SelectConfig,
    known: &[RouteValues],
    candidates: &[Candidate<'_>],
    now: Duration,
) -> Selection {
    let partitions = Partitions::new(&config.route_keys, known, candidates);
    let verdict = |(candidate, partition): (&Candidate<'_>, &Option<usize>)| {
        let reason = match partition {
            _ if !candidate.matches_filter => Reason::Filtered,
            None => Reason::BeyondRouteValues,
            Some(_) => Reason::OutsideSubset, // unless it is chosen
        };
        Verdict { reason, partition: partition.unwrap_or(0), tier: 0, factor: 1.0 }
    };
    let mut servers: Vec<Verdict> = candidates.iter().zip(&partitions.of).map(verdict).collect();
    let members = members(config, &servers, candidates);
    let mut next: Option<Duration> = None;
    for members in members.chunk_by(|one, other| one.partition == other.partition) {
        let mut partition = Partition { members, candidates, verdicts: &mut servers };
        let retry = partition.choose(config.subset, now);
        partition.number_tiers();
        let step = partition.warm_up(config.slow_start.filter(|_| config.uses_slow_start), now);
        next = next.into_iter().chain(retry).chain(step).min();
    }
    Selection { servers, partitions: partitions.all, beyond: partitions.beyond, next }
}

/// The servers with the same values for all keys, while they are selected.
struct Partition<'a> {
    /// In the order in which they are preferred, so nearer zones first. Not empty.
    members: &'a [Member],
    /// All candidates, of other partitions too; members are indexes into them and into `verdicts`.
    candidates: &'a [Candidate<'a>],
    verdicts: &'a mut [Verdict],
}
