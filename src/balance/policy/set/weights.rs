//! The effective weights of servers, if only some instances have a weight. PURE.

/// Turns the weights of instances into effective ones: an instance without a weight counts as the
/// mean of those with one (gRFC A58). If only some have one, all weights are multiplied by the
/// number of those, so that the mean is a whole number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    factor: u64,
    /// The effective weight of an instance that says none.
    unsaid: u64,
}

impl Weights {
    /// Adds up the weights of all instances of a set; `None` is an instance that says none.
    pub(crate) fn of(said: impl Iterator<Item = Option<u32>>) -> Self {
        let (mut sum, mut count, mut any_unsaid) = (0_u64, 0_u64, false);
        for weight in said {
            match weight {
                Some(weight) => (sum, count) = (sum + u64::from(weight), count + 1),
                None => any_unsaid = true,
            }
        }
        match (count, any_unsaid) {
            (0, _) | (_, false) => Self { factor: 1, unsaid: 1 },
            _ => Self { factor: count, unsaid: sum },
        }
    }

    /// The effective weight of an instance that says this; at least 1.
    pub(crate) fn effective(self, said: Option<u32>) -> u64 {
        said.map_or(self.unsaid, |weight| u64::from(weight.max(1)) * self.factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(said: &[Option<u32>]) -> Vec<u64> {
        let weights = Weights::of(said.iter().copied());
        said.iter().map(|said| weights.effective(*said)).collect()
    }

    /// F24: who says no weight counts as the mean of those who do.
    #[test]
    fn who_says_none_counts_as_the_mean() {
        assert_eq!(weights(&[None, None]), [1, 1]);
        assert_eq!(weights(&[Some(3), Some(5)]), [3, 5]);
        assert_eq!(weights(&[Some(100), None, None]), [100, 100, 100]);
        assert_eq!(weights(&[Some(1), Some(2), None]), [2, 4, 3]);
        assert_eq!(weights(&[Some(9), None, Some(1), Some(5)]), [27, 15, 3, 15]);
        assert_eq!(weights(&[Some(u32::MAX), None])[1], u64::from(u32::MAX));
        assert!(weights(&[]).is_empty());
    }
}
