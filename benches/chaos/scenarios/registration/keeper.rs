//! The server process whose registration is to stand whatever happens.

use std::cell::Cell;
use std::time::Duration;

use test_support::{Process, Signal};

use crate::world::{Result, World, naming};

/// How long its lease lives, in seconds: long enough for an election, and short enough to wait for its end.
pub(super) const TTL: u64 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Keeper {
    process: Process,
    pub(super) key: String,
    pub(super) value: String,
    /// Its lease, as it said last, and how many lines were read for that.
    lease: Cell<(i64, usize)>,
}

impl Keeper {
    pub(super) fn start(world: &World, etcd: &[String], user: &str) -> Result<Self> {
        let ttl = TTL.to_string();
        let args = ["--service", "kept", "--ttl", &ttl, "--user", user, "--tell-lease"];
        let process = world.process("serve", &etcd.join(","), &args)?;
        let line = process.wait_line(|line| line.starts_with("registered "), PATIENCE)?;
        let address = line.trim_start_matches("registered ");
        Ok(Self { key: format!("kept/{address}"), value: naming(address), process, lease: Cell::new((0, 0)) })
    }

    /// The lease under which it says that it is registered; 0 while it has none.
    pub(super) fn lease(&self) -> i64 {
        let (mut lease, read) = self.lease.get();
        let lines = self.process.lines_from(read);
        for line in &lines {
            if let Some(said) = line.strip_prefix("lease ").and_then(|lease| lease.parse().ok()) {
                lease = said;
            }
        }
        self.lease.set((lease, read + lines.len()));
        lease
    }

    /// The end of its log.
    pub(super) fn said(&self) -> String {
        let errors = self.process.errors();
        errors.join("\n")
    }

    pub(super) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub(super) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }
}
