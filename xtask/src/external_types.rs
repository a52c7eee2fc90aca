//! Which other crates' types stand in the public APIs: the allow-lists are in each Cargo.toml,
//! `package.metadata.cargo_check_external_types`.

use std::process::{Command, ExitCode};

use crate::cargo;
use crate::error::{Error, Result};
use crate::tools::{Tools, install};
use crate::workspace::Workspace;

const VERSION: &str = "0.5.0";

/// The format of rustdoc's JSON that this release reads. It changes with rustc.
const FORMAT: u64 = 57;

/// Leaves the check out where rustdoc writes another format, by the user's word alone.
const SKIP: &str = "CI_SKIP_EXTERNAL_TYPES";

/// Runs cargo-check-external-types, which is installed into `target/tools` on first use.
pub(crate) fn run(workspace: &Workspace, tools: &Tools) -> Result<ExitCode> {
    let format = format(workspace, tools)?;
    if format != FORMAT {
        let text = format!(
            "this rustdoc writes JSON of format {format}, and cargo-check-external-types {VERSION} reads format {FORMAT}"
        );
        if std::env::var_os(SKIP).is_some() {
            println!("left out, because {SKIP} is set: {text}");
            return Ok(ExitCode::SUCCESS);
        }
        return Err(Error::new(format!("{text}: use Rust 1.95, or set {SKIP}")));
    }
    let program = install::cargo_program(workspace, tools, "cargo-check-external-types", VERSION)?;
    for (manifest, features) in [("Cargo.toml", Some(cargo::FEATURES)), ("adapters/metrics/Cargo.toml", None)] {
        let mut command = Command::new(&program);
        command.arg("check-external-types").arg("--manifest-path").arg(workspace.root().join(manifest));
        command.args(features.iter().flat_map(|features| ["--features", features]));
        // rustdoc's JSON is unstable: this lets the stable compiler write it.
        command.env("RUSTC_BOOTSTRAP", "1");
        let code = cargo::run(&mut command, tools)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the documentation as JSON, and reads its format.
fn format(workspace: &Workspace, tools: &Tools) -> Result<u64> {
    let target = workspace.target().join("external-types");
    let mut command = workspace.cargo("rustdoc");
    command.args(["--quiet", "--locked", "--lib", "--package", "tonic-etcd", "--features", cargo::FEATURES, "--"]);
    command.args(["-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_TARGET_DIR", &target);
    if cargo::run(&mut command, tools)? != ExitCode::SUCCESS {
        return Err(Error::new("rustdoc could not write the documentation as JSON: see what it says above"));
    }
    let path = target.join("doc/tonic_etcd.json");
    let text = crate::error::on(format!("reading {}", path.display()), std::fs::read(&path))?;
    let json: serde_json::Value =
        crate::error::on(format!("reading {}", path.display()), serde_json::from_slice(&text))?;
    json["format_version"].as_u64().ok_or_else(|| Error::new(format!("{} says no format_version", path.display())))
}
