//! `cargo xtask bench`: one benchmark's figures, from one process or several.

use std::ffi::OsString;
use std::process::{ExitCode, Stdio};

use serde_json::value::RawValue;

use crate::cargo::{exit_code, run};
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// The targets whose figures belong together under a name: what counts memory has a process, and an allocator, of its own.
fn targets(name: &str) -> Vec<&str> {
    match name {
        "discovery" => vec!["discovery", "discovery_memory"],
        other => vec![other],
    }
}

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
    for target in targets(name) {
        let mut command = workspace.cargo("bench");
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

/// The rows of a report, each as the benchmark wrote it.
fn read(target: &str, stdout: &[u8]) -> Result<Vec<Box<RawValue>>> {
    serde_json::from_slice(stdout).map_err(|error| Error::new(format!("{target} gave no list of figures: {error}")))
}
