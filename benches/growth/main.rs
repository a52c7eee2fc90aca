//! How cost grows with the number of servers, services, registrations and callers: `cargo xtask bench growth`.
//!
//! Counts, which repeat on a busy machine: instructions by callgrind, in a process of its own for each run; memory by the
//! counting allocator of this program; requests by etcd's own metrics. A part is a module that gives rows, and curves for the
//! picture. Words after `--` choose parts: `cargo xtask bench growth -- services changes`. Without any, all of them run, and
//! their curves are drawn into `benches/growth.svg`; `--svg FILE` draws those of the parts that ran.
#![allow(clippy::disallowed_types)] // real time is meant

mod calls;
mod changes;
mod channels;
mod findings;
mod heap;
mod job;
mod lapse;
mod memory;
mod plot;
mod pool;
mod registrations;
mod servers;
mod services;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::findings::Findings;

/// Outside of a `dhat::Profiler` it passes everything on: a part that counts memory starts one.
#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Longer than anything here should ever take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// Rows that belong together.
struct Part {
    name: &'static str,
    /// Measures.
    rows: fn(&mut Findings),
    /// What a process of this part does, which `job::command` starts; its argument is the part's own.
    job: fn(&str),
}

const PARTS: [Part; 6] = [
    Part { name: "services", rows: services::rows, job: no_job },
    Part { name: registrations::NAME, rows: registrations::rows, job: registrations::job },
    Part { name: changes::NAME, rows: changes::rows, job: changes::job },
    Part { name: calls::NAME, rows: calls::rows, job: calls::job },
    Part { name: memory::NAME, rows: memory::rows, job: memory::job },
    Part { name: pool::NAME, rows: pool::rows, job: pool::job },
];

/// Where the curves are drawn when all parts run: a picture of some would lose the others.
const PICTURE: &str = "benches/growth.svg";

#[derive(Parser)]
struct Options {
    /// Print the rows as JSON
    #[arg(long)]
    json: bool,

    /// Draw the curves of the parts that run into this file
    #[arg(long)]
    svg: Option<PathBuf>,

    /// What cargo passes to every benchmark
    #[arg(long, hide = true)]
    bench: bool,

    /// The parts to run: all by default
    parts: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, part, argument] = &arguments[..]
        && word == job::WORD
    {
        let part = PARTS.iter().find(|known| known.name == part).expect("a part starts its own jobs");
        (part.job)(argument);
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    if let Some(unknown) = options.parts.iter().find(|name| !PARTS.iter().any(|part| part.name == **name)) {
        eprintln!("no part is called {unknown}: there are {}", PARTS.map(|part| part.name).join(", "));
        return ExitCode::FAILURE;
    }
    test_support::raise_fd_limit();
    let mut findings = Findings::new();
    for part in
        PARTS.iter().filter(|part| options.parts.is_empty() || options.parts.iter().any(|name| part.name == name))
    {
        eprintln!("{} …", part.name);
        (part.rows)(&mut findings);
    }
    findings.print(options.json);
    let picture = options.parts.is_empty().then(|| PathBuf::from(PICTURE));
    if let Some(path) = options.svg.or(picture)
        && let Err(error) = std::fs::write(&path, plot::draw(findings.curves()))
    {
        eprintln!("writing {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    findings.exit_code()
}

/// Of a part that measures in this process.
fn no_job(argument: &str) {
    panic!("no process was asked for: {argument}");
}
