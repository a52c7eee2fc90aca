//! Files that appear at their place whole, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use tempfile::TempDir;

use crate::cargo;
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// A folder next to the tools, so that a rename into place stays on one file system; removed on drop.
pub(crate) fn scratch(workspace: &Workspace) -> Result<TempDir> {
    let tools = workspace.tools();
    on(format!("making {}", tools.display()), fs::create_dir_all(&tools))?;
    let folder = tempfile::Builder::new().prefix(".new-").tempdir_in(&tools);
    on(format!("making a folder in {}", tools.display()), folder)
}

/// Moves a finished folder to its place. Where another run was faster, its result stands: it is the same.
pub(crate) fn place(finished: &Path, place: &Path) -> Result<()> {
    match fs::rename(finished, place) {
        Err(_) if place.is_dir() => Ok(()),
        result => on(format!("moving {} to {}", finished.display(), place.display()), result),
    }
}

pub(crate) fn make_executable(path: &Path) -> Result<()> {
    on(format!("making {} executable", path.display()), fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
}

/// A program of crates.io in this version, built into `target/tools` on first use.
pub(crate) fn cargo_program(workspace: &Workspace, tools: &Tools, name: &str, version: &str) -> Result<PathBuf> {
    let place = workspace.tools().join(format!("{name}-{version}"));
    let program = place.join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("xtask: building {name} {version} into {}", workspace.show(&place));
    let mut command = Command::new("cargo");
    command.args(["install", name, "--version", version, "--locked", "--quiet", "--root"]).arg(&place);
    command.env_remove("CARGO_TARGET_DIR").current_dir(workspace.target());
    match cargo::run(&mut command, tools)? {
        ExitCode::SUCCESS => Ok(program),
        _ => Err(Error::new(format!("cargo install {name} --version {version} failed: is the registry reachable?"))),
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("copying {} to {}", from.display(), to.display());
    on(doing(), fs::create_dir_all(to))?;
    for entry in on(doing(), fs::read_dir(from))? {
        let entry = on(doing(), entry)?;
        let place = to.join(entry.file_name());
        if on(doing(), entry.file_type())?.is_dir() {
            copy_folder(&entry.path(), &place)?;
        } else {
            on(doing(), fs::copy(entry.path(), place))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_does_not_mind_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (from, tool) = (dir.path().join("from"), dir.path().join("tool"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::write(from.join("a/b/file"), "text").unwrap();
        for round in ["new", "again"] {
            copy_folder(&from, &dir.path().join(round)).unwrap();
            place(&dir.path().join(round), &tool).unwrap();
            assert_eq!(fs::read_to_string(tool.join("a/b/file")).unwrap(), "text");
        }
        assert!(place(&dir.path().join("missing"), &dir.path().join("place")).is_err());
    }
}
