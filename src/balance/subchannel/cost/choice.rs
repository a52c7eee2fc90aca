//! Which of two servers that were drawn at random, by weight, a call goes to (power of two choices). PURE.

/// Two of so many servers, at least two. `sample` draws one by weight, `random` a number below another.
pub(crate) fn draw<R: FnMut(u64) -> u64>(
    servers: usize,
    sample: impl Fn(&mut R) -> usize,
    random: &mut R,
) -> (usize, usize) {
    let first = sample(random);
    let mut second = sample(random);
    if first == second {
        second = (first + 1 + random(servers as u64 - 1) as usize) % servers;
    }
    (first, second)
}

/// What a choice goes by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Calls in flight, and the places that bad ones go on holding.
    pub(crate) load: u64,
    pub(crate) weight: u64,
}

/// Whether the second has less to do for its weight, the call included. The draw by weight alone shares out what is idle, so it
/// stands where the second is not better off even with the call.
pub(crate) fn by_load(first: Standing, second: Standing) -> bool {
    let places = |load: u64, weight: u64| u128::from(load) * u128::from(weight);
    places(second.load + 1, first.weight) <= places(first.load, second.weight)
}

/// What is known of how long a server's calls take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Estimate {
    /// Nothing, and it should be asked.
    Unknown,
    /// Nothing yet: it was asked a moment ago, or has given nothing good.
    Awaited,
    Nanos(f64),
}

/// How much slower a server that has not answered yet is taken for while it is waited for.
const AWAITED: f64 = 10.0;
/// Less of a difference in latency may come of what the servers have to do just now, or of chance.
const CLEARLY: f64 = 3.0;

/// Nothing below this is told apart, in nanoseconds: so much a scheduler, a cold cache or a turn of another process adds, and more
/// often where a server is asked seldom.
const ALIKE: f64 = 1e6;

/// The same, where each place costs what the server's calls take. Between servers that are about as fast weight and load decide
/// alone.
pub(crate) fn by_latency(first: (Standing, Estimate), second: (Standing, Estimate)) -> bool {
    use Estimate::{Awaited, Nanos, Unknown};
    let ((a, a_takes), (b, b_takes)) = (first, second);
    let (a_takes, b_takes) = match (a_takes, b_takes) {
        (Nanos(a_takes), Nanos(b_takes)) => (a_takes.max(ALIKE), b_takes.max(ALIKE)),
        (Unknown, Nanos(_) | Awaited) => return false,
        (Nanos(_) | Awaited, Unknown) => return true,
        (Unknown, Unknown) | (Awaited, Awaited) => return by_load(a, b),
        (Awaited, Nanos(takes)) => (takes.max(ALIKE) * AWAITED, takes.max(ALIKE)),
        (Nanos(takes), Awaited) => (takes.max(ALIKE), takes.max(ALIKE) * AWAITED),
    };
    if a_takes < b_takes * CLEARLY && b_takes < a_takes * CLEARLY {
        return by_load(a, b);
    }
    // The draw has shared out by weight already. So idle servers differ by latency alone, and a call costs all the same.
    let call = a.weight.max(b.weight) as f64;
    let places = |one: Standing, other: Standing| one.load as f64 * other.weight as f64 + call;
    b_takes * places(b, a) < a_takes * places(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(load: u64, weight: u64) -> Standing {
        Standing { load, weight }
    }

    #[test]
    fn the_draw_stands_unless_the_second_is_better_off() {
        for (first, second, expected) in [
            ((0, 1), (0, 1), false),
            ((1, 1), (0, 1), true),
            ((1, 1), (1, 1), false),
            ((0, 1), (0, 10), false),
            ((1, 1), (0, 10), true),
            ((9, 10), (0, 1), false),
            ((10, 10), (0, 1), true),
            ((u64::from(u32::MAX), u64::MAX), (0, u64::MAX), true),
        ] {
            let (a, b) = (standing(first.0, first.1), standing(second.0, second.1));
            assert_eq!(by_load(a, b), expected, "{first:?} {second:?}");
            assert_eq!(
                by_latency((a, Estimate::Nanos(1e6)), (b, Estimate::Nanos(1e6))),
                expected,
                "{first:?} {second:?}, alike"
            );
            assert_eq!(
                by_latency((a, Estimate::Awaited), (b, Estimate::Awaited)),
                expected,
                "{first:?} {second:?}, unknown"
            );
        }
    }

    #[test]
    fn who_is_clearly_faster_is_taken() {
        let idle = standing(0, 1);
        let ms = |ms: f64| Estimate::Nanos(ms * 1e6);
        assert!(by_latency((idle, ms(20.0)), (idle, ms(1.0))));
        assert!(!by_latency((idle, ms(1.0)), (idle, ms(20.0))));
        assert!(!by_latency((idle, ms(2.9)), (idle, ms(1.0))), "noise");
        assert!(!by_latency((idle, ms(0.9)), (idle, ms(0.01))), "a turn of the scheduler");
        assert!(by_latency((idle, ms(4.0)), (idle, ms(0.01))));
        let heavy = standing(0, 100);
        assert!(by_latency((heavy, ms(20.0)), (idle, ms(1.0))), "a light one that is idle");
        assert!(!by_latency((idle, ms(1.0)), (heavy, ms(20.0))), "a light one that is idle");
        assert!(by_latency((idle, ms(20.0)), (standing(18, 1), ms(1.0))));
        assert!(!by_latency((idle, ms(20.0)), (standing(20, 1), ms(1.0))));
    }

    #[test]
    fn who_is_unknown_gets_one_call() {
        let (idle, asked) = (standing(0, 1), standing(1, 1));
        let known = Estimate::Nanos(1e6);
        assert!(by_latency((idle, known), (idle, Estimate::Unknown)));
        assert!(!by_latency((idle, Estimate::Unknown), (idle, known)));
        assert!(!by_latency((asked, known), (asked, Estimate::Awaited)));
        assert!(by_latency((asked, Estimate::Awaited), (asked, known)));
        assert!(by_latency((asked, Estimate::Awaited), (asked, Estimate::Unknown)), "another was asked a moment ago");
    }
}
