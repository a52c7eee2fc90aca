//! The readers that are compared.
//!
//! - `raw` is what somebody would write by hand on etcd-client: one watch of the prefix; of each event it makes the key and
//!   the value Strings, and nothing more. It does not read the JSON, keep a set, or tell anybody.
//! - `ours` waits for `Resolution::changed()`, as any user of the snapshot does. Each return costs a look at the sampled keys
//!   alone (`Snapshot::get`): `changed()` does not say which keys differ, and going through all of them each time would measure
//!   this reader. `discover()` shows no metadata, so it cannot see these changes.
//!
//! Both note the lag of the sampled keys, one in fifty: the time from before the put until the reader has the new value.
//! Where several values of a key come at once, ours sees the last alone, and raw sees each.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use etcd_client::{Client, WatchOptions};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic_etcd::{Resolver, SnapshotEntry};

use super::{PREFIX, key, sampled};
use crate::clock::unix_us;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Reader {
    Raw,
    Ours,
}

#[derive(Parser)]
struct Options {
    #[arg(long)]
    etcd: String,
    #[arg(long, value_enum)]
    reader: Reader,
}

/// What a reader has found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    /// User and system time of the process, from ready to the end.
    pub(crate) cpu_seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// How many values of sampled keys it saw.
    pub(crate) seen: usize,
    /// The sum of the sampled keys' last times.
    pub(crate) sum: u64,
}

/// Says `ready`, reads until SIGTERM, and says `found JSON`.
#[tokio::main]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let terminate = signal(SignalKind::terminate())?;
    let mut lags = Lags { last: sampled().map(|number| (key(number), 0)).collect(), lags_us: vec![] };
    let began = match options.reader {
        Reader::Raw => raw(&options.etcd, terminate, &mut lags).await?,
        Reader::Ours => ours(&options.etcd, terminate, &mut lags).await?,
    };
    let cpu = test_support::cpu_time().saturating_sub(began);
    if lags.lags_us.is_empty() {
        return Err("no change was seen".into());
    }
    println!("found {}", serde_json::to_string(&lags.found(cpu))?);
    Ok(())
}

/// Gives the CPU time at which it was ready.
async fn raw(etcd: &str, mut terminate: Signal, lags: &mut Lags) -> Result<Duration, Box<dyn Error>> {
    let client = Client::connect([etcd], None).await?;
    let mut watch = client.watch_client().watch(PREFIX, Some(WatchOptions::new().with_prefix())).await?;
    let began = ready();
    loop {
        let message = tokio::select! {
            message = watch.message() => message?.ok_or("the watch ended")?,
            _ = terminate.recv() => return Ok(began),
        };
        for pair in message.events().iter().filter_map(|event| event.kv()) {
            let key = String::from_utf8(pair.key().to_vec())?;
            let value = String::from_utf8(pair.value().to_vec())?;
            if lags.last.contains_key(&key) {
                lags.note(&key, time_in(&value).ok_or("a value of somebody else")?);
            }
        }
    }
}

async fn ours(etcd: &str, mut terminate: Signal, lags: &mut Lags) -> Result<Duration, Box<dyn Error>> {
    let resolver = Resolver::connect_lazy([etcd])?;
    let mut resolution = resolver.resolve(PREFIX.trim_end_matches('/'))?;
    resolution.ready(PATIENCE).await?;
    let keys: Vec<String> = sampled().map(key).collect();
    let began = ready();
    loop {
        let snapshot = tokio::select! {
            snapshot = resolution.changed() => snapshot?,
            _ = terminate.recv() => return Ok(began),
        };
        for key in &keys {
            if let Some(put_us) = snapshot.get(key.as_bytes()).and_then(time_of) {
                lags.note(key, put_us);
            }
        }
    }
}

fn ready() -> Duration {
    println!("ready");
    test_support::cpu_time()
}

fn time_in(value: &str) -> Option<u64> {
    value.split_once(r#""t":""#)?.1.split_once('"')?.0.parse().ok()
}

fn time_of(entry: &SnapshotEntry) -> Option<u64> {
    entry.instances().first()?.metadata().get("t")?.parse().ok()
}

struct Lags {
    /// Of each sampled key, the time that was seen last.
    last: HashMap<String, u64>,
    lags_us: Vec<u64>,
}

impl Lags {
    /// Notes a value, if it is a new one.
    fn note(&mut self, key: &str, put_us: u64) {
        let Some(last) = self.last.get_mut(key) else { return };
        if *last == put_us {
            return;
        }
        // What was there before is no change.
        if *last > 0 {
            self.lags_us.push(unix_us().saturating_sub(put_us));
        }
        *last = put_us;
    }

    /// There is at least one.
    fn found(mut self, cpu: Duration) -> Found {
        self.lags_us.sort_unstable();
        let at = |percent: usize| {
            let place = (self.lags_us.len() - 1) * percent / 100;
            self.lags_us[place] as f64 / 1e3
        };
        Found {
            cpu_seconds: cpu.as_secs_f64(),
            p50_ms: at(50),
            p99_ms: at(99),
            seen: self.lags_us.len(),
            sum: self.last.values().sum(),
        }
    }
}
