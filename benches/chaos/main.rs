//! Real servers are killed, frozen, slowed down, restarted and replaced under load, for our channel and for tonic's own, and
//! etcd is ill-treated under registered and under resolved ones: `cargo xtask chaos`.
//!
//! The program starts itself again as server processes (`serve`), as one client process at a time (`call`), as a process of
//! registrars (`register`) or of resolvers (`resolve`), and as the two ends of a flood (`flood-write`, `flood-read`).
#![allow(clippy::disallowed_types)] // real time is meant
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

mod call;
mod clock;
mod findings;
mod flood;
mod outcome;
mod peer;
mod plot;
mod register;
mod resolve;
mod scenarios;
mod serve;
mod unreachable;
mod world;

use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use test_support::Report;

use crate::findings::Findings;
use crate::scenarios::{SCENARIOS, Scenario};
use crate::world::{Result, World};

/// Real servers are killed, frozen, slowed down, restarted and replaced under load.
#[derive(Parser)]
struct Options {
    /// Scenarios or groups of them; all without any
    names: Vec<String>,
    /// Only say which scenarios there are
    #[arg(long)]
    list: bool,
    /// Print the figures as a JSON list of {"name", "value", "unit", "bar", "holds"}
    #[arg(long)]
    json: bool,
    /// Draw the calls over time into this file
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let done = match args.get(1).map(String::as_str) {
        Some("serve") => as_child(|| serve::run(args[1..].to_vec())),
        Some("peer") => as_child(|| peer::run(args[1..].to_vec())),
        Some("register") => as_child(|| register::run(args[1..].to_vec())),
        Some("resolve") => as_child(|| resolve::run(args[1..].to_vec())),
        Some("flood-write") => as_child(|| flood::write::run(args[1..].to_vec())),
        Some("flood-read") => as_child(|| flood::read::run(args[1..].to_vec())),
        Some("call") => as_child(|| call::run(args[1..].to_vec())),
        _ => run(&Options::parse()),
    };
    done.unwrap_or_else(|error| {
        eprintln!("chaos: {error}");
        ExitCode::FAILURE
    })
}

/// A child of ours ends with its parent, however that ends.
fn as_child(main: impl FnOnce() -> Result<()>) -> Result<ExitCode> {
    let parent = parent_id();
    thread::spawn(move || {
        while parent_id() == parent {
            thread::sleep(Duration::from_millis(200));
        }
        std::process::exit(1);
    });
    main().map(|()| ExitCode::SUCCESS)
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.list {
        for Scenario { group, name, about, .. } in SCENARIOS {
            println!("{group:12}  {name:18}  {about}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&options.names)?;
    test_support::raise_fd_limit();
    let world = World::start()?;
    eprintln!("etcd {}, {} scenarios", world.etcd_version(), chosen.len());
    let began = Instant::now();
    let mut all = Report::new("");
    let mut panels = Vec::new();
    for scenario in chosen {
        let found = find(&world, scenario);
        if !options.json {
            found.report().print(false);
        }
        for row in found.named_rows() {
            all.push(row);
        }
        panels.push(found);
    }
    if let Some(path) = &options.svg {
        let panels: Vec<_> = panels.iter().flat_map(Findings::panels).collect();
        std::fs::write(path, plot::draw(&panels)).map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    if options.json {
        all.print(true);
    } else {
        let bars = all.rows().iter().filter(|row| row.bar.is_some()).count();
        let missed = all.rows().iter().filter(|row| !row.holds()).count();
        println!("chaos: bars={bars} missed={missed} seconds={}", began.elapsed().as_secs());
    }
    Ok(all.exit_code())
}

/// One scenario, from its start to its end; what went wrong with it is a finding as well.
fn find(world: &World, scenario: &Scenario) -> Findings {
    eprintln!("{}: {} …", scenario.name, scenario.about);
    let mut findings = Findings::new(scenario.name, scenario.about);
    if let Err(error) = (scenario.run)(world, &mut findings) {
        findings.missing("the scenario", error.to_string());
    }
    findings
}

fn choose(names: &[String]) -> Result<Vec<&'static Scenario>> {
    let is = |scenario: &Scenario, name: &str| scenario.name == name || scenario.group == name;
    if let Some(unknown) = names.iter().find(|name| !SCENARIOS.iter().any(|scenario| is(scenario, name))) {
        return Err(format!("there is no scenario {unknown}: --list says which there are").into());
    }
    let chosen = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| is(scenario, name));
    Ok(SCENARIOS.iter().filter(chosen).collect())
}
