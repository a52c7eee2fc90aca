//! Go's interoperability server.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use test_support::{Process, go_program};
use tokio::time::sleep;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// grpc-go's own interoperability server; it ends with this.
pub(crate) struct InteropServer {
    _process: Process,
    pub(crate) address: SocketAddr,
}

impl InteropServer {
    pub(crate) async fn start(args: &[&str]) -> Self {
        // Each caller builds a file of its own name: one that runs cannot be written over.
        let name = format!("grpc-interop-server-{:x}", fastrand::u64(..));
        let program = tokio::task::spawn_blocking(move || go_program("google.golang.org/grpc/interop/server", &name));
        let program = program.await.unwrap().unwrap();
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
