//! Programs in Go.

use std::env;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Result};

/// Builds a Go package of `tests/interop/go`, or one that its modules have, as the file `name` beside the program that asks. The
/// first time takes minutes on a small machine. A file that runs cannot be written over.
///
/// # Errors
/// When there is no Go on PATH, or when Go cannot build it; Go says why on stderr.
pub fn go_program(package: &str, name: &str) -> Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("interop").join("go");
    let own = env::current_exe().map_err(|error| Error::new(format!("finding the path of this program: {error}")))?;
    let program = own.with_file_name(name);
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(package).current_dir(&source);
    let status = build.status().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            Error::new(format!("building {name} takes Go, and there is no go on PATH: install it (https://go.dev/dl)"))
        }
        _ => Error::new(format!("starting go: {error}")),
    })?;
    if status.success() {
        Ok(program)
    } else {
        Err(Error::new(format!("go build {package} failed: Go says why above")))
    }
}
