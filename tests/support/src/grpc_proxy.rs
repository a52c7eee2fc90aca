//! etcd's own gRPC proxy as a child process.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Error, Result, etcd, http, ports};

/// Seconds on two busy cores; what is longer is stuck.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// As for etcd: a port can be taken between the choice and the start.
const ATTEMPTS: usize = 5;

/// A running `etcd grpc-proxy` on a port of its own, killed on drop. It is the same binary as [`crate::Etcd`]'s.
///
/// To etcd it is one client: it may share one watch at etcd between several watches of a key, and answers some calls by
/// itself.
#[derive(Debug)]
pub struct GrpcProxy {
    address: SocketAddr,
    child: Mutex<Child>,
    dir: TempDir,
}

impl GrpcProxy {
    /// Starts a proxy to the etcd at `endpoint_address`, and waits until a read through it is answered. The address
    /// may be a [`crate::Proxy`]'s or a [`crate::FrameProxy`]'s.
    ///
    /// # Panics
    /// Where there is no etcd binary, or no read is answered within 20 seconds; with the end of its log.
    pub fn to(endpoint_address: SocketAddr) -> Self {
        let mut attempt = 1;
        loop {
            let proxy = Self::spawn(endpoint_address).unwrap_or_else(|error| panic!("{error}"));
            match proxy.wait_healthy() {
                Ok(()) => return proxy,
                Err(_) if attempt < ATTEMPTS && proxy.log().contains("address already in use") => attempt += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Where clients connect: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged so far: a line of JSON for each entry.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// How many entries of its log so far are errors.
    pub fn errors(&self) -> usize {
        errors(&self.log())
    }

    fn spawn(target: SocketAddr) -> Result<Self> {
        let binary = etcd::binary()?;
        let address = ports::free();
        let dir = tempfile::Builder::new().prefix("etcd-grpc-proxy-").tempdir();
        let dir = dir.map_err(|error| Error::new(format!("making a temporary folder for a gRPC proxy: {error}")))?;
        let log = File::create(dir.path().join("log")).and_then(|log| Ok((log.try_clone()?, log)));
        let (stdout, stderr) = log.map_err(|error| Error::new(format!("making a gRPC proxy's log: {error}")))?;
        let mut command = Command::new(&binary);
        command.args(["grpc-proxy", "start"]);
        command.arg(format!("--endpoints={target}")).arg(format!("--listen-addr={address}"));
        // It is also a client of itself, at this address.
        command.arg(format!("--advertise-client-url={address}"));
        command.arg("--data-dir").arg(dir.path().join("data"));
        etcd::clean_env(&mut command);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn();
        let child = child.map_err(|error| Error::new(format!("starting {}: {error}", binary.display())))?;
        Ok(Self { address, child: Mutex::new(child), dir })
    }

    /// It is healthy when etcd answers a read of it.
    fn wait_healthy(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if !self.is_running() {
                return Err(self.did_not_start("ended before it was healthy"));
            }
            let healthy = http::get(self.address, "/health").is_some_and(|answer| answer.status == 200);
            // Where another process has taken the port, that one answers, and the child ends.
            if healthy && self.log().contains("started gRPC proxy") && self.is_running() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.did_not_start(&format!("was not healthy within {START_LIMIT:?}")));
            }
            std::thread::sleep(POLL);
        }
    }

    fn did_not_start(&self, how: &str) -> Error {
        let log = etcd::excerpt(&self.log());
        Error::new(format!("the gRPC proxy at {} {how}; its log:\n{log}", self.endpoint()))
    }

    fn is_running(&self) -> bool {
        etcd::is_alive(&mut self.child())
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for GrpcProxy {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill(); // fails only for a child that has ended
        let _ = child.wait();
    }
}

fn errors(log: &str) -> usize {
    let is_error = |line: &&str| {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        entry["level"] == "error"
    };
    log.lines().filter(is_error).count()
}

#[cfg(test)]
mod tests {
    #[test]
    fn counts_errors_alone() {
        let log = "{\"level\":\"info\",\"msg\":\"an \\\"error\\\"\"}\n{\"level\":\"error\",\"msg\":\"x\"}\nplain text\n\
            {\"level\":\"warn\",\"msg\":\"\\\"level\\\":\\\"error\\\"\"}\n{\"level\":\"error\",\"ms";
        assert_eq!(super::errors(log), 1);
    }
}
