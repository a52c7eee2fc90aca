//! One of three stock servers stands still for a while. Calls leave it after their attempt timeout; what is open on it goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use test_support::{Bar, Signal};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_etcd::{BalancedChannel, RetryPolicy};

use super::attempts::SAY_HELLO;
use super::callers::greet;
use super::channel;
use super::resets::Beside;
use crate::findings::Findings;
use crate::world::{Result, World};

const WORKERS: usize = 64;
const TIMEOUT: Duration = Duration::from_millis(100);
/// Before the server is stopped, while it is, and after it goes on.
const BEFORE: Duration = Duration::from_millis(500);
const STOPPED: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(1);
/// How long each call takes, so that some are on each server at any time.
const DELAY_MS: &str = "5";
const PATIENCE: Duration = Duration::from_secs(10);

pub(in crate::scenarios) fn run(world: &World, findings: &mut Findings) -> Result<()> {
    super::block_on(async {
        let servers = (0..3).map(|_| world.peer(&["--delay-ms", DELAY_MS])).collect::<Result<Vec<_>>>()?;
        let policy = RetryPolicy::new().repeatable(SAY_HELLO).attempt_timeout(TIMEOUT);
        let channel =
            channel::ours(BalancedChannel::builder().retry(policy), servers.iter().map(|server| &server.address))?;
        channel::connected(&channel, servers.len()).await?;
        let streams = open_streams(&channel).await?;
        let (over, failed, made) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            let (channel, over, failed, made) = (channel.clone(), over.clone(), failed.clone(), made.clone());
            workers.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    made.fetch_add(1, Ordering::Relaxed);
                    if let Err(status) = greet(&channel).await
                        && failed.fetch_add(1, Ordering::Relaxed) < 5
                    {
                        eprintln!("  a call that failed: {status}");
                    }
                }
            });
        }
        sleep(BEFORE).await;
        servers[0].process.signal(Signal::STOP);
        sleep(STOPPED).await;
        servers[0].process.signal(Signal::CONT);
        sleep(AFTER).await;
        over.store(true, Ordering::Relaxed);
        workers.join_all().await;
        let given_up: u64 = channel.servers().iter().map(tonic_etcd::ServerStatus::attempt_timeouts).sum();
        let mut broken = 0;
        for stream in streams {
            if let Err(why) = stream.end().await {
                eprintln!("  a stream: {why}");
                broken += 1;
            }
        }
        sleep(Duration::from_millis(100)).await; // the processes look at their connections every 20 ms
        let accepted = |server: &crate::world::Server| {
            let lines = server.process.lines();
            lines.iter().filter_map(|line| line.strip_prefix("accepted ")?.parse().ok()).max().unwrap_or(0_usize)
        };
        let ended: usize = servers.iter().map(|server| accepted(server).saturating_sub(1)).sum();
        eprintln!("  {} calls, {given_up} attempts given up", made.load(Ordering::Relaxed));
        findings.ours("failed calls", failed.load(Ordering::Relaxed) as f64, "", Bar::Equal(0.0));
        findings.ours("attempts that were given up", given_up as f64, "", Bar::AtLeast(1.0));
        findings.ours("open streams that broke", f64::from(broken), "", Bar::Equal(0.0));
        findings.ours("connections that ended", ended as f64, "", Bar::Equal(0.0));
        Ok(())
    })
}

/// At least one stream on each server.
async fn open_streams(channel: &BalancedChannel) -> Result<Vec<Beside>> {
    let (mut streams, began) = (Vec::new(), Instant::now());
    while channel.servers().iter().any(|server| server.in_flight() == 0) {
        if began.elapsed() > PATIENCE {
            return Err(format!("no stream on one of them: {:?}", channel.servers()).into());
        }
        streams.push(Beside::start(channel).await?);
    }
    Ok(streams)
}
