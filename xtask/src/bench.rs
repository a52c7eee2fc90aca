//! `cargo xtask bench`: one benchmark's figures, from one process or several.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use serde_json::value::RawValue;

use crate::cargo::{exit_code, run};
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::{Workspace, cargo};

/// The targets whose figures belong together under a name: what counts memory has a process, and an allocator, of its own.
fn targets(name: &str) -> Vec<&str> {
    match name {
        "discovery" => vec!["discovery", "discovery_memory"],
        other => vec![other],
    }
}

/// Where the benchmark `call` looks for its peer on volo-grpc.
const VOLO_CLIENT: &str = "VOLO_CLIENT";

pub(crate) fn bench(
    workspace: &Workspace,
    tools: &Tools,
    name: &str,
    json: bool,
    args: &[OsString],
) -> Result<ExitCode> {
    eprintln!("etcd: {}", tools.etcd.describe(workspace));
    let mut worst = ExitCode::SUCCESS;
    let mut rows = Vec::new();
    let volo = if name == "call" { volo_client(workspace, tools) } else { None };
    for target in targets(name) {
        let mut command = workspace.cargo("bench");
        command.envs(volo.iter().map(|path| (VOLO_CLIENT, path)));
        if target == "metrics" {
            command.args(["--package", "tonic-etcd-metrics"]);
        } else {
            // The servers of `call` have the health service; to the others it makes no difference.
            command.args(["--features", "tonic-health"]);
        }
        command.args(["--bench", target, "--"]).args(json.then_some("--json")).args(args);
        let code = if json {
            let output = on("running cargo bench", command.envs(tools.env()).stderr(Stdio::inherit()).output())?;
            rows.extend(read(target, &output.stdout)?);
            exit_code(output.status)
        } else {
            run(&mut command, tools)?
        };
        if code != ExitCode::SUCCESS {
            worst = code;
        }
    }
    if json {
        let rows: Vec<String> = rows.iter().map(|row| format!("  {row}")).collect();
        println!("[\n{}\n]", rows.join(",\n"));
    }
    Ok(worst)
}

/// Builds the client on volo-grpc, a package of its own with a lock file of its own. The benchmark goes on without it: it only
/// joins the table.
fn volo_client(workspace: &Workspace, tools: &Tools) -> Option<PathBuf> {
    let target = workspace.target().join("peers");
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--locked", "--manifest-path"]);
    command.arg(workspace.root().join("benches/peers/volo/Cargo.toml"));
    // Cargo's words on stderr; stdout is the report's.
    command.env("CARGO_TARGET_DIR", &target);
    match run(&mut command, tools) {
        Ok(code) if code == ExitCode::SUCCESS => Some(target.join("release/volo-peer")),
        Ok(_) => {
            eprintln!("xtask: volo-grpc's client does not build: see above; the benchmark goes on without it");
            None
        }
        Err(error) => {
            eprintln!("xtask: volo-grpc's client does not build ({error}); the benchmark goes on without it");
            None
        }
    }
}

/// The rows of a report, each as the benchmark wrote it.
fn read(target: &str, stdout: &[u8]) -> Result<Vec<Box<RawValue>>> {
    serde_json::from_slice(stdout).map_err(|error| Error::new(format!("{target} gave no list of figures: {error}")))
}
