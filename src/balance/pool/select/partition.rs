//! Which calls a server is for: [`RouteValues`], and the [`Partitions`] of servers by them. PURE.

use std::sync::Arc;

use crate::balance::pool::select::Candidate;
use crate::balance::route::values::value_of;
use crate::instance::Instance;

/// The maximum number of partitions beside the default one: each has connections of its own.
pub(crate) const MAX_PARTITIONS: usize = 16;

/// A value, or none, for each key that calls are routed by, in the order of the keys. Servers with the same
/// values are one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteValues(Box<[Option<Box<str>>]>);

impl RouteValues {
    /// No value for any of so many keys: of the calls without a route, and of the servers for them.
    pub(crate) fn none(keys: usize) -> Self {
        Self(vec![None; keys].into())
    }

    /// The values of a server.
    pub(crate) fn of(keys: &[impl AsRef<str>], instance: &Instance) -> Self {
        Self(keys.iter().map(|key| value_of(instance, key.as_ref()).map(Into::into)).collect())
    }

    /// These values, in the order of the keys.
    pub(crate) fn new<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Self {
        Self(values.map(|value| value.map(Into::into)).collect())
    }

    /// The keys that have a value, with it, for texts.
    pub(crate) fn text(&self, keys: &[Arc<str>]) -> String {
        let pairs = keys.iter().zip(self.values()).filter_map(|(key, value)| Some(format!("{key}={:?}", value?)));
        pairs.collect::<Vec<_>>().join(", ")
    }

    /// The values, in the order of the keys.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<&str>> {
        self.0.iter().map(Option::as_deref)
    }
}

/// The partitions of one selection.
pub(super) struct Partitions {
    /// The default one, then those that were known before, then the new ones in the order of their values.
    pub(super) all: Vec<RouteValues>,
    /// For each candidate the index of its partition; `None` if that is left out. 0 for those that the
    /// filter does not let pass.
    pub(super) of: Vec<Option<usize>>,
    /// How many partitions are left out.
    pub(super) beyond: usize,
}

impl Partitions {
    /// Assigns the candidates to partitions. Those in `known` go before new ones, so that no server that is
    /// connected loses its place to one that comes.
    pub(super) fn new(keys: &[Box<str>], known: &[RouteValues], candidates: &[Candidate<'_>]) -> Self {
        let mut all = vec![RouteValues::none(keys.len())];
        let mut of = vec![Some(0); candidates.len()];
        let values = |index: usize| keys.iter().map(move |key| value_of(candidates[index].instance, key));
        let has_value =
            |index: &usize| candidates[*index].matches_filter && values(*index).any(|value| value.is_some());
        let mut routed: Vec<usize> = (0..candidates.len()).filter(has_value).collect();
        routed.sort_by(|one, other| values(*one).cmp(values(*other)));
        // Not empty each, and in the order of their values.
        let groups: Vec<&[usize]> = routed.chunk_by(|one, other| values(*one).eq(values(*other))).collect();
        let mut places: Vec<Option<usize>> = vec![None; groups.len()];
        let known = known.iter().filter_map(|known| {
            groups.binary_search_by(|group| values(group[0]).cmp(known.values())).ok() // no group is empty
        });
        for group in known.chain(0..groups.len()) {
            if places[group].is_none() && all.len() <= MAX_PARTITIONS {
                places[group] = Some(all.len());
                all.extend(groups[group].first().map(|first| RouteValues::of(keys, candidates[*first].instance)));
            }
        }
        for (group, place) in groups.iter().zip(&places) {
            group.iter().for_each(|index| of[*index] = *place);
        }
        Self { all, of, beyond: places.iter().filter(|place| place.is_none()).count() }
    }
}
