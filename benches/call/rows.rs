//! The rows of the report: medians of alternating runs, and medians of the ratios within each round.

use std::time::Duration;

use test_support::{Bar, Report};

use crate::fleet::{Fleet, Round, rounds};
use crate::instructions::per_call;
use crate::job::{Figures, Load, Side, Until};

/// Many short runs: what else the machine does then falls on all sides alike.
const ROUNDS: usize = 11;
const RUN: Until = Until::Passed(Duration::from_millis(700));
const STREAM_ROUNDS: usize = 9;
const STREAM_RUN: Until = Until::Passed(Duration::from_millis(400));

const SIDES: [Side; 3] = [Side::Ours, Side::Balanced, Side::Plain];
/// Their places in a round.
const OURS: usize = 0;
const BALANCED: usize = 1;
const PLAIN: usize = 2;

type Figure = fn(&Figures) -> f64;

pub(crate) fn throughput(fleet: &Fleet, report: &mut Report) {
    let name = "3 healthy, 64 workers";
    let rounds = rounds(ROUNDS, &SIDES.map(|side| fleet.job(side, 3, Load::Unary, 64, RUN)));
    absolute(report, name, "calls/s", &rounds, &SIDES, Figures::per_second);
    absolute(report, &format!("{name}, client CPU"), "µs/call", &rounds, &SIDES, Figures::cpu_micros);
    let mut add = |what: &str, tonic: usize, figure: Figure, bar: Bar| {
        let name = format!("{name}, {what}, ours / {}", SIDES[tonic].name());
        report.add(name, ratio(&rounds, tonic, figure), "×", bar);
    };
    add("calls/s", BALANCED, Figures::per_second, Bar::AtLeast(1.3));
    add("calls/s", PLAIN, Figures::per_second, Bar::AtLeast(1.3));
    add("client CPU per call", BALANCED, Figures::cpu_micros, Bar::AtMost(0.7));
}

pub(crate) fn latency(fleet: &Fleet, report: &mut Report) {
    let name = "3 healthy, 1 worker";
    let rounds = rounds(ROUNDS, &SIDES.map(|side| fleet.job(side, 3, Load::Unary, 1, RUN)));
    absolute(report, &format!("{name}, p50"), "µs", &rounds, &SIDES, Figures::p50_micros);
    absolute(report, &format!("{name}, p99"), "µs", &rounds, &SIDES, Figures::p99_micros);
    let mut add = |what: &str, figure: Figure, bar: Bar| {
        let name = format!("{name}, {what}, ours / {}", SIDES[PLAIN].name());
        report.add(name, ratio(&rounds, PLAIN, figure), "×", bar);
    };
    add("p50", Figures::p50_micros, Bar::AtMost(0.95));
    add("p99", Figures::p99_micros, Bar::AtMost(1.15));
}

/// Each side to one server: three of them would hide what a connection costs.
pub(crate) fn streams(fleet: &Fleet, report: &mut Report) {
    let sides = [Side::Ours, Side::Plain];
    for (kind, load) in [("server", Load::Download as fn(u32) -> Load), ("client", Load::Upload)] {
        for (size, bytes) in [("64 B", 64), ("64 KiB", 64 << 10)] {
            for (at_once, calls) in [("1 call", 1), ("16 calls", 16)] {
                let name = format!("{kind} streaming, {size}, {at_once}");
                let jobs = sides.map(|side| fleet.job(side, 1, load(bytes), calls, STREAM_RUN));
                let rounds = rounds(STREAM_ROUNDS, &jobs);
                absolute(report, &name, "messages/s", &rounds, &sides, Figures::per_second);
                let name = format!("{name}, ours / {}", Side::Plain.name());
                report.add(name, ratio(&rounds, 1, Figures::per_second), "×", Bar::AtLeast(0.95));
            }
        }
    }
}

pub(crate) fn instructions(fleet: &Fleet, report: &mut Report) {
    let name = "1 worker, client instructions";
    let counts = SIDES.map(|side| per_call(fleet, side));
    for (side, count) in SIDES.iter().zip(&counts) {
        let name = format!("{name}, {}", side.name());
        match count {
            Ok(count) => report.add(name, *count, "/call", None),
            Err(why) => report.missing(name, "/call", None, why),
        };
    }
    let name = format!("{name} per call, ours / {}", SIDES[BALANCED].name());
    let bar = Bar::AtMost(0.7);
    match (&counts[OURS], &counts[BALANCED]) {
        (Ok(ours), Ok(tonic)) => report.add(name, ours / tonic, "×", bar),
        (Err(why), _) | (_, Err(why)) => report.missing(name, "×", bar, why),
    };
}

fn absolute(report: &mut Report, name: &str, unit: &str, rounds: &[Round], sides: &[Side], figure: Figure) {
    for (place, side) in sides.iter().enumerate() {
        let value = median(rounds.iter().map(|round| figure(&round[place])).collect());
        report.add(format!("{name}, {}", side.name()), value, unit, None);
    }
}

/// The median of what ours is to the other in each round.
fn ratio(rounds: &[Round], other: usize, figure: Figure) -> f64 {
    median(rounds.iter().map(|round| figure(&round[OURS]) / figure(&round[other])).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
