//! Rows of times: medians of alternating runs, and medians of the ratios within each round.

use std::time::Duration;

use test_support::{Bar, Report};

use crate::fleet::{Fleet, Round, rounds};
use crate::job::{Figures, Job, Load, Setting, Side, Until};
use crate::{Bench, median};

/// Many short runs: what else the machine does then falls on all sides alike.
const ROUNDS: usize = 11;
const RUN: Until = Until::Passed(Duration::from_millis(500));
const STREAM_RUN: Until = Until::Passed(Duration::from_millis(250));
/// Of each of the 64 workers, so that all rounds together make 200 000 calls.
const CALLS_WITH_FAILURES: Until = Until::Done(285);

type Figure = fn(&Figures) -> f64;

/// The runs of some sides, and their names.
struct Measured {
    sides: Vec<Side>,
    rounds: Vec<Round>,
}

pub(crate) fn throughput(bench: &Bench, report: &mut Report) {
    let fleet = Fleet::start(3);
    for (servers, sides, bars) in [
        (1, &[Side::Ours, Side::Balanced, Side::Plain, Side::Volo][..], (1.3, 0.68)),
        (3, &[Side::Ours, Side::Balanced, Side::Volo], (1.35, 0.62)),
    ] {
        let name = if servers == 1 { "1 server, 64 workers" } else { "3 servers, 64 workers" };
        let measured = Measured::of(bench.sides(sides), |side| fleet.job(side, servers, Load::Unary, 64, RUN));
        measured.absolute(report, name, "calls/s", Figures::per_second);
        measured.absolute(report, &format!("{name}, client CPU"), "µs/call", Figures::cpu_micros);
        let (calls, cpu) = (Bar::AtLeast(bars.0), Bar::AtMost(bars.1));
        if servers == 1 {
            measured.beside(report, name, "calls/s", Side::Plain, Figures::per_second, calls);
        }
        measured.beside(report, name, "calls/s", Side::Balanced, Figures::per_second, calls);
        measured.beside(report, name, "client CPU per call", Side::Balanced, Figures::cpu_micros, cpu);
    }
}

pub(crate) fn latency(bench: &Bench, report: &mut Report) {
    let (fleet, name) = (Fleet::start(3), "3 servers, 1 worker");
    let sides = bench.sides(&[Side::Ours, Side::Balanced, Side::Plain, Side::Volo]);
    let measured = Measured::of(sides, |side| fleet.job(side, 3, Load::Unary, 1, RUN));
    measured.absolute(report, &format!("{name}, p50"), "µs", Figures::p50_micros);
    measured.absolute(report, &format!("{name}, p99"), "µs", Figures::p99_micros);
    measured.beside(report, name, "p50", Side::Plain, Figures::p50_micros, Bar::AtMost(0.9));
    measured.beside(report, name, "p99", Side::Plain, Figures::p99_micros, Bar::AtMost(1.15));
}

/// Each side to one server: three of them would hide what a connection costs.
pub(crate) fn streams(_: &Bench, report: &mut Report) {
    let fleet = Fleet::start(1);
    for (kind, load) in [("server", Load::Download as fn(u32) -> Load), ("client", Load::Upload)] {
        for (size, bytes) in [("64 B", 64), ("64 KiB", 64 << 10)] {
            for (at_once, calls) in [("1 call", 1), ("16 calls", 16)] {
                let name = format!("{kind} streaming, {size}, {at_once}");
                let job = |side| fleet.job(side, 1, load(bytes), calls, STREAM_RUN);
                let measured = Measured::of(vec![Side::Ours, Side::Plain], job);
                measured.absolute(report, &name, "messages/s", Figures::per_second);
                let bar = Bar::AtLeast(0.95);
                measured.beside(report, &name, "messages/s", Side::Plain, Figures::per_second, bar);
            }
        }
    }
}

/// What outlier detection costs while one of many servers fails.
pub(crate) fn ejection(_: &Bench, report: &mut Report) {
    let fleet = Fleet::with_a_failing_server(1_000);
    let jobs = [Setting::OutlierDetection, Setting::FirstServerPreferred].map(|setting| Job {
        setting,
        ..fleet.job(Side::Ours, 1_000, Load::UnaryWithFailures, 64, CALLS_WITH_FAILURES)
    });
    let rounds = rounds(ROUNDS, &jobs);
    let name = "1 000 servers, one fails every second call, 64 workers, client CPU";
    for (place, what) in ["with outlier detection", "without"].into_iter().enumerate() {
        let value = median(rounds.iter().map(|round| round[place].cpu_micros()).collect());
        report.add(format!("{name}, {what}"), value, "µs/call", None);
    }
    let ratio = median(rounds.iter().map(|round| round[0].cpu_micros() / round[1].cpu_micros()).collect());
    report.add(format!("{name}, with / without outlier detection"), ratio, "×", Bar::AtMost(1.05));
}

impl Measured {
    /// Runs every side's job in each round.
    fn of(sides: Vec<Side>, job: impl Fn(Side) -> Job) -> Self {
        let jobs: Vec<Job> = sides.iter().map(|side| job(*side)).collect();
        Self { rounds: rounds(ROUNDS, &jobs), sides }
    }

    fn absolute(&self, report: &mut Report, name: &str, unit: &str, figure: Figure) {
        for (place, side) in self.sides.iter().enumerate() {
            let value = median(self.rounds.iter().map(|round| figure(&round[place])).collect());
            report.add(format!("{name}, {}", side.name()), value, unit, None);
        }
    }

    /// The median of what ours is to the other in each round.
    fn beside(&self, report: &mut Report, name: &str, what: &str, other: Side, figure: Figure, bar: Bar) {
        let place = |side| self.sides.iter().position(|known| *known == side).expect("a side that was measured");
        let (ours, theirs) = (place(Side::Ours), place(other));
        let ratios = self.rounds.iter().map(|round| figure(&round[ours]) / figure(&round[theirs]));
        report.add(format!("{name}, {what}, ours / {}", other.name()), median(ratios.collect()), "×", bar);
    }
}
