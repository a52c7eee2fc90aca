//! [`Split`]: a share of the calls that ask for nothing. PURE.

use std::sync::Arc;

/// A share of the calls without a route goes to the servers that carry a value, such as a canary's version.
///
/// ```
/// use tonic_etcd::{BalancedChannel, Split};
///
/// let builder = BalancedChannel::builder()
///     .route_key("version")
///     .split(Split::new("version").to("v2", 5).to("v3", 0.5)); // 94.5 % go to servers without a version
/// ```
///
/// The draw is made once for each call, and holds for all its attempts. Each call is drawn for itself: a user whose
/// calls are to stay on one side needs a [`Route`](crate::Route).
///
/// - Calls with a [`Route`](crate::Route), and those that name the value of any key in a header, are not drawn.
/// - A call that is drawn goes to the default servers while no server with that value is ready, as with
///   [`Route::or_default`](crate::Route::or_default). So a canary that is taken away costs no call, as long as there are default
///   servers. Where all servers carry a value there are none, and such calls fail: leave the value out at the servers that
///   get the rest.
/// - Several splits of a channel share one draw: each call is drawn by one of them at most, and all shares together are
///   at most 100 %.
#[derive(Clone, Debug)]
#[must_use = "a split does nothing until a channel has it"]
pub struct Split {
    pub(super) key: Arc<str>,
    pub(super) shares: Vec<Share>,
}

/// A part of the calls, and the value that they are sent to.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) value: Arc<str>,
    pub(super) percent: f64,
}

impl Split {
    /// A split by the values of a route key, without a share yet: all calls go to the default servers.
    pub fn new(key: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), shares: Vec::new() }
    }

    /// Sends a share of the calls to the servers that carry `value`. `percent` is from 0 to 100; 5 stands for 5 %, 0.5
    /// for one call of 200. A value that is named twice gets both shares.
    ///
    /// A value that is empty, a percentage outside of this range, or a sum above 100 is refused when the channel is
    /// built.
    pub fn to(mut self, value: impl Into<Arc<str>>, percent: impl Into<f64>) -> Self {
        self.shares.push(Share { value: value.into(), percent: percent.into() });
        self
    }
}

/// Draws the share that a call belongs to, with the key of its split. `None`: to none of them. `random` is a number
/// from the whole range, each as likely as any other.
pub(super) fn draw(splits: &[Split], random: u64) -> Option<(&Arc<str>, &Arc<str>)> {
    // The 53 bits that an f64 holds: from 0 to below 100.
    let mut point = (random >> 11) as f64 * (100.0 / (1_u64 << 53) as f64);
    let shares = splits.iter().flat_map(|split| split.shares.iter().map(move |share| (&split.key, share)));
    for (key, share) in shares {
        if point < share.percent {
            return Some((key, &share.value));
        }
        point -= share.percent;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// `SplitMix64`.
    fn numbers(mut seed: u64) -> impl Iterator<Item = u64> {
        std::iter::repeat_with(move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        })
    }

    /// How many of so many draws, in percent, are of each value of the splits.
    fn drawn(splits: &[Split], seed: u64, draws: usize) -> impl Fn(&str) -> f64 + '_ {
        let values: Vec<_> = numbers(seed).take(draws).map(|random| draw(splits, random)).collect();
        move |wanted| {
            let count = values.iter().flatten().filter(|(_, value)| ***value == *wanted).count();
            count as f64 * 100.0 / draws as f64
        }
    }

    #[test]
    fn five_percent_are_five_percent() {
        let splits = [Split::new("version").to("v2", 5)];
        for seed in 0..20 {
            let share = drawn(&splits, seed, 20_000)("v2");
            assert!((share - 5.0).abs() <= 0.6, "{share} % with seed {seed}");
        }
    }

    #[test]
    fn nothing_and_everything_are_exact() {
        let extremes = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        let (none, empty) = ([Split::new("version").to("v2", 0)], [Split::new("version")]);
        let all =
            [Split::new("lane").to("a", 0), Split::new("version").to("v2", 60), Split::new("version").to("v3", 40)];
        for random in extremes.into_iter().chain(numbers(1).take(1000)) {
            assert_eq!(draw(&none, random), None);
            assert_eq!(draw(&empty, random), None);
            assert!(draw(&all, random).is_some_and(|(key, value)| **key == *"version" && value.starts_with('v')));
        }
        assert_eq!(draw(&[], 0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Each value gets its share, whatever others there are, over one split or several.
        #[test]
        fn each_value_gets_its_share(parts in vec(0_u32..1000, 1..6), apart: bool, seed: u64) {
            let whole = f64::from(parts.iter().sum::<u32>().max(1));
            let shares: Vec<_> = parts.iter().map(|part| f64::from(*part) * 90.0 / whole).collect();
            let named = || shares.iter().enumerate().map(|(at, share)| (format!("v{at}"), *share));
            let splits = if apart {
                named().map(|(value, share)| Split::new(format!("of {value}")).to(value, share)).collect()
            } else {
                vec![named().fold(Split::new("version"), |split, (value, share)| split.to(value, share))]
            };
            let drawn = drawn(&splits, seed, 20_000);
            for (value, share) in named() {
                // Six standard deviations.
                let bound = 600.0 * (share / 100.0 * (1.0 - share / 100.0) / 20_000.0).sqrt();
                prop_assert!((drawn(&value) - share).abs() <= bound + 0.01, "{value}: {} for {share}", drawn(&value));
            }
        }
    }
}
