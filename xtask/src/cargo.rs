//! The commands that are cargo with the tools at hand: test, example.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use crate::cli::Interop;
use crate::error::{Error, Result, on};
use crate::tools::{Tools, on_path};
use crate::workspace::Workspace;

/// What the tests of features need, all at once: one build for all of them.
pub(crate) const FEATURES: &str = "tls-ring,tls-webpki-roots,tonic-health,srv";

pub(crate) fn test(
    workspace: &Workspace,
    tools: &Tools,
    interop: Option<Interop>,
    args: &[OsString],
) -> Result<ExitCode> {
    let mut command = workspace.cargo("test");
    // A package named by hand is meant alone.
    if !args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "-p" || arg == "--package") {
        command.arg("--workspace");
    }
    if interop.is_some() && on_path("go").is_none() {
        return Err(Error::new(
            "--interop go needs Go on PATH: install it (https://go.dev/dl) or leave the option out",
        ));
    }
    println!("etcd: {}", tools.etcd.describe(workspace));
    // Cargo builds the examples that tests start only where no target is named.
    if !args.is_empty() {
        let built = run(workspace.cargo("build").args(["--quiet", "--examples"]), tools)?;
        if built != ExitCode::SUCCESS {
            return Ok(built);
        }
    }
    let tested = run(command.args(args), tools)?;
    // Targets that cargo leaves out unless they are named; what a filter asks for is asked of the others alone.
    let mut named: Vec<&[&str]> = Vec::new();
    if args.is_empty() {
        named.push(&["--features", FEATURES, "--test", "tls", "--test", "srv"]);
        named.push(&[
            "--features",
            FEATURES,
            "--lib",
            "--",
            "etcd::",
            "connection::tls",
            "target::",
            "fuzzing::tests::srv",
            "fuzzing::tests::target",
        ]);
        named.push(&["--features", FEATURES, "--test", "behaviour", "--", "serve::health"]);
        named.push(&["--features", FEATURES, "--doc", "--", "serving"]);
    }
    if let Some(Interop::Go) = interop {
        named.push(&["--features", FEATURES, "--test", "interop"]);
    }
    for target in named {
        if tested != ExitCode::SUCCESS {
            break;
        }
        let code = run(workspace.cargo("test").args(target), tools)?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
    }
    Ok(tested)
}

pub(crate) fn example(
    workspace: &Workspace,
    tools: &Tools,
    name: &str,
    release: bool,
    args: &[OsString],
) -> Result<ExitCode> {
    let mut command = workspace.cargo("run");
    command.args(release.then_some("--release"));
    let manifest = workspace.root().join("examples").join(name).join("Cargo.toml");
    if manifest.is_file() {
        // A package of its own, for dependencies that the crate's tests need not build.
        command.arg("--manifest-path").arg(manifest);
    } else {
        // What some examples need; to the others it makes no difference.
        command.args(["--features", "tonic-health", "--example", name]);
    }
    run(command.arg("--").args(args), tools)
}

/// Builds all examples, optimised.
pub(crate) fn build_examples(workspace: &Workspace, tools: &Tools) -> Result<()> {
    let mut command = workspace.cargo("build");
    command.args(["--release", "--examples"]).envs(tools.env());
    let status = on("running cargo build", command.status())?;
    if status.success() { Ok(()) } else { Err(Error::new("building the examples failed: see what cargo says above")) }
}

pub(crate) fn run(command: &mut Command, tools: &Tools) -> Result<ExitCode> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = on(format!("running {program}"), command.envs(tools.env()).status())?;
    Ok(exit_code(status))
}

/// The child's exit code as one's own; a signal as shells give it, 128 and its number.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
