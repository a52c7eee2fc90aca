//! What a call costs on the healthy path, beside tonic's own channels in the same run: `cargo xtask bench call`.
//!
//! Two kinds of parts: `targets` are counts (`targets.rs`), which repeat on a busy machine; `guards` are times (`guards.rs`).
//! Words after `--` choose: `cargo xtask bench call -- targets`, `cargo xtask bench call -- throughput latency`.
#![allow(clippy::disallowed_types)] // real time is meant

mod callgrind;
mod client;
mod fleet;
mod guards;
mod job;
mod load;
mod recorder;
mod server;
mod sets;
mod targets;

use std::cell::OnceCell;
use std::process::ExitCode;

use test_support::{Report, Row};

use crate::callgrind::Counter;
use crate::job::Side;

struct Part {
    name: &'static str,
    kind: Kind,
    rows: fn(&Bench, &mut Report),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Target,
    Guard,
}

const PARTS: [Part; 13] = [
    Part { name: "instructions", kind: Kind::Target, rows: targets::instructions },
    Part { name: "deadlines", kind: Kind::Target, rows: targets::deadlines },
    Part { name: "allocations", kind: Kind::Target, rows: targets::allocations },
    Part { name: "hedging", kind: Kind::Target, rows: targets::hedging },
    Part { name: "connections", kind: Kind::Target, rows: targets::connections },
    Part { name: "config", kind: Kind::Target, rows: targets::config },
    Part { name: "selection", kind: Kind::Target, rows: targets::selection },
    Part { name: "metrics", kind: Kind::Target, rows: targets::metrics },
    Part { name: "sets", kind: Kind::Target, rows: targets::sets },
    Part { name: "throughput", kind: Kind::Guard, rows: guards::throughput },
    Part { name: "streams", kind: Kind::Guard, rows: guards::streams },
    Part { name: "latency", kind: Kind::Guard, rows: guards::latency },
    Part { name: "ejection", kind: Kind::Guard, rows: guards::ejection },
];

/// A guard is measured so often, and each row is the median.
const REPORTS: usize = 3;

/// What the parts share.
struct Bench {
    counter: OnceCell<Counter>,
    has_volo: bool,
}

impl Bench {
    fn counter(&self) -> &Counter {
        self.counter.get_or_init(Counter::new)
    }

    /// Those of the sides whose clients are there.
    fn sides(&self, sides: &[Side]) -> Vec<Side> {
        sides.iter().copied().filter(|side| *side != Side::Volo || self.has_volo).collect()
    }
}

impl Part {
    fn is_wanted(&self, words: &[&str]) -> bool {
        words.is_empty() || words.contains(&self.name) || words.contains(&self.kind.name())
    }

    fn report(&self, bench: &Bench, report: &mut Report) {
        if self.kind == Kind::Target {
            return (self.rows)(bench, report);
        }
        let reports = [(); REPORTS].map(|()| {
            let mut report = Report::new("");
            (self.rows)(bench, &mut report);
            report
        });
        for (place, row) in reports[0].rows().iter().enumerate() {
            let values = reports.iter().map(|report| report.rows()[place].value);
            // A row without a value would have said why.
            let value = values.collect::<Option<Vec<f64>>>().map(median);
            report.push(Row { value, ..row.clone() });
        }
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Target => "targets",
            Self::Guard => "guards",
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server", job] => server::run(&serde_json::from_str(job).expect("a job")),
        ["client", job] => client::run(&serde_json::from_str(job).expect("a job")),
        _ => return bench(&arguments),
    }
    ExitCode::SUCCESS
}

fn bench(arguments: &[&str]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().copied().filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = words.iter().find(|word| !PARTS.iter().any(|part| part.is_wanted(&[word]))) {
        let parts = PARTS.map(|part| part.name).join(", ");
        eprintln!("no part is called {unknown}: there are targets, guards, {parts}");
        return ExitCode::FAILURE;
    }
    // The clients of a thousand servers, and these servers, need more than the usual 1024.
    test_support::raise_fd_limit();
    let has_volo = fleet::volo_client().is_some();
    if !has_volo {
        eprintln!("volo-grpc is left out: `cargo xtask bench call` builds its client");
    }
    let bench = Bench { counter: OnceCell::new(), has_volo };
    let mut report = Report::new("a call on the healthy path, beside tonic's channels");
    for part in PARTS.iter().filter(|part| part.is_wanted(&words)) {
        eprintln!("{}: {} …", part.kind.name(), part.name);
        part.report(&bench, &mut report);
    }
    report.finish()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
