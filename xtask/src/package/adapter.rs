//! A project that records metrics with the unpacked adapter.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::cargo;
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// The adapter's package.
pub(super) const NAME: &str = "tonic-etcd-metrics";

const SOURCE: &str = "//! Records metrics.

/// What the builders take.
pub fn metrics() -> tonic_etcd::metrics::Metrics {
    tonic_etcd_metrics::MetricsRecorder::new().into()
}
";

/// Compiles the project against both packages: the adapter then takes the crate that stands beside it, as it would a
/// registry's.
pub(super) fn check(workspace: &Workspace, tools: &Tools, folder: &Path, package: &Path, adapter: &Path) -> Result<()> {
    let (package, adapter) = (package.display().to_string(), adapter.display().to_string());
    let manifest = format!(
        "[package]\nname = \"watched\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         tonic-etcd = {{ path = {package:?} }}\n{NAME} = {{ path = {adapter:?} }}\n\n\
         [patch.crates-io]\ntonic-etcd = {{ path = {package:?} }}\n\n[workspace]\n"
    );
    let source = folder.join("src");
    on(format!("making {}", source.display()), fs::create_dir_all(&source))?;
    for (path, text) in [(folder.join("Cargo.toml"), &*manifest), (source.join("lib.rs"), SOURCE)] {
        on(format!("writing {}", path.display()), fs::write(&path, text))?;
    }
    // The versions that the repository has tested, so that the result does not depend on the day.
    let lock = (workspace.root().join("Cargo.lock"), folder.join("Cargo.lock"));
    on(format!("copying {}", lock.0.display()), fs::copy(&lock.0, &lock.1))?;
    let mut command = Command::new("cargo");
    command.arg("check").current_dir(folder).env("CARGO_TARGET_DIR", workspace.target().join("package/build"));
    match cargo::run(&mut command, tools)? {
        ExitCode::SUCCESS => Ok(()),
        _ => Err(Error::new("a project with metrics does not compile: see what cargo says above")),
    }
}
