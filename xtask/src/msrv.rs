//! The oldest Rust that the crate promises to build with.

use std::process::{Command, ExitCode};

use crate::cargo;
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// Holds the `rust-version` of every locked dependency against ours, and checks the crate with that release where it is installed.
pub(crate) fn run(workspace: &Workspace, tools: &Tools) -> Result<ExitCode> {
    let metadata = workspace.metadata()?;
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |package: &serde_json::Value| package["rust_version"].as_str().map(str::to_owned);
    let ours = packages.iter().find(|package| package["name"] == "tonic-etcd").and_then(of);
    let ours = ours.ok_or_else(|| Error::new("Cargo.toml of tonic-etcd says no rust-version"))?;
    let newer: Vec<String> = packages
        .iter()
        .filter_map(|package| Some((package, of(package)?)))
        .filter(|(_, theirs)| numbers(theirs) > numbers(&ours))
        .map(|(package, theirs)| format!("{} {} needs Rust {theirs}", package["name"], package["version"]))
        .collect();
    if !newer.is_empty() {
        return Err(Error::new(format!("rust-version is {ours}, but:\n  {}", newer.join("\n  "))));
    }
    println!("msrv: none of {} locked packages needs a Rust newer than {ours}", packages.len());

    if !is_installed(&ours)? {
        println!(
            "msrv: Rust {ours} is not installed (rustup toolchain install {ours}), so nothing was compiled with it"
        );
        return Ok(ExitCode::SUCCESS);
    }
    println!("msrv: cargo +{ours} check");
    for what in [&["--features", cargo::FEATURES][..], &["--package", "tonic-etcd-metrics"]] {
        let mut command = Command::new("cargo");
        // Not CARGO, which is the toolchain that runs this.
        command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
        command.arg(format!("+{ours}")).args(["check", "--locked", "--lib"]).args(what);
        command.current_dir(workspace.root()).env("CARGO_TARGET_DIR", workspace.target().join("msrv"));
        let code = cargo::run(&mut command, tools)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_installed(release: &str) -> Result<bool> {
    let mut command = Command::new("rustup");
    match command.args(["toolchain", "list"]).output() {
        Ok(output) => {
            let list = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(list.lines().any(|line| {
                line == release || line.starts_with(&format!("{release}-")) || line.starts_with(&format!("{release}."))
            }))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => on("running rustup", Err(error)),
    }
}

/// `1.88` and `1.88.0` are the same.
fn numbers(version: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> = version.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    numbers.resize(3, 0);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(numbers("1.88"), numbers("1.88.0"));
        assert!(numbers("1.100") > numbers("1.88.1"));
        assert!(numbers("1.85") < numbers("1.88"));
    }
}
