//! PURE: counts by state, as the numbers that users pull have them.

use std::fmt;

/// How many of something are in each state. Debug shows the states that are not 0, by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByState<const N: usize> {
    pub(crate) names: [&'static str; N],
    /// In the order of the names.
    pub(crate) counts: [usize; N],
}

impl<const N: usize> ByState<N> {
    /// None in any state.
    pub(crate) fn none(names: [&'static str; N]) -> Self {
        Self { names, counts: [0; N] }
    }

    /// Returns each state with its count.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&'static str, usize)> + use<N> {
        self.names.into_iter().zip(self.counts)
    }
}

impl<const N: usize> fmt::Debug for ByState<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().filter(|(_, count)| *count > 0)).finish()
    }
}
