//! The project's own commands: `cargo xtask --help` lists them.
//!
//! What they need and the machine lacks (protoc, etcd) is fetched into `target/tools` on first use.
#![allow(clippy::disallowed_types)] // real time is meant

mod bench;
mod cargo;
mod chaos;
mod cli;
mod demo;
mod error;
mod external_types;
mod fuzz;
mod interrupt;
mod msrv;
mod package;
mod serve;
mod tools;
mod workspace;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use error::Result;
use tools::Tools;
use workspace::Workspace;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A fleet on one machine needs more descriptors than the usual 1024; children inherit the limit.
    test_support::raise_fd_limit();
    run(cli.command).unwrap_or_else(|error| {
        eprintln!("xtask: {error}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::find()?;
    match command {
        Command::Demo { etcd } => demo::run(&workspace, &Tools::get(&workspace, etcd.etcd)?),
        Command::Test { etcd, interop, args } => {
            cargo::test(&workspace, &Tools::get(&workspace, etcd.etcd)?, interop, &args)
        }
        Command::Bench { name, etcd, json, args } => {
            bench::bench(&workspace, &Tools::get(&workspace, etcd.etcd)?, &name, json, &args)
        }
        Command::Chaos { names, list, etcd, json, svg } => {
            let wanted = chaos::Wanted { names, list, json, svg };
            chaos::run(&workspace, &Tools::get(&workspace, etcd.etcd)?, wanted)
        }
        Command::Example { name, etcd, release, args } => {
            cargo::example(&workspace, &Tools::get(&workspace, etcd.etcd)?, &name, release, &args)
        }
        Command::Etcd { etcd, port } => serve::run(&tools::etcd::get(&workspace, etcd.etcd)?, port),
        Command::Package { etcd } => package::run(&workspace, &Tools::get(&workspace, etcd.etcd)?),
        Command::ExternalTypes => external_types::run(&workspace, &Tools::get(&workspace, None)?),
        Command::Fuzz { seconds, targets } => fuzz::run(&workspace, &Tools::get(&workspace, None)?, seconds, &targets),
        Command::Msrv => msrv::run(&workspace, &Tools::get(&workspace, None)?),
        Command::Env { etcd } => env(&Tools::get(&workspace, etcd.etcd)?),
    }
}

/// Lines for `eval`: whoever calls cargo by hand then has the tools too.
fn env(tools: &Tools) -> Result<ExitCode> {
    for (key, path) in tools.env() {
        let written = writeln!(std::io::stdout(), "export {key}={}", quote(&path.to_string_lossy()));
        error::on("writing to stdout", written)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In single quotes a shell leaves everything alone but the single quote itself.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn quoted_for_a_shell() {
        assert_eq!(super::quote("/a b/$c"), "'/a b/$c'");
        assert_eq!(super::quote("it's"), r"'it'\''s'");
    }
}
