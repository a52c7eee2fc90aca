//! `cargo xtask chaos`: servers are ill-treated under load; the benchmark of that name does it.

use std::path::{PathBuf, absolute};
use std::process::ExitCode;

use crate::error::{Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// What is asked of it.
pub(crate) struct Wanted {
    pub(crate) names: Vec<String>,
    pub(crate) list: bool,
    pub(crate) json: bool,
    pub(crate) svg: Option<PathBuf>,
}

pub(crate) fn run(workspace: &Workspace, tools: &Tools, wanted: Wanted) -> Result<ExitCode> {
    let mut command = workspace.cargo("bench");
    // Some scenarios need TLS or the health service; to the others it makes no difference.
    command.args(["--features", "tls-ring,tonic-health", "--bench", "chaos", "--"]).args(wanted.names);
    command.args(wanted.list.then_some("--list")).args(wanted.json.then_some("--json"));
    if let Some(path) = wanted.svg {
        // cargo runs benchmarks in the package's own folder.
        command.arg("--svg").arg(on("finding the path of the plot", absolute(path))?);
    }
    crate::cargo::run(&mut command, tools)
}
