//! `cargo xtask fuzz`: the fuzz targets with libFuzzer.
//!
//! cargo-fuzz builds them on the project's own toolchain: without a sanitizer (`-s none`) nothing in it needs a nightly one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::error::{Error, Result, on};
use crate::tools::{Tools, install, on_path};
use crate::workspace::Workspace;

const VERSION: &str = "0.13.2";
/// Fewer executions than this prove nothing: the target hangs, or cannot run here.
const LEAST: u64 = 1_000;
/// libFuzzer calls an input that takes longer a fault, in seconds: no target takes one hundredth, but machines stand still.
const TIMEOUT: u64 = 60;

/// Runs the named targets, or all, for so many seconds each, and prints how often each was executed.
pub(crate) fn run(workspace: &Workspace, tools: &Tools, seconds: u64, names: &[String]) -> Result<ExitCode> {
    need_cpp()?;
    let known = targets(workspace)?;
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        return Err(Error::new(format!("there is no fuzz target {unknown}; there are: {}", known.join(", "))));
    }
    let program = install::cargo_program(workspace, tools, "cargo-fuzz", VERSION)?;
    let mut build = cargo_fuzz(workspace, &program, "build");
    if crate::cargo::run(&mut build, tools)? != ExitCode::SUCCESS {
        return Err(Error::new("cargo fuzz build failed: see what it says above"));
    }
    println!("{:<24}{:>12}{:>10}", "target", "executions", "a second");
    let mut faults = Vec::new();
    for name in known.iter().filter(|name| names.is_empty() || names.contains(name)) {
        let run = execute(workspace, tools, &program, name, seconds)?;
        println!("{name:<24}{:>12}{:>10}", run.executions, run.executions / seconds.max(1));
        if let Some(fault) = run.fault {
            faults.push(format!("{name}: {fault}"));
        } else if run.executions < LEAST {
            faults.push(format!("{name}: {} executions, where {LEAST} are the least", run.executions));
        }
    }
    for fault in &faults {
        eprintln!("xtask: {fault}");
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What came of one target.
struct Run {
    executions: u64,
    /// How its run failed, and where the input is.
    fault: Option<String>,
}

/// Runs one target. What it finds stays below the target folder; the corpus of the project is only read.
fn execute(workspace: &Workspace, tools: &Tools, program: &Path, name: &str, seconds: u64) -> Result<Run> {
    let folder = |kind: &str| {
        let path = workspace.target().join("fuzz").join(kind).join(name);
        on(format!("making {}", path.display()), fs::create_dir_all(&path)).map(|()| path)
    };
    let (found, artifacts) = (folder("corpus")?, folder("artifacts")?);
    let mut command = cargo_fuzz(workspace, program, "run");
    command.arg(name).arg(found).arg(workspace.root().join("fuzz/corpus").join(name)).arg("--");
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={TIMEOUT}"));
    command.arg("-print_final_stats=1").arg(format!("-artifact_prefix={}/", artifacts.display()));
    let output = command.envs(tools.env()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = on("running cargo fuzz", output)?;
    let said = String::from_utf8_lossy(&output.stderr);
    let fault = (!output.status.success()).then(|| {
        let lines: Vec<_> = said.lines().collect();
        let shown = lines[lines.len().saturating_sub(60)..].join("\n");
        format!("failed; the end of its output:\n{shown}\nInputs are in {}", workspace.show(&artifacts))
    });
    Ok(Run { executions: executions(&said), fault })
}

/// The number that libFuzzer prints at the end of a run; 0 if it did not come so far.
fn executions(said: &str) -> u64 {
    let number = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    number.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

fn cargo_fuzz(workspace: &Workspace, program: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["fuzz", subcommand, "-s", "none", "--fuzz-dir"]);
    command.arg(workspace.root().join("fuzz")).arg("--target-dir").arg(workspace.target().join("fuzz"));
    command.current_dir(workspace.root());
    command
}

/// The targets, in the order of their names.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("fuzz/fuzz_targets");
    let entries = on(format!("reading {}", folder.display()), fs::read_dir(&folder))?;
    let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let stem = |path: &PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let mut names: Vec<String> = paths.iter().filter_map(stem).collect();
    names.sort();
    Ok(names)
}

/// libFuzzer itself is C++.
fn need_cpp() -> Result<()> {
    let is_set = std::env::var_os("CXX").is_some_and(|compiler| !compiler.is_empty());
    if is_set || on_path("c++").is_some() {
        return Ok(());
    }
    Err(Error::new(
        "libFuzzer takes a C++ compiler, and there is no c++ on PATH: install one (Debian: g++), or set CXX",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_end_of_a_run() {
        let said = "#1024\tpulse\nDone 1200 runs in 2 second(s)\nstat::number_of_executed_units: 1200\nstat::x: 1\n";
        assert_eq!((executions(said), executions("killed")), (1200, 0));
    }
}
