use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn started(step: &Step) -> (&[AttemptId], &[AttemptId]) {
    (&step.start, &step.revoke)
}

#[test]
fn permits_are_free_up_to_the_limit_and_then_go_by_rank() {
    let mut order = ConnectOrder::new(2);
    let failing: Vec<_> = [3, 1, 2].map(|failures| order.enqueue(Rank::failing(failures))).into();
    let step = order.step(MS, true);
    assert_eq!(started(&step), (&[failing[1], failing[2]][..], &[][..]), "who fails most comes last");
    assert_eq!(step.again, Some(MS + MIN_ATTEMPT_TIME * 1000), "and is the most patient");
    order.end(failing[1]);
    assert_eq!(order.step(MS, true).start, [failing[0]]);
}

#[test]
fn the_new_wait_no_longer_than_25_ms() {
    let mut order = ConnectOrder::new(2);
    let all = [(); 5].map(|()| order.enqueue(Rank::New));
    assert_eq!(order.step(MS, true).start, all[..2]);
    assert_eq!(order.step(2 * MS, true), Step { again: Some(26 * MS), ..Step::default() });
    assert_eq!(order.step(27 * MS, false), Step { again: Some(27 * MS), ..Step::default() });
    assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &all[..2]));
    assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &[][..]), "told once");
    order.end(all[0]);
    order.end(all[1]);
    let again = [0, 1].map(|_| order.enqueue(Rank::New.next()));
    let step = order.step(27 * MS, true);
    assert_eq!((started(&step), step.again), ((&all[2..4], &[][..]), Some(52 * MS)));
    assert_eq!(started(&order.step(52 * MS, true)), (&[][..], &all[2..3]));
    order.end(all[2]);
    let step = order.step(53 * MS, true);
    assert_eq!(started(&step), (&all[4..], &[][..]));
    assert_eq!(step.again, Some(277 * MS), "who was cut short waits for longer");
    order.end(all[3]);
    order.end(all[3]);
    assert_eq!(order.step(60 * MS, true).start, again[..1]);
}

#[test]
fn who_was_connected_never_waits() {
    let mut order = ConnectOrder::new(2);
    let new = [(); 3].map(|()| order.enqueue(Rank::New));
    order.step(MS, true);
    let connected = [(); 3].map(|()| order.enqueue(Rank::Connected));
    let step = order.step(MS, true);
    assert_eq!(started(&step), (&connected[..], &new[..2]), "beyond the limit where none is left to cut short");
    new[..2].iter().for_each(|attempt| order.end(*attempt));
    assert_eq!(order.running, 3);
    assert_eq!(order.step(2 * MS, true).again, Some(26 * MS));
    assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &connected[..2]), "as many as it takes");
}

#[test]
fn who_failed_less_gets_the_place_of_who_failed_more() {
    let mut order = ConnectOrder::new(1);
    let (worse, better) = (order.enqueue(Rank::failing(3)), Rank::failing(2));
    order.step(MS, true);
    let (first, second) = (order.enqueue(better), order.enqueue(better));
    assert_eq!(order.step(MS, true).again, Some(26 * MS));
    assert_eq!(started(&order.step(26 * MS, true)), (&[][..], &[worse][..]));
    assert!(order.is_revoked(worse));
    assert_eq!(
        (order.confirm_start(worse, 26 * MS), order.confirm_start(first, 26 * MS)),
        (StartResult::Revoked, StartResult::Waiting)
    );
    order.end(worse);
    assert_eq!(order.step(27 * MS, true).start, [first]);
    assert_eq!(order.confirm_start(first, 60 * MS), StartResult::Started);
    let new = order.enqueue(Rank::New);
    assert_eq!(order.step(61 * MS, true).again, Some(85 * MS), "its time begins when it does");
    order.end(new);
    order.end(second);
    order.end(first);
    assert_eq!(order.step(MS, true), Step::default());
    assert_eq!(Rank::failing(i32::MAX), Rank::failing(8).next());
}

#[test]
fn a_further_connection_takes_no_place_from_a_first_one() {
    let mut order = ConnectOrder::new(1);
    let first = order.enqueue(Rank::failing(8));
    order.step(MS, true);
    let further = order.enqueue(Rank::further(0));
    let later = Duration::from_secs(1_000_000);
    assert_eq!(order.step(later, true), Step::default(), "it waits until the other one ends");
    let second = order.enqueue(Rank::failing(8));
    order.end(first);
    assert_eq!(order.step(later, true).start, [second], "and behind all other first ones");
    order.end(second);
    assert_eq!(order.step(later, true).start, [further]);
    let other = order.enqueue(Rank::further(0));
    assert_eq!(order.step(later, true).again, Some(later + MIN_ATTEMPT_TIME), "among themselves as others do");
    let new = order.enqueue(Rank::Connected);
    assert_eq!(started(&order.step(later, true)), (&[new][..], &[further][..]), "gives way at once");
    assert!(!order.is_revoked(other));
    assert_eq!((Rank::further(0).next(), Rank::further(-1)), (Rank::further(1), Rank::further(0)));
}

proptest! {
    /// F42: whatever comes between, no more are under way than may be, none is lost, and the
    /// better come first.
    #[test]
    fn the_limit_holds_and_nobody_is_lost(steps in steps()) {
        limit_holds(steps)?;
    }
}

fn limit_holds(steps: Vec<(u8, u64)>) -> TestCaseResult {
    let mut order = ConnectOrder::new(3);
    let mut now = Duration::ZERO;
    for (what, value) in steps {
        match what {
            0 => drop(order.enqueue(Rank::Connected)),
            1..=3 => drop(order.enqueue(Rank::New)),
            4..=5 => drop(order.enqueue(Rank::failing(value as i32))),
            6 => drop(order.enqueue(Rank::further(value as i32))),
            7..=10 => {
                let nth = order.known.keys().nth(value as usize).copied();
                nth.into_iter().for_each(|attempt| order.end(attempt));
            }
            _ => now += 5 * MS,
        }
        let before = order.running;
        let step = order.step(now, true);
        let under_way = order.revocable.values().map(BTreeSet::len).sum::<usize>() + order.revoked;
        prop_assert_eq!(under_way, order.running);
        prop_assert_eq!(under_way + order.waiting.len(), order.known.len());
        let connected = step.start.iter().filter(|attempt| order.known[attempt].0 == Rank::Connected).count();
        prop_assert!(under_way <= before.max(3) + connected, "beyond the limit for who was connected alone");
        prop_assert!(order.waiting.is_empty() || under_way >= 3, "a place is empty and somebody waits");
        prop_assert!(order.waiting.first().is_none_or(|(rank, _)| *rank > Rank::Connected));
        if let Some((Rank::New, _)) = order.waiting.first()
            && under_way - order.revoked >= 3
        {
            prop_assert!(step.again.is_some_and(|again| again > now && again <= now + MIN_ATTEMPT_TIME));
        }
    }
    Ok(())
}

fn steps() -> impl Strategy<Value = Vec<(u8, u64)>> {
    proptest::collection::vec((0_u8..14, 0_u64..12), 0..200)
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, Just(()), (0_u8..14, 0_u64..12), |(), steps| limit_holds(steps));
}
