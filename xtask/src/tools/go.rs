//! An etcd of a chosen release, built with Go around etcd's own main function.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{install, on_path, output};
use crate::cli::Release;
use crate::error::{Error, Result, on};
use crate::workspace::Workspace;

const MODULE: &str = "go.etcd.io/etcd/server/v3";
const MAIN: &str = "package main\n\nimport (\n\t\"os\"\n\n\t\"go.etcd.io/etcd/server/v3/etcdmain\"\n)\n\n\
    func main() { etcdmain.Main(os.Args) }\n";

const V3_5: &str = "3.5.32";
const V3_6: &str = "3.6.16";
const V3_7: &str = "3.7.3";

/// Where the binary of the release that is built by default is, or would be.
pub(crate) fn default_binary(workspace: &Workspace) -> PathBuf {
    workspace.tools().join(format!("etcd-{V3_5}/etcd"))
}

/// The binary, built if it is not there yet.
pub(crate) fn build(workspace: &Workspace, release: Release) -> Result<PathBuf> {
    let version = match release {
        Release::V3_5 => V3_5.to_owned(),
        Release::V3_6 => V3_6.to_owned(),
        Release::V3_7 => V3_7.to_owned(),
        Release::Newest => newest(workspace)?,
    };
    let place = workspace.tools().join(format!("etcd-{version}"));
    let binary = place.join("etcd");
    if binary.is_file() {
        return Ok(binary);
    }
    need_go(&version)?;
    eprintln!("xtask: building etcd {version} with Go into {} (minutes, once)", workspace.show(&place));
    let scratch = install::scratch(workspace)?;
    let new = scratch.path().join("etcd");
    on(format!("making {}", new.display()), fs::create_dir(&new))?;
    on(format!("writing {}", new.display()), fs::write(new.join("main.go"), MAIN))?;
    let requirement = format!("{MODULE}@v{version}");
    let steps: [&[&str]; 3] = [
        &["mod", "init", "etcd"],
        &["get", &requirement],
        &["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "etcd", "."],
    ];
    for step in steps {
        output(go(workspace, &new).args(step))
            .map_err(|why| Error::new(format!("building etcd {version}: go {} failed:\n  {why}", step[0])))?;
    }
    install::place(&new, &place)?;
    Ok(binary)
}

/// The newest release; without Go or a network the one that was newest when it was last asked for.
fn newest(workspace: &Workspace) -> Result<String> {
    let note = workspace.tools().join("etcd-newest");
    let scratch = install::scratch(workspace)?;
    let latest = format!("{MODULE}@latest");
    // To the module proxy, `latest` is a pre-release only where there is nothing else.
    let asked = need_go("(the newest)").and_then(|()| {
        let said = output(go(workspace, scratch.path()).args(["list", "-m", "-f", "{{.Version}}", &latest]));
        on(format!("asking for the newest etcd: go list {latest} failed"), said)
    });
    match asked {
        Ok(said) => {
            let version = said.trim().trim_start_matches('v').to_owned();
            on(format!("writing {}", note.display()), fs::write(&note, &version))?;
            Ok(version)
        }
        Err(error) => {
            let version = fs::read_to_string(&note).map_err(|_| error)?;
            eprintln!("xtask: cannot ask which etcd is the newest; taking {version}, which was it last time");
            Ok(version)
        }
    }
}

fn need_go(version: &str) -> Result<()> {
    on_path("go").map(drop).ok_or_else(|| {
        Error::new(format!(
            "building etcd {version} takes Go, and there is no go on PATH: install it (https://go.dev/dl)"
        ))
    })
}

/// Go with all of its folders below the tools, and without what a user has set for other work.
fn go(workspace: &Workspace, folder: &Path) -> Command {
    let home = workspace.tools().join("go");
    let mut command = Command::new("go");
    command.current_dir(folder).env("CGO_ENABLED", "0").env("GOWORK", "off");
    // Writable modules: `cargo clean` could not remove them otherwise.
    command.env("GOFLAGS", "-modcacherw").env("GOPATH", &home);
    command.env("GOCACHE", home.join("build")).env("GOMODCACHE", home.join("modules"));
    command.env("GOTMPDIR", folder).env_remove("GOOS").env_remove("GOARCH");
    // Go counts its runs in the user's configuration folder: below the tools instead, but with the user's settings.
    let config = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".config")));
    if let (Some(config), None) = (config.filter(|_| cfg!(target_os = "linux")), env::var_os("GOENV")) {
        command.env("GOENV", config.join("go/env")).env("XDG_CONFIG_HOME", home.join("config"));
    }
    command
}
