//! The effective weights of servers, if only some instances have a weight or some servers are warming. PURE.

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

    /// The weight of an instance that says this, in the unit of what instances say; at least 1.
    pub(crate) fn own(self, said: Option<u32>) -> f64 {
        self.effective(said) as f64 / self.factor as f64
    }
}

/// What a factor of 1 counts as, if any is smaller: the least step of a weight of 1 is a thousandth.
const RESOLUTION: f64 = 1_000.0;
/// The most that the scaled weights of a set add up to.
const MOST_IN_ALL: f64 = (1_u64 << 62) as f64;

/// Weights times slow start factors, each at least 1. All are multiplied by 1,000, or by less if their sum would be
/// too great. A server without a factor has 1; a factor counts as at least a thousandth and at most 1.
pub(crate) fn with_factors(weights: &[u64], factors: &[f64]) -> Box<[u64]> {
    let sum: f64 = weights.iter().map(|weight| *weight as f64).sum();
    let scale = RESOLUTION.min(MOST_IN_ALL / sum.max(1.0));
    let factor = |server: usize| factor(factors.get(server).copied());
    // A product of finite numbers above 0; `as` would saturate.
    let scaled = |(server, weight): (usize, &u64)| ((*weight as f64 * factor(server) * scale).round() as u64).max(1);
    weights.iter().enumerate().map(scaled).collect()
}

/// A slow start factor as it counts: none, or one that is no number, is 1.
pub(crate) fn factor(said: Option<f64>) -> f64 {
    said.filter(|factor| !factor.is_nan()).map_or(1.0, |factor| factor.clamp(1.0 / RESOLUTION, 1.0))
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;
    use crate::balance::policy::two_choices::{WeightedLoad, by_load, draw};

    /// The fuzz target: an instance that says no weight has the mean of the others, whatever those are; and of two choices the
    /// second is better in one direction at most, unless both are alike.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let number = |piece: &[u8]| piece.iter().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte));
        let said: Vec<_> = bytes.chunks(4).map(|piece| (piece[0] % 3 != 0).then(|| number(piece).max(1))).collect();
        let effective = weights(&said);
        assert!(effective.iter().all(|weight| *weight >= 1));
        let known: Vec<_> = said.iter().flatten().map(|weight| u128::from(*weight)).collect();
        let (sum, count) = (known.iter().sum::<u128>(), known.len() as u128);
        // All are multiplied by the number of those that say one, if some say none.
        let factor = if known.len() < said.len() && count > 0 { count } else { 1 };
        for (said, effective) in said.iter().zip(&effective) {
            let own = u128::from(*effective);
            match said {
                None if count > 0 => assert_eq!(own * count, sum * factor),
                None => assert_eq!(own, 1),
                Some(weight) => assert_eq!(own, u128::from(*weight) * factor),
            }
        }
        for pair in effective.windows(2) {
            let load = |weight: u64| WeightedLoad { load: weight.rotate_left(7) >> 40, weight };
            let (first, second) = (load(pair[0]), load(pair[1]));
            assert!(!(by_load(first, second) && by_load(second, first)), "{first:?} {second:?}");
        }
        if effective.len() >= 2 {
            let (servers, mut random) = (effective.len(), effective.iter().cycle().copied());
            let sample = |random: u64| (random % servers as u64) as usize;
            let (first, second) =
                draw(servers, sample, || random.next().unwrap_or_default().wrapping_mul(0x9e37_79b9_7f4a_7c15));
            assert!(first != second && first < servers && second < servers);
        }
    }

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

    #[test]
    fn factors_scale_weights_and_never_make_them_0_or_overflow() {
        assert_eq!(*with_factors(&[1, 1, 2], &[1.0, 0.1, 0.5]), [1_000, 100, 1_000]);
        assert_eq!(*with_factors(&[3, 1], &[0.333]), [999, 1_000]);
        assert_eq!(*with_factors(&[1, 1, 1, 1], &[f64::NAN, 0.0, -1.0, 7.0]), [1_000, 1, 1, 1_000]);
        assert!(with_factors(&[], &[]).is_empty());
        let vast = with_factors(&[u64::MAX, 1, u64::MAX], &[1.0, 1.0, 0.1]);
        assert!(vast.iter().try_fold(0_u64, |sum, weight| sum.checked_add(*weight)).is_some(), "{vast:?}");
        assert!(vast[1] == 1 && (9..=10).contains(&(vast[0] / vast[2])), "{vast:?}");
    }
}
