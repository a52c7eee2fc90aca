//! Rows of counts, which repeat on a busy machine: instructions and allocations of a call, and sets of servers that were built.

use test_support::{Bar, Report};

use crate::Bench;
use crate::callgrind::{Case, Cost, server_instructions};
use crate::fleet::{Fleet, run};
use crate::job::{Deadline, Job, Load, Setting, Side, Until};
use crate::median;

type Count = fn(&Cost) -> f64;

const INSTRUCTIONS: Count = |cost| cost.instructions;
const ALLOCATIONS: Count = |cost| cost.allocations;

/// Each side's instructions, and ours beside tonic's.
pub(crate) fn instructions(bench: &Bench, report: &mut Report) {
    for (workers, bar) in [(1, 0.66), (64, 0.67)] {
        let name = format!("{}, 3 servers, client instructions", of(workers));
        for side in bench.sides(&[Side::Ours, Side::Balanced, Side::Plain, Side::Volo]) {
            let count = bench.counter().client(Case::new(side, workers));
            add(report, &format!("{name}, {}", side.name()), "/call", None, count.map(|cost| cost.instructions));
        }
        let [ours, tonic] = [Side::Ours, Side::Balanced].map(|side| bench.counter().client(Case::new(side, workers)));
        let ratio = ours.and_then(|ours| Ok(ours.instructions / tonic?.instructions));
        let name = format!("{name}, ours / {}", Side::Balanced.name());
        add(report, &name, "×", Some(Bar::AtMost(bar)), ratio);
    }
}

/// What deadlines cost.
pub(crate) fn deadlines(bench: &Bench, report: &mut Report) {
    let with = |workers, deadline| Case { deadline, ..Case::new(Side::Ours, workers) };
    for workers in [1, 64] {
        let name = format!("{}, a deadline on each call, client instructions beyond none", of(workers));
        let more = bench.more(with(workers, Deadline::OfChannel), with(workers, Deadline::None), INSTRUCTIONS);
        add(report, &name, "/call", Some(Bar::AtMost(2_500.0)), more);
    }
    let what = "deadlines that differ in each call, beyond the same on every call";
    for workers in [1, 64] {
        let name = format!("{}, {what}, client instructions", of(workers));
        let more = bench.more(with(workers, Deadline::Differing), with(workers, Deadline::Equal), INSTRUCTIONS);
        add(report, &name, "/call", Some(Bar::AtMost(1_000.0)), more);
    }
    let more = server_instructions(Deadline::Differing)
        .and_then(|differing| Ok(differing - server_instructions(Deadline::Equal)?));
    let name = format!("1 worker, {what}, instructions of a tonic server");
    add(report, &name, "/call", Some(Bar::AtMost(500.0)), more);
}

pub(crate) fn allocations(bench: &Bench, report: &mut Report) {
    let case = Case::new(Side::Ours, 1);
    let name = "1 worker, client allocations";
    for side in bench.sides(&[Side::Balanced, Side::Volo]) {
        let count = bench.counter().client(Case::new(side, 1)).map(|cost| cost.allocations);
        add(report, &format!("{name}, {}", side.name()), "/call", None, count);
    }
    let ours = bench.counter().client(case).map(|cost| cost.allocations);
    add(report, &format!("{name}, {}", Side::Ours.name()), "/call", Some(Bar::AtMost(24.5)), ours);
    let more = bench.more(Case { deadline: Deadline::OfChannel, ..case }, case, ALLOCATIONS);
    let name = format!("{name}, a deadline on each call, beyond none");
    add(report, &name, "/call", Some(Bar::AtMost(1.0)), more);
}

/// What an attempt timeout and hedging cost that no call reaches.
pub(crate) fn hedging(bench: &Bench, report: &mut Report) {
    let plain = Case::new(Side::Ours, 1);
    let with_deadline = Case { deadline: Deadline::OfChannel, ..plain };
    let hedging = Case { setting: Setting::DeclaredWithHedging, ..with_deadline };
    for (than, what, bar) in [
        (Case { setting: Setting::Declared, ..with_deadline }, "the same without them", None),
        (with_deadline, "a deadline", Some(Bar::AtMost(1_000.0))),
    ] {
        let more = bench.more(hedging, than, INSTRUCTIONS);
        let name =
            format!("1 worker, hedge_after and attempt_timeout never reached, client instructions beyond {what}");
        add(report, &name, "/call", bar, more);
    }
    let [than, undeclared] =
        [Setting::Undeclared, Setting::UndeclaredWithHedging].map(|setting| Case { setting, ..plain });
    let name = "1 worker, a method that is not declared, hedging for another, client instructions beyond no hedging";
    add(report, name, "/call", Some(Bar::AtMost(100.0)), bench.more(undeclared, than, INSTRUCTIONS));
}

/// What it costs that a server may have several connections, where it has one.
pub(crate) fn connections(bench: &Bench, report: &mut Report) {
    let plain = Case::new(Side::Ours, 1);
    let one = Case { setting: Setting::OneConnection, ..plain };
    let name = "1 worker, connections_per_server(1), client instructions beyond none";
    add(report, name, "/call", Some(Bar::AtMost(100.0)), bench.more(one, plain, INSTRUCTIONS));
}

/// What a service config costs: one with many methods, whose entry for the method says nothing but a timeout that no call reaches,
/// and one for which each connection has a watch of its server's health.
pub(crate) fn config(bench: &Bench, report: &mut Report) {
    let plain = Case { deadline: Deadline::Equal, ..Case::new(Side::Ours, 1) };
    let ratio = |setting| bench.ratio(Case { setting, ..plain }, plain);
    let name = "1 worker, a service config of 100 methods, client instructions, with / without";
    add(report, name, "×", Some(Bar::AtMost(1.02)), ratio(Setting::ServiceConfig));
    let watched = if cfg!(feature = "tonic-health") {
        ratio(Setting::HealthCheck)
    } else {
        Err("built without the feature tonic-health, which `cargo xtask bench call` enables".to_owned())
    };
    let name = "1 worker, the health of each server watched, client instructions, with / without";
    add(report, name, "×", Some(Bar::AtMost(1.02)), watched);
}

/// What it costs that servers are selected: all are warm, and two of three are in the own zone.
pub(crate) fn selection(bench: &Bench, report: &mut Report) {
    let plain = Case::new(Side::Ours, 1);
    let ratio = bench.ratio(Case { setting: Setting::Selection, ..plain }, plain);
    let name = "1 worker, zones, subset and slow start, client instructions, set / not set";
    add(report, name, "×", Some(Bar::AtMost(1.02)), ratio);
}

/// What a recorder costs that adds each value to a number: what is left is the recorder's own.
pub(crate) fn metrics(bench: &Bench, report: &mut Report) {
    let plain = Case::new(Side::Ours, 1);
    let recorder = Case { setting: Setting::Recorder, ..plain };
    let name = "1 worker, a recorder that adds, client instructions, with / without";
    add(report, name, "×", Some(Bar::AtMost(1.02)), bench.ratio(recorder, plain));
    let name = "1 worker, a recorder that adds, client allocations beyond none";
    add(report, name, "/call", Some(Bar::AtMost(0.1)), bench.more(recorder, plain, ALLOCATIONS));
}

/// How often failures make the pool build a set of servers that is the same as before.
pub(crate) fn sets(_: &Bench, report: &mut Report) {
    let fleet = Fleet::with_a_failing_server(1_000);
    let job = Job {
        setting: Setting::OutlierDetection,
        ..fleet.job(Side::Ours, 1_000, Load::UnaryWithFailures, 64, Until::Done(160))
    };
    let run = || run(&job);
    let runs = [run(), run(), run()].map(|figures| figures.sets as f64 * 1_000.0 / figures.done as f64);
    let name = "outlier detection, 1 000 servers, one fails every second call, sets built";
    report.add(name, median(runs.into()), "/1 000 calls", Bar::AtMost(1.0));
}

impl Bench {
    /// What one case costs beyond another.
    fn more(&self, case: Case, than: Case, count: Count) -> Result<f64, String> {
        Ok(count(&self.counter().client(case)?) - count(&self.counter().client(than)?))
    }

    /// The instructions of one case, as a multiple of another's.
    fn ratio(&self, case: Case, than: Case) -> Result<f64, String> {
        Ok(self.counter().client(case)?.instructions / self.counter().client(than)?.instructions)
    }
}

fn of(workers: usize) -> String {
    if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") }
}

fn add(report: &mut Report, name: &str, unit: &str, bar: Option<Bar>, value: Result<f64, String>) {
    match value {
        Ok(value) => report.add(name, value, unit, bar),
        Err(why) => report.missing(name, unit, bar, why),
    };
}
