//! A protoc that also has the well-known protos, which etcd's and gRPC's files import.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{from_env, install, on_path, output};
use crate::error::{Error, Result, on};
use crate::workspace::Workspace;

const CHECK: &str = "syntax = \"proto3\";\nimport \"google/protobuf/struct.proto\";\n\
    message Check { google.protobuf.Struct value = 1; }\n";

/// PROTOC, else the one on PATH if it is complete, else a copy of the one that a crate carries.
pub(crate) fn get(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(path) = from_env("PROTOC") {
        return match check(&path) {
            Ok(()) => Ok(path),
            Err(why) => Err(Error::new(format!(
                "PROTOC={} does not compile a file that imports google/protobuf/struct.proto:\n  {why}\n\
                 Unset PROTOC, and one is provided; or install the well-known protos next to it \
                 (Debian: libprotobuf-dev).",
                path.display()
            ))),
        };
    }
    // Debian's protobuf-compiler alone does not bring the protos: such a one is passed over.
    if let Some(path) = on_path("protoc").filter(|path| check(path).is_ok()) {
        return Ok(path);
    }
    vendored(workspace)
}

/// With `include` beside `bin`, protoc finds the well-known protos without being told.
fn vendored(workspace: &Workspace) -> Result<PathBuf> {
    let place = workspace.tools().join("protoc");
    let program = place.join("bin/protoc");
    let no_binary = |error: protoc_bin_vendored::Error| {
        Error::new(format!(
            "no protoc for this machine ({error}): install protoc 3.15 or newer with the well-known protos"
        ))
    };
    let source = protoc_bin_vendored::protoc_bin_path().map_err(no_binary)?;
    let include = protoc_bin_vendored::include_path().map_err(no_binary)?;
    // Another size is another release of the crate.
    let size = |path: &Path| fs::metadata(path).map(|file| file.len()).ok();
    if program.is_file() && (size(&program) == size(&source) || !source.is_file()) {
        return Ok(program);
    }
    eprintln!("xtask: copying protoc (crate protoc-bin-vendored) into {}", workspace.show(&place));
    let scratch = install::scratch(workspace)?;
    let new = scratch.path().join("protoc");
    on(format!("making {}", new.display()), fs::create_dir_all(new.join("bin")))?;
    on(format!("copying {}", source.display()), fs::copy(&source, new.join("bin/protoc")))?;
    install::make_executable(&new.join("bin/protoc"))?;
    install::copy_folder(&include, &new.join("include"))?;
    check(&new.join("bin/protoc")).map_err(|why| {
        Error::new(format!(
            "the protoc of the crate protoc-bin-vendored does not work here: {why}\nInstall protoc and set PROTOC."
        ))
    })?;
    if place.is_dir() {
        // The old one goes aside, and away with the scratch folder.
        on(format!("replacing {}", place.display()), fs::rename(&place, scratch.path().join("old")))?;
    }
    install::place(&new, &place)?;
    Ok(program)
}

fn check(protoc: &Path) -> std::result::Result<(), String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    fs::write(dir.path().join("check.proto"), CHECK).map_err(|error| error.to_string())?;
    let mut command = Command::new(protoc);
    command.arg("--proto_path").arg(dir.path()).arg("--descriptor_set_out").arg(dir.path().join("check.bin"));
    output(command.arg(dir.path().join("check.proto"))).map(drop)
}
