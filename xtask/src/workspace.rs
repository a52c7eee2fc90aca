//! Where the workspace and its target folder lie, and how cargo is called on it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result, on};

pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo: `CARGO_TARGET_DIR`, `.cargo/config.toml` and the like then count as they do for a build.
    pub(crate) fn find() -> Result<Self> {
        // cargo sets it at run time; what was compiled in is right unless the checkout has moved.
        let own = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let mut command = Command::new(cargo());
        command.args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"]);
        let output = on("running cargo metadata", command.arg(own.join("Cargo.toml")).output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(format!("cargo metadata failed: {}", said.trim())));
        }
        let metadata: serde_json::Value =
            on("reading what cargo metadata says", serde_json::from_slice(&output.stdout))?;
        let path = |key: &str| {
            let path = metadata[key].as_str().map(PathBuf::from);
            path.ok_or_else(|| {
                Error::new(format!("cargo metadata says nothing of {key}: is this cargo 1.88 or newer?"))
            })
        };
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")? })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What cargo says of all locked packages.
    pub(crate) fn metadata(&self) -> Result<serde_json::Value> {
        let mut command = self.cargo("metadata");
        let output = on("running cargo metadata", command.args(["--locked", "--format-version=1"]).output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Error::new(format!("cargo metadata failed: {}", said.trim())));
        }
        on("reading what cargo metadata says", serde_json::from_slice(&output.stdout))
    }

    /// The version of a package of this workspace.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let metadata = self.metadata()?;
        let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = packages.iter().find(|known| known["name"] == package && known["source"].is_null());
        let version = found.and_then(|package| package["version"].as_str()).map(str::to_owned);
        version.ok_or_else(|| Error::new(format!("cargo metadata says nothing of the package {package}")))
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The folder of everything that is fetched or built for development.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A cargo subcommand on this workspace, whatever folder it is called from.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new(cargo());
        command.arg(subcommand).arg("--manifest-path").arg(self.root.join("Cargo.toml"));
        command
    }

    /// A path as people write it: from the root of the workspace where it lies below.
    pub(crate) fn show(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }
}

/// Cargo itself, for packages outside of the workspace.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}
