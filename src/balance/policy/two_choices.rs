//! Power of two choices: two servers are drawn at random, by weight, and the better one of them
//! gets the call. PURE.
//!
//! Compared with the least loaded of all servers, the better of two needs no look at all of them,
//! and many clients with the same old picture do not all go to the same server (Mitzenmacher, "The
//! Power of Two Choices in Randomized Load Balancing"; gRFC A48).

use crate::policy::{Call, ReadySet};

/// The load and the weight of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightedLoad {
    /// Calls in flight, and failed calls that still count as in flight.
    pub(crate) load: u64,
    /// Relative to the other servers of the set; at least 1.
    pub(crate) weight: u64,
}

impl WeightedLoad {
    /// The load of one server of a set.
    pub(crate) fn of(set: &ReadySet, server: usize) -> Self {
        Self { load: set.servers()[server].load(), weight: set.weight(server) }
    }
}

/// Draws two servers of the set, and returns the index of the one that gets the call.
/// `second_is_better` compares them; a server that is not available loses without being compared.
pub(crate) fn pick(
    set: &ReadySet,
    call: &Call<'_>,
    mut random: impl FnMut() -> u64,
    second_is_better: impl Fn(usize, usize) -> bool,
) -> usize {
    if set.len() < 2 {
        return 0;
    }
    let (first, second) = draw(set.len(), |random| set.draw(random), &mut random);
    match (call.is_available(first), call.is_available(second)) {
        (true, false) => first,
        (false, true) => second,
        _ if second_is_better(first, second) => second,
        _ => first,
    }
}

/// Draws two different servers of at least two. `sample` turns a random number into a server by
/// weight. If it gives the same one twice, the second is any other, each with the same chance.
pub(crate) fn draw(servers: usize, sample: impl Fn(u64) -> usize, mut random: impl FnMut() -> u64) -> (usize, usize) {
    let first = sample(random());
    let mut second = sample(random());
    if first == second {
        let others = servers as u128 - 1;
        let step = (u128::from(random()) * others) >> 64; // below `others`
        second = (first + 1 + step as usize) % servers;
    }
    (first, second)
}

/// Whether the second server has less load for its weight, even with the call added. The draw has
/// already shared out idle servers by weight, so the first keeps the call unless the second is
/// better off with it.
pub(crate) fn by_load(first: WeightedLoad, second: WeightedLoad) -> bool {
    let product = |load: u64, weight: u64| u128::from(load) * u128::from(weight);
    product(second.load + 1, first.weight) <= product(first.load, second.weight)
}
