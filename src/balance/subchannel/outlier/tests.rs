use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// The server ends so many calls well, or badly.
    Well(usize, u32),
    Badly(usize, u32),
    /// It joins, or leaves.
    Toggle(usize),
    Pass(u64),
}

#[test]
fn each_ejection_that_is_due_is_told_once() {
    use DetectionMethod::{ConsecutiveFailures, FailurePercentage};

    let due = |method, is_enforced| Ejection { method, is_enforced };
    let count = |successes, failures, consecutive_failures| CallCounts { successes, failures, consecutive_failures };
    let options = OutlierDetection::default().consecutive_failures(Some(5)).max_ejection_percent(50);
    let options = options.failure_percentage(Some(50), 10).min_servers(1);
    let mut detector = OutlierDetector::new(options, Duration::ZERO);
    let alone = [(1, count(0, 9, 9))];
    for _ in 0..3 {
        detector.detect(&alone, Duration::from_millis(1));
    }
    assert_eq!(detector.take_due(), [due(ConsecutiveFailures, false)]);
    detector.detect(&[(1, count(1, 9, 0))], Duration::from_millis(2));
    detector.detect(&alone, Duration::from_millis(3));
    assert_eq!(detector.take_due(), [due(ConsecutiveFailures, false)], "a call has ended with OK between");
    let both = [(1, count(0, 9, 9)), (2, count(100, 0, 0)), (3, count(40, 60, 0))];
    for _ in 0..3 {
        detector.detect(&both, Duration::from_millis(4));
    }
    assert_eq!(detector.take_due(), [due(ConsecutiveFailures, true)]);
    detector.detect(&both, Duration::from_secs(1_000));
    assert!(detector.take_due().contains(&due(FailurePercentage, true)));
}

fn options() -> impl Strategy<Value = OutlierDetection> {
    let rates = (proptest::option::of(0_u32..=100), proptest::option::of(-3.0..3.0), 1_u64..20);
    (10_u64..20_000, 0_u64..40_000, 0_u64..400_000, 0_u32..=100, proptest::option::of(1_u32..8), rates, 1_usize..6)
        .prop_map(|(interval, base, more, percent, consecutive, (failing, deviations, calls), servers)| {
            let ms = Duration::from_millis;
            OutlierDetection::default()
                .interval(ms(interval))
                .ejection_time(ms(base), ms(base + more))
                .max_ejection_percent(percent)
                .consecutive_failures(consecutive)
                .failure_percentage(failing, calls)
                .success_rate(deviations, calls)
                .min_servers(servers)
        })
}

fn step() -> impl Strategy<Value = Step> {
    let server = || 0_usize..8;
    prop_oneof![
        3 => (server(), 1_u32..200).prop_map(|(server, calls)| Step::Well(server, calls)),
        3 => (server(), 1_u32..200).prop_map(|(server, calls)| Step::Badly(server, calls)),
        1 => server().prop_map(Step::Toggle),
        3 => (0_u64..30_000).prop_map(Step::Pass),
    ]
}

fn options_and_steps() -> impl Strategy<Value = (OutlierDetection, Vec<Step>)> {
    (options(), proptest::collection::vec(step(), 0..100))
}

/// The pool in miniature: it counts, and looks when that is due or a server is suspicious.
fn ejections_are_bounded(options: OutlierDetection, steps: &[Step]) {
    assert_eq!(options.invalid(), None);
    let (mut detector, mut now) = (OutlierDetector::new(options, Duration::ZERO), Duration::ZERO);
    let mut counts: BTreeMap<usize, CallCounts> = (0..4).map(|server| (server, CallCounts::default())).collect();
    let mut ejected: BTreeSet<usize> = BTreeSet::new();
    for step in steps {
        match step {
            // The calls of an ejected server do not count.
            Step::Well(server, _) | Step::Badly(server, _) if ejected.contains(server) => continue,
            Step::Well(server, calls) => {
                let Some(count) = counts.get_mut(server) else { continue };
                count.successes += u64::from(*calls);
                count.consecutive_failures = 0;
            }
            Step::Badly(server, calls) => {
                let Some(count) = counts.get_mut(server) else { continue };
                count.failures += u64::from(*calls);
                count.consecutive_failures += *calls;
            }
            Step::Toggle(server) => {
                if counts.remove(server).is_none() {
                    counts.insert(*server, CallCounts::default());
                }
            }
            Step::Pass(millis) => now += Duration::from_millis(*millis),
        }
        ejected.retain(|server| counts.contains_key(server));
        let is_over = detector.interval_is_over(now);
        let times: BTreeMap<_, _> = detector.ejected.iter().map(|(id, server)| (*id, server.ejections)).collect();
        let in_order: Vec<_> = counts.iter().map(|(server, count)| (*server, *count)).collect();
        let named: BTreeSet<usize> = detector.detect(&in_order, now).into_iter().collect();
        assert!(named.iter().all(|server| counts.contains_key(server)));
        let is_new = |id: &&usize| detector.ejected[*id].ejections > times.get(*id).copied().unwrap_or(0);
        if named.iter().any(|id| is_new(&id)) {
            assert!(named.len() < counts.len(), "never all: {named:?} of {counts:?}");
            let share = options.max_percent as usize * counts.len();
            assert!(named.len() == 1 || (named.len() - 1) * 100 < share, "{named:?} of {counts:?}");
        }
        for server in detector.ejected.values() {
            assert!(server.ejections > 0 && !(server.until.is_some() && server.on_probation));
            assert!(server.until.is_none_or(|until| until <= now + options.max_time));
        }
        assert!(detector.next() > now || options.base_time.is_zero());
        assert!(detector.next() <= now + options.interval);
        // Counts begin anew with an interval, with an ejection and with a return.
        for (server, count) in &mut counts {
            if is_over || named.contains(server) != ejected.contains(server) {
                let consecutive =
                    if named.contains(server) || ejected.contains(server) { 0 } else { count.consecutive_failures };
                *count = CallCounts { consecutive_failures: consecutive, ..CallCounts::default() };
            }
        }
        ejected = named;
    }
}

proptest! {
    /// F36: never all servers, never more than their share, and none for longer than the maximum.
    #[test]
    fn ejections_stay_within_their_bounds((options, steps) in options_and_steps()) {
        ejections_are_bounded(options, &steps);
    }
}

/// The fuzz target: the same property.
pub(crate) fn fuzz(bytes: &[u8]) {
    crate::fuzzing::with_steps(bytes, options(), step(), |options, steps| {
        ejections_are_bounded(options, &steps);
        Ok(())
    });
}

fn counts(list: &[(u64, u64, u32)]) -> Vec<(usize, CallCounts)> {
    let count = |(successes, failures, consecutive): &(u64, u64, u32)| CallCounts {
        successes: *successes,
        failures: *failures,
        consecutive_failures: *consecutive,
    };
    list.iter().map(count).enumerate().collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn failures_in_a_row_eject_at_once_and_probation_again_longer() {
    let mut detector = OutlierDetector::new(OutlierDetection::default(), Duration::ZERO);
    assert!(detector.detect(&counts(&[(9, 4, 4), (9, 0, 0), (9, 0, 0)]), SECOND).is_empty());
    assert_eq!(detector.detect(&counts(&[(9, 5, 5), (9, 0, 0), (9, 0, 0)]), SECOND), [0]);
    assert_eq!(detector.detect(&counts(&[(0, 0, 5), (9, 0, 0), (9, 0, 0)]), SECOND * 30), [0]);
    assert!(detector.detect(&counts(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 31).is_empty());
    assert_eq!(detector.detect(&counts(&[(0, 1, 1), (9, 0, 0), (9, 0, 0)]), SECOND * 32), [0]);
    assert_eq!(detector.detect(&counts(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 91), [0]);
    assert!(detector.detect(&counts(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 92).is_empty());
    assert!(detector.detect(&counts(&[(1, 0, 0), (9, 0, 0), (9, 0, 0)]), SECOND * 93).is_empty());
    assert!(detector.detect(&counts(&[(1, 1, 1), (9, 0, 0), (9, 0, 0)]), SECOND * 94).is_empty());
}

#[test]
fn other_options_leave_servers_ejected_and_say_for_how_long() {
    let options = OutlierDetection::default().ejection_time(SECOND * 100, SECOND * 300);
    let (bad, quiet) = (counts(&[(9, 5, 5), (9, 0, 0), (9, 0, 0)]), counts(&[(0, 0, 0), (9, 0, 0), (9, 0, 0)]));
    let mut detector = OutlierDetector::new(options, Duration::ZERO);
    assert_eq!(detector.detect(&bad, SECOND), [0]);
    detector.set_options(options.max_ejection_percent(0));
    assert_eq!(detector.detect(&quiet, SECOND * 100), [0]);
    detector.set_options(options.ejection_time(SECOND * 200, SECOND * 300));
    assert_eq!(detector.detect(&quiet, SECOND * 200), [0]);
    detector.set_options(options);
    assert!(detector.detect(&quiet, SECOND * 200).is_empty() && detector.is_on_probation(&0));

    let mut detector = OutlierDetector::new(options, Duration::ZERO);
    assert_eq!(detector.detect(&bad, SECOND), [0]);
    detector.set_options(options.consecutive_failures(None).success_rate(None, 1).failure_percentage(None, 1));
    assert!(detector.detect(&quiet, SECOND * 2).is_empty() && !detector.is_on_probation(&0), "nothing ejects any more");
}

#[test]
fn rates_are_judged_when_the_interval_is_over() {
    let mut detector = OutlierDetector::new(OutlierDetection::default(), Duration::ZERO);
    let failing = counts(&[(1, 99, 1), (100, 0, 0), (100, 0, 0), (100, 0, 0), (100, 0, 0)]);
    assert!(detector.detect(&failing, SECOND * 9).is_empty());
    assert_eq!(detector.detect(&failing, SECOND * 10), [0]);
    let few = counts(&[(1, 99, 1), (100, 0, 0), (100, 0, 0), (100, 0, 0)]);
    assert!(OutlierDetector::new(OutlierDetection::default(), Duration::ZERO).detect(&few, SECOND * 10).is_empty());
    let alike = counts(&[(50, 50, 1), (50, 50, 0), (50, 50, 0), (50, 50, 0), (50, 50, 0)]);
    assert!(OutlierDetector::new(OutlierDetection::default(), Duration::ZERO).detect(&alike, SECOND * 10).is_empty());
}

#[test]
fn never_all_and_never_more_than_its_share() {
    let all: Vec<_> = (0..10).map(|_| (1_000_000, 9, 9)).collect();
    let out = |percent| {
        OutlierDetector::new(OutlierDetection::default().max_ejection_percent(percent), Duration::ZERO)
            .detect(&counts(&all), SECOND)
    };
    assert_eq!(out(0).len(), 1);
    assert_eq!(out(10).len(), 1);
    assert_eq!(out(30).len(), 3);
    assert_eq!(out(100).len(), 9);
    let mut detector = OutlierDetector::new(OutlierDetection::default(), Duration::ZERO);
    assert!(detector.detect(&counts(&[(0, 9, 9)]), SECOND).is_empty(), "the only one stays");
}

/// F36: failures in a row are compared with what the peers do.
#[test]
fn what_all_servers_fail_at_ejects_nobody() {
    let out = |list: &[(u64, u64, u32)]| {
        OutlierDetector::new(OutlierDetection::default().max_ejection_percent(100), Duration::ZERO)
            .detect(&counts(list), SECOND)
    };
    assert!(out(&[(0, 5, 5), (0, 5, 5), (0, 5, 5)]).is_empty());
    assert!(out(&[(0, 5, 5), (0, 4, 4), (0, 4, 4)]).is_empty());
    assert!(out(&[(8_000, 2_000, 5), (8_000, 2_000, 0), (8_000, 2_000, 0)]).is_empty(), "that comes by chance");
    assert_eq!(out(&[(8_000, 2_000, 10), (8_000, 2_000, 0), (8_000, 2_000, 0)]), [0], "that does not");
    assert_eq!(out(&[(0, 5, 5), (0, 0, 0), (0, 0, 0)]), [0], "nobody excuses it");
    let mut detector = OutlierDetector::new(OutlierDetection::default(), Duration::ZERO);
    let failing = [(70, 30, 0), (70, 30, 0), (70, 30, 0)];
    detector.detect(&counts(&failing), SECOND * 10);
    assert!(detector.detect(&counts(&[(0, 5, 5), (2, 0, 0), (1, 0, 0)]), SECOND * 11).is_empty(), "remembered");
}

#[test]
fn a_look_is_due_when_an_interval_or_an_ejection_is_over_and_when_it_is_asked_for() {
    let options = OutlierDetection::default().interval(SECOND * 100);
    let mut detector = OutlierDetector::new(options, Duration::ZERO);
    assert!(!detector.is_due(SECOND * 99) && detector.is_due(SECOND * 100));
    detector.look_at_once();
    assert!(detector.is_due(SECOND));
    assert_eq!(detector.detect(&counts(&[(9, 5, 5), (9, 0, 0), (9, 0, 0)]), SECOND), [0]);
    assert!(!detector.is_due(SECOND * 30) && detector.is_due(SECOND * 31), "it returns");
}

#[test]
fn looks_at_once_are_few() {
    let options = OutlierDetection::default();
    let at: Vec<_> = (1..100).filter(|failures| options.is_suspicious(*failures, false)).collect();
    assert_eq!(at, [5, 10, 20, 40, 80]);
    let at: Vec<_> = (1..10).filter(|failures| options.is_suspicious(*failures, true)).collect();
    assert_eq!(at, [1, 2, 4, 8], "on probation, where peers have excused the first");
    assert!(!options.consecutive_failures(None).is_suspicious(5, true));
}

#[test]
fn what_is_out_of_bounds_is_named() {
    let (options, second) = (OutlierDetection::default(), SECOND);
    assert_eq!(options.invalid(), None);
    for (options, setting, value) in [
        (options.interval(Duration::from_millis(9)), "interval", "9 ms"),
        (options.interval(LONGEST + second), "interval", "31536001000 ms"),
        (options.ejection_time(second * 2, second), "base ejection time", "2000 ms"),
        (options.ejection_time(second, LONGEST + second), "maximum ejection time", "31536001000 ms"),
        (options.max_ejection_percent(101), "maximum ejection percent", "101"),
        (options.consecutive_failures(Some(0)), "consecutive failures", "0"),
        (options.failure_percentage(Some(101), 1), "failure percentage", "101"),
        (options.failure_percentage(Some(1), 0), "number of calls", "0"),
        (options.success_rate(Some(1.0), 0), "number of calls", "0"),
        (options.success_rate(Some(f64::NAN), 1), "success rate's deviations", "NaN"),
        (options.min_servers(0), "number of servers", "0"),
    ] {
        let (named, is, _) = options.invalid().unwrap();
        assert_eq!((named, &*is), (setting, value));
    }
}
