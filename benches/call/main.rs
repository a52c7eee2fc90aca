//! What a call costs on the healthy path, beside tonic's own channels in the same run: `cargo xtask bench call`.
//!
//! Words after `--` choose parts: `cargo xtask bench call -- throughput latency streams instructions`.
#![allow(clippy::disallowed_types)] // real time is meant

mod client;
mod fleet;
mod instructions;
mod job;
mod load;
mod rows;
mod server;

use std::process::ExitCode;

use test_support::Report;

type Rows = fn(&fleet::Fleet, &mut Report);

const PARTS: [(&str, Rows); 4] = [
    ("throughput", rows::throughput),
    ("instructions", rows::instructions),
    ("streams", rows::streams),
    ("latency", rows::latency),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["server"] => server::run(),
        ["client", job] => client::run(&serde_json::from_str(job).expect("a job")),
        _ => return bench(&arguments),
    }
    ExitCode::SUCCESS
}

fn bench(arguments: &[&str]) -> ExitCode {
    let wanted: Vec<&str> = arguments.iter().copied().filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = wanted.iter().find(|name| PARTS.iter().all(|(part, _)| part != *name)) {
        eprintln!("no part is called {unknown}: there are {}", PARTS.map(|(part, _)| part).join(", "));
        return ExitCode::FAILURE;
    }
    let fleet = fleet::Fleet::start(3);
    let mut report = Report::new("a call on the healthy path, beside tonic's channels");
    for (_, rows) in PARTS.iter().filter(|(part, _)| wanted.is_empty() || wanted.contains(part)) {
        rows(&fleet, &mut report);
    }
    report.finish()
}
