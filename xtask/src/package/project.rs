//! The project that README describes, beside the unpacked package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use test_support::{Etcd, Process, Signal};

use super::readme;
use crate::cargo;
use crate::error::{Error, Result, on};
use crate::tools::Tools;
use crate::workspace::Workspace;

/// Longest wait for one step of a process; each takes well under a second.
const STEP: Duration = Duration::from_secs(20);

/// What README's manifest says where the package is.
const DEPENDENCY: &str = "path = \"../tonic-etcd\"";

pub(super) struct Project {
    folder: PathBuf,
}

/// Writes the files that README shows, with the path of the package in place of its own, and the proto of the repository.
pub(super) fn write(workspace: &Workspace, folder: &Path, package: &Path) -> Result<Project> {
    let path = workspace.root().join("README.md");
    let text = on(format!("reading {}", path.display()), fs::read_to_string(&path))?;
    let mut found = false;
    for file in readme::files(&text)? {
        let mut text = file.text;
        if file.path == "Cargo.toml" {
            found = text.contains(DEPENDENCY);
            text = text.replace(DEPENDENCY, &format!("path = {:?}", package.display().to_string()));
            text.push_str("\n[workspace]\n"); // not a member of the one around it
        }
        put(&folder.join(&file.path), &text)?;
    }
    if !found {
        return Err(Error::new(format!("README.md shows no Cargo.toml with {DEPENDENCY}")));
    }
    Ok(Project { folder: folder.to_owned() })
}

fn put(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    on(format!("making {}", folder.display()), fs::create_dir_all(folder))?;
    on(format!("writing {}", path.display()), fs::write(path, text))
}

impl Project {
    pub(super) fn build(&self, workspace: &Workspace, tools: &Tools) -> Result<()> {
        // The versions that the repository has tested, so that the result does not depend on the day.
        let lock = (workspace.root().join("Cargo.lock"), self.folder.join("Cargo.lock"));
        on(format!("copying {}", lock.0.display()), fs::copy(&lock.0, &lock.1))?;
        let mut command = Command::new("cargo");
        command.arg("build").current_dir(&self.folder).env("CARGO_TARGET_DIR", Self::target(workspace));
        match cargo::run(&mut command, tools)? {
            ExitCode::SUCCESS => Ok(()),
            _ => Err(Error::new("the project of README.md does not build: see what cargo says above")),
        }
    }

    /// Starts an etcd, the server and the client; the client must be answered, and the server must leave the directory.
    pub(super) fn run(workspace: &Workspace, tools: &Tools) -> Result<()> {
        let etcd = Etcd::builder().binary(&tools.etcd.path).try_start()?;
        let program = |name: &str| Command::new(Self::target(workspace).join("debug").join(name));
        let endpoint = ["--etcd", &etcd.endpoint()].map(str::to_owned);
        let server = Process::spawn(program("greeter_server").args(&endpoint).args(["--listen", "127.0.0.1:0"]))?;
        server.wait_line(|line| line.starts_with("registered "), STEP)?;
        let client = Process::spawn(program("greeter_client").args(&endpoint).args(["--count", "3", "--rate", "10"]))?;
        let ended = client.wait(STEP)?;
        if !ended.success() || !client.lines().iter().any(|line| line == "client: calls=3 failed=0") {
            return Err(client.failed("did not get three answers").into());
        }
        server.signal(Signal::TERM);
        if !server.wait(STEP)?.success() || !server.lines().iter().any(|line| line == "deregistered") {
            return Err(server.failed("did not leave the directory and exit 0 at SIGTERM").into());
        }
        Ok(())
    }

    fn target(workspace: &Workspace) -> PathBuf {
        workspace.target().join("package/build")
    }
}
