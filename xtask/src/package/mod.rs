//! The published packages as their users get them: packed, unpacked, and used by the project that README describes, and
//! by one with metrics.

mod adapter;
mod project;
mod readme;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::cargo;
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// Packs the crate and its adapter for metrics, unpacks them, writes README's project beside them, builds that, and
/// runs its server and its client. Compiles a project with the adapter too.
pub(crate) fn run(workspace: &Workspace, tools: &Tools) -> Result<ExitCode> {
    let place = workspace.target().join("package/check");
    if place.is_dir() {
        on(format!("removing {}", place.display()), std::fs::remove_dir_all(&place))?;
    }
    on(format!("making {}", place.display()), std::fs::create_dir_all(&place))?;

    println!("packing tonic-etcd and {}", adapter::NAME);
    let mut command = workspace.cargo("package");
    // What would be verified is built below, by a project that uses it. Both at once: the adapter's lock file names the
    // crate, which no registry may have in that version.
    command.args(["--package", "tonic-etcd", "--package", adapter::NAME]);
    command.args(["--locked", "--allow-dirty", "--no-verify", "--quiet"]);
    if cargo::run(&mut command, tools)? != ExitCode::SUCCESS {
        return Err(Error::new("cargo package failed: see what it says above"));
    }
    let package = unpack(workspace, "tonic-etcd", &place)?;
    let adapter = unpack(workspace, adapter::NAME, &place)?;

    println!("building the project of README.md against {}", workspace.show(&package));
    let project = project::write(workspace, &place.join("greeter"), &package)?;
    project.build(workspace, tools)?;
    println!("running its server and its client");
    project::Project::run(workspace, tools)?;
    println!("package: the project of README.md builds and runs with {}", workspace.show(&package));
    adapter::check(workspace, tools, &place.join("metrics"), &package, &adapter)?;
    println!("package: a project with metrics compiles with {}", workspace.show(&adapter));
    Ok(ExitCode::SUCCESS)
}

/// Gives the folder of the unpacked package.
fn unpack(workspace: &Workspace, package: &str, place: &Path) -> Result<PathBuf> {
    let name = format!("{package}-{}", workspace.version(package)?);
    let archive = workspace.target().join("package").join(format!("{name}.crate"));
    let mut command = std::process::Command::new("tar");
    // With the present time: an archive has the same time for every file, so that cargo would see no change.
    command.arg("-xzmf").arg(&archive).arg("-C").arg(place);
    let status = on("running tar (install tar and gzip)", command.status())?;
    if !status.success() {
        return Err(Error::new(format!("tar could not unpack {}", archive.display())));
    }
    Ok(place.join(name))
}
