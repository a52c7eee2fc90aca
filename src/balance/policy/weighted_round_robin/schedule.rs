//! The order in which servers take turns by weight. PURE.
//!
//! gRFC A58 walks over all servers and skips those whose turn it is not yet, for each pick. Here the
//! order is written down once, in the background, and a pick reads one entry of it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The least bound of entries: with up to 256 servers, one entry is at most 0.4 % of all, and 6 % of an average
/// server's.
const ENTRIES: u64 = 4_096;
/// The bound in larger sets, for each server: an average one has 16 entries.
const ENTRIES_PER_SERVER: u64 = 16;

/// An order of servers, to be repeated without an end. Each server has a number of entries in proportion to its
/// weight, spread evenly.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Schedule {
    /// The server of each entry; not empty.
    entries: Box<[u32]>,
}

impl Schedule {
    /// The schedule for servers with these weights, by their indexes; a weight of 0 counts as 1. Without servers it
    /// has one entry, of index 0.
    ///
    /// If the weights, divided by their greatest common divisor, add up to at most 4,096 or 16 for each server,
    /// whichever is more, the shares are exact. Else they are scaled to that sum, and each server has its exact
    /// number of entries rounded up or down, but at least one: so there are more entries, by one at most for each server
    /// whose exact number is less than one.
    pub(crate) fn new(weights: impl IntoIterator<Item = u64>) -> Self {
        let weights: Vec<_> = weights.into_iter().map(|weight| weight.max(1)).collect();
        if weights.is_empty() {
            return Self { entries: Box::new([0]) };
        }
        Self { entries: spread(&numbers_of_entries(&weights)) }
    }

    /// The server whose turn it is, by its index. `turn` counts up, and may begin anywhere.
    pub(crate) fn server(&self, turn: usize) -> usize {
        self.entries.get(turn % self.entries.len().max(1)).map_or(0, |server| *server as usize)
    }

    /// How many entries there are before it repeats itself; at least one.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// How many entries each server has. Weights are at least 1.
fn numbers_of_entries(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum: u128 = weights.iter().map(|weight| u128::from(weight / divisor)).sum();
    let bound = u128::from(ENTRIES.max(ENTRIES_PER_SERVER * weights.len() as u64));
    if sum <= bound {
        return weights.iter().map(|weight| weight / divisor).collect();
    }
    // No overflow: a weight has 64 bits, and the bound at most 37, as sets have at most u32::MAX servers.
    let exact = |weight: u64| (u128::from(weight / divisor) * bound / sum, u128::from(weight / divisor) * bound % sum);
    let mut numbers: Vec<u64> = weights.iter().map(|weight| exact(*weight).0.max(1) as u64).collect();
    let assigned: u128 = numbers.iter().copied().map(u128::from).sum();
    // What rounding down has left goes to those that have lost most by it.
    let mut left: Vec<_> = (0..weights.len()).map(|server| (exact(weights[server]), server)).collect();
    left.retain(|((whole, _), _)| *whole > 0);
    left.sort_unstable_by_key(|((_, rest), server)| (Reverse(*rest), *server));
    let spare = bound.saturating_sub(assigned) as usize;
    left.iter().take(spare).for_each(|(_, server)| numbers[*server] += 1);
    numbers
}

/// Euclid's.
fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Writes each server as often as it has entries, at even distances. Servers with equal numbers take turns as one
/// group; groups are merged from the smallest number to the greatest, so that a server with many entries has few in a
/// row, whatever the others do. There are few groups: k different numbers add up to k²/2 at least.
fn spread(numbers: &[u64]) -> Box<[u32]> {
    let mut alike: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    numbers.iter().zip(0_u32..).for_each(|(number, server)| alike.entry(*number).or_default().push(server));
    let groups = alike.into_iter().map(|(number, servers)| servers.repeat(number as usize));
    groups.reduce(|rarer, group| merged(&rarer, &group)).unwrap_or_default().into()
}

/// Both orders as one, each at even distances, also over the end (Bresenham's line).
fn merged(some: &[u32], others: &[u32]) -> Vec<u32> {
    let (mut some_left, mut others_left) = (some.iter(), others.iter());
    let all = some.len() + others.len();
    let others_before = |entry: usize| entry as u64 * others.len() as u64 / all.max(1) as u64;
    let is_other = |entry: &usize| others_before(entry + 1) > others_before(*entry);
    (0..all).filter_map(|entry| if is_other(&entry) { others_left.next() } else { some_left.next() }).copied().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn servers(schedule: &Schedule) -> Vec<usize> {
        (0..schedule.len()).map(|turn| schedule.server(turn)).collect()
    }

    #[test]
    fn turns_are_spread() {
        let of = |weights: &[u64]| servers(&Schedule::new(weights.iter().copied()));
        assert_eq!(of(&[7, 7, 7]), [0, 1, 2]);
        assert_eq!(of(&[1, 3]), [0, 1, 1, 1]);
        assert_eq!(of(&[5, 1, 1]), [1, 0, 0, 2, 0, 0, 0]);
        assert_eq!(of(&[4, 1, 1, 1, 1]), [1, 0, 2, 0, 3, 0, 4, 0]);
        assert_eq!(of(&[1, 4, 5]), [0, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
        assert_eq!((of(&[]), of(&[0]), of(&[u64::MAX])), (vec![0], vec![0], vec![0]));
        assert_eq!(Schedule::new([1, 1]).server(usize::MAX), 1);
    }

    #[test]
    fn a_vast_schedule_is_bounded() {
        let weights = (0..2_000).map(|server| u64::MAX / 2_000 - server);
        let schedule = Schedule::new(weights);
        assert!(schedule.len() <= 34_000, "{}", schedule.len());
        let schedule = Schedule::new((0..2_000).map(|server| if server == 0 { u64::MAX } else { 1 }));
        assert!(schedule.len() <= 34_000, "{}", schedule.len());
        assert_eq!(servers(&schedule).iter().filter(|server| **server == 7).count(), 1);
    }

    /// How wrong shares may be: by less than one entry, and by what servers too light for one take from all others.
    fn shares_are_within_bound(weights: &[u64]) {
        let order = servers(&Schedule::new(weights.iter().copied()));
        let mut counts = vec![0_u64; weights.len()];
        order.iter().for_each(|server| counts[*server] += 1);
        let sum: f64 = weights.iter().map(|weight| *weight as f64).sum();
        let bound = ENTRIES.max(ENTRIES_PER_SERVER * weights.len() as u64) as f64;
        let exact = |weight: &u64| *weight as f64 / sum;
        let light = weights.iter().filter(|weight| exact(weight) * bound < 1.0).count() as f64;
        let taken = light / (bound + light);
        assert!(taken <= 1.0 / 17.0);
        for (count, weight) in counts.iter().zip(weights) {
            let (share, exact) = (*count as f64 / order.len() as f64, exact(weight));
            let error = (share - exact).abs();
            assert!(
                error < 1.0 / bound + exact * taken + 1e-9,
                "weight {weight}: {share} is not {exact}, {light} light"
            );
        }
    }

    #[test]
    fn many_light_servers_take_what_is_documented_from_a_heavy_one() {
        let weights: Vec<u64> = std::iter::once(1_000_000).chain([1; 200]).collect();
        shares_are_within_bound(&weights);
        let order = servers(&Schedule::new(weights));
        assert_eq!(order.iter().filter(|server| **server == 0).count(), 4_095);
        assert_eq!(order.len(), 4_295, "each light one has a turn beside those");
    }

    proptest! {
        #[test]
        fn shares_are_wrong_by_no_more_than_is_documented(
            weights in proptest::collection::vec(prop_oneof![1..10_u64, 1..1_000_u64, 1..=u64::MAX], 1..400)
        ) {
            shares_are_within_bound(&weights);
        }

        /// Over one schedule each server has its share, rounded up or down, and at least one turn. No server has more
        /// turns in a row than it needs, but for one where it is not the heaviest.
        #[test]
        fn shares_are_kept(
            weights in proptest::collection::vec(prop_oneof![1..10_u64, 1..1_000_u64, 1..=u64::MAX], 1..60)
        ) {
            let schedule = Schedule::new(weights.iter().copied());
            let order = servers(&schedule);
            let mut counts = vec![0_u64; weights.len()];
            order.iter().for_each(|server| counts[*server] += 1);
            let sum: u128 = weights.iter().copied().map(u128::from).sum();
            let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
            let is_exact = sum / u128::from(divisor) <= u128::from(ENTRIES);
            for (count, weight) in counts.iter().zip(&weights) {
                let share = *weight as f64 / sum as f64 * ENTRIES as f64;
                prop_assert!(*count >= 1);
                let is_kept = if is_exact { *count == weight / divisor } else { (*count as f64 - share).abs() <= 1.0 };
                prop_assert!(is_kept, "{count} of {share}");
            }
            prop_assert!(order.len() as u64 <= ENTRIES + weights.len() as u64);
            // A schedule repeats itself, so a run may go over its end.
            let mut longest = vec![0; weights.len()];
            let round: Vec<_> = order.iter().chain(&order).copied().collect();
            round.chunk_by(|one, next| one == next).for_each(|run| longest[run[0]] = run.len().max(longest[run[0]]));
            for (server, count) in counts.iter().enumerate().filter(|(_, count)| (**count as usize) < order.len()) {
                let longest = longest[server];
                let is_heaviest = counts.iter().all(|other| other <= count);
                let needed = count.div_ceil(order.len() as u64 - count) as usize;
                let most = needed + usize::from(!is_heaviest);
                prop_assert!(longest <= most, "{longest} in a row, {needed} needed: {counts:?}");
            }
        }
    }
}
