//! Programs in Go, and its interoperability server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use test_support::Process;
use tokio::time::sleep;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Builds a Go package into the folder of the test's own binaries; the first time takes minutes on a small machine.
pub(crate) fn build(package: &str, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/go");
    let binary = std::env::current_exe().unwrap().with_file_name(name);
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&binary).arg(package).current_dir(&source);
    let status = build.status().expect("Go is on PATH: `cargo xtask test --interop go` checks it");
    assert!(status.success(), "go build failed in {}", source.display());
    binary
}

/// grpc-go's own interoperability server; it ends with this.
pub(crate) struct InteropServer {
    _process: Process,
    pub(crate) address: SocketAddr,
}

impl InteropServer {
    pub(crate) async fn start(args: &[&str]) -> Self {
        // Each caller builds a file of its own name: one that runs cannot be written over.
        let name = format!("grpc-interop-server-{:x}", fastrand::u64(..));
        let program = tokio::task::spawn_blocking(move || build("google.golang.org/grpc/interop/server", &name));
        let program = program.await.unwrap();
        let mut command = Command::new(&program);
        command.args(["-port", "0"]).args(args).env("GRPC_GO_LOG_SEVERITY_LEVEL", "info");
        let process = Process::spawn(&mut command).unwrap();
        let _ = std::fs::remove_file(program); // what runs stays
        let port = tokio::time::timeout(PATIENCE, listening(&process)).await.expect("it says where it listens");
        Self { _process: process, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }
}

/// The port, as the server's log tells it.
async fn listening(process: &Process) -> u16 {
    loop {
        let errors = process.errors();
        if let Some(line) = errors.iter().find(|line| line.contains("interop server listening on ")) {
            return line.rsplit(':').next().unwrap().parse().unwrap();
        }
        assert!(process.status().is_none(), "{}", process.failed("ended"));
        sleep(Duration::from_millis(5)).await;
    }
}
