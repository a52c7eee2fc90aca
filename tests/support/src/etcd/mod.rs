//! A real etcd as a child process.

mod builder;
mod control;
mod launch;
mod metrics;

use std::fs;
use std::net::SocketAddr;
use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use crate::{Error, Result, http};
pub use builder::Builder;
pub(crate) use launch::{Launch, binary, clean_env};

/// A running etcd of its own: own ports, own data in a temporary folder, killed and removed on drop.
///
/// It is tuned for tests: short heartbeats (healthy in about 50 ms, lease TTLs from 1 s) and no fsync.
/// The binary is `ETCD_BIN`, else `etcd` on `PATH`; `cargo xtask test` provides one.
#[derive(Debug)]
pub struct Etcd {
    launch: Launch,
    child: Mutex<Option<Child>>,
    dir: TempDir,
}

impl Etcd {
    /// Starts an etcd and waits until it is healthy.
    ///
    /// # Panics
    /// Where there is no etcd, or it does not become healthy: a test must not pass without one.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Options first: see [`Builder`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where clients connect: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.launch.client)
    }

    /// Where clients with certificates connect: `https://localhost:PORT`.
    ///
    /// # Panics
    /// When it was not started with [`Builder::tls`].
    pub fn tls_endpoint(&self) -> String {
        let tls = self.launch.tls.as_ref().expect("an etcd that was started with TLS");
        format!("https://localhost:{}", tls.client.port())
    }

    /// The client address, to put a [`crate::Proxy`] in front of it.
    pub fn address(&self) -> SocketAddr {
        self.launch.client
    }

    /// The process id; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// The server's version, as `3.5.1`.
    ///
    /// # Panics
    /// When etcd does not answer.
    pub fn version(&self) -> String {
        let answer = self.get("/version").unwrap_or_else(|error| panic!("{error}"));
        let version: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        version["etcdserver"].as_str().unwrap_or_else(|| panic!("no version in {answer}")).to_owned()
    }

    /// Whether etcd says of itself that it is healthy: it has a leader and can commit.
    ///
    /// Takes up to two seconds when it is frozen.
    pub fn health(&self) -> bool {
        http::get(self.launch.client, "/health").is_some_and(|answer| answer.status == 200)
    }

    /// What etcd and its log say so far; for error messages.
    pub fn log(&self) -> String {
        fs::read_to_string(launch::log_file(self.dir.path())).unwrap_or_default()
    }

    /// Whether the process is there: started, and not ended by itself.
    pub fn is_running(&self) -> bool {
        self.child().as_mut().is_some_and(is_alive)
    }

    /// Another process may sit on the port: the command line that it reports tells.
    fn is_mine(&self) -> bool {
        let data = launch::data_dir(self.dir.path()).display().to_string();
        http::get(self.launch.client, "/debug/vars").is_some_and(|answer| answer.body.contains(&data))
    }

    fn did_not_start(&self, how: &str) -> Error {
        let (binary, endpoint) = (self.launch.binary.display(), self.endpoint());
        let log = excerpt(&self.log());
        Error::new(format!("etcd ({binary}) at {endpoint} {how}; its log:\n{log}"))
    }

    fn get(&self, path: &str) -> Result<String> {
        match http::get(self.launch.client, path) {
            Some(answer) if answer.status == 200 => Ok(answer.body),
            Some(answer) => {
                Err(Error::new(format!("etcd {}{path} answered {}: {}", self.endpoint(), answer.status, answer.body)))
            }
            None => Err(Error::new(format!("etcd {} does not answer {path}: is it down or frozen?", self.endpoint()))),
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(crate) fn is_alive(child: &mut Child) -> bool {
    matches!(child.try_wait(), Ok(None))
}

/// The first lines, where a wrong flag is named before pages of usage, and the last.
pub(crate) fn excerpt(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    if lines.len() <= 20 {
        return lines.join("\n");
    }
    let (head, tail) = (&lines[..5], &lines[lines.len() - 15..]);
    format!("{}\n[…]\n{}", head.join("\n"), tail.join("\n"))
}
