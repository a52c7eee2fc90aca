//! The process that resolves, as a scenario sees it, and the raw client beside it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, ConnectOptions};
use test_support::Process;

use crate::world::{Result, World, naming};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A process of this program in the role `resolve`; killed when it is dropped.
pub(super) struct Reader {
    process: Process,
}

impl Reader {
    /// Starts it; it has begun to resolve when this returns.
    pub(super) fn start(world: &World, etcd: &str, service: &str, args: &[&str]) -> Result<Self> {
        let process = world.process("resolve", etcd, &[&["--service", service], args].concat())?;
        process.wait_line(|line| line == "resolved" || line == "started", PATIENCE)?;
        Ok(Self { process })
    }

    /// How many times `changed()` has returned.
    pub(super) fn changes(&self) -> usize {
        self.process.lines().iter().filter(|line| line.starts_with("snapshot ")).count()
    }

    /// What the library has logged at INFO and above.
    pub(super) fn events(&self) -> Vec<String> {
        self.process.lines().into_iter().filter(|line| line.starts_with("event ")).collect()
    }

    /// How many lines it has said.
    pub(super) fn said(&self) -> usize {
        self.process.lines().len()
    }

    /// When it first saw just these addresses, among its lines from `start` on.
    pub(super) fn saw(&self, start: usize, addresses: &[String], within: Duration) -> Result<SystemTime> {
        let mut wanted = addresses.to_vec();
        wanted.sort();
        let wanted = format!(" {}", wanted.join(","));
        let is = |line: &str| line.starts_with("snapshot ") && line.ends_with(&wanted) && line.split(' ').count() == 3;
        let (_, line) = self.process.wait_line_from(start, is, within)?;
        time(&line)
    }

    /// When each of many services had an instance.
    pub(super) fn saw_all(&self, within: Duration) -> Result<SystemTime> {
        time(&self.process.wait_line(|line| line.starts_with("all "), within)?)
    }
}

/// The second word of a line.
fn time(line: &str) -> Result<SystemTime> {
    let us = line.split(' ').nth(1).ok_or("a line without a time")?.parse()?;
    Ok(UNIX_EPOCH + Duration::from_micros(us))
}

/// Milliseconds from one to the other; negative where the other was first.
pub(super) fn ms_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(later) => later.as_secs_f64() * 1e3,
        Err(earlier) => -earlier.duration().as_secs_f64() * 1e3,
    }
}

/// A raw client of one service's keys.
pub(super) struct Admin {
    client: Client,
    service: &'static str,
}

impl Admin {
    pub(super) async fn connect(etcd: &str, service: &'static str, user: Option<(&str, &str)>) -> Result<Self> {
        let options = user.map(|(name, password)| ConnectOptions::new().with_user(name, password));
        Ok(Self { client: Client::connect([etcd], options).await?, service })
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    pub(super) async fn put(&self, address: &str) -> Result<()> {
        self.client.kv_client().put(self.key(address), naming(address), None).await?;
        Ok(())
    }

    pub(super) async fn delete(&self, address: &str) -> Result<()> {
        self.client.kv_client().delete(self.key(address), None).await?;
        Ok(())
    }

    fn key(&self, address: &str) -> String {
        format!("{}/{address}", self.service)
    }
}
