//! Faults that a hostile reader has proven.

use std::time::Duration;

use super::{Cost, Fleet};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Both servers answer 200 calls a second in 5 ms. At one of them, which drains, 100 streams end well that were open for a day; a second later one call
/// of the other server finds nothing. That call says as little of its server as any other that finds nothing.
#[test]
fn streams_that_end_well_make_no_bad_call_of_another_server_last_for_hours() {
    let (fleet, own, other) = (Fleet::default(), Cost::default(), Cost::default());
    let peers = |now| fleet.peers_of(&own, now, [(&own, 1), (&other, 1)].into_iter());
    let day = ms(24 * 3600 * 1000);
    for call in 0..1000 {
        let now = day + ms(call * 5);
        own.ok(ms(5), || peers(now));
        other.ok(ms(5), || peers(now));
        if call == 800 {
            (0..100).for_each(|_| other.ok(day, || peers(now)));
        }
        let _ = peers(now);
    }
    let now = day + ms(5000);
    own.bad(ms(1), ms(1), now, &peers(now));
    // All is well from now on, and told.
    own.ok(ms(5), || peers(now + ms(100)));
    let kept = [1, 10, 60, 300].map(|minutes| own.kept(|| now + ms(minutes * 60_000)));
    assert_eq!(kept, [0; 4], "places held after 1, 10, 60 and 300 minutes");
}
