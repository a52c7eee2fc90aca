//! The open loop: calls begin at their times, however many are in flight.

use std::thread;
use std::time::{Duration, Instant};

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::runtime::Handle;
use tokio::task::{JoinSet, spawn_blocking};
use tonic::Status;
use tonic_etcd::BalancedChannel;

use crate::world::Result;

/// What became of the calls.
pub(super) struct Taken {
    /// Of answered calls, from when each was due to its end; in order of length.
    times: Vec<Duration>,
    pub(super) failed: usize,
}

/// Makes so many calls in each second, for so long.
pub(super) async fn calls(channel: &BalancedChannel, per_second: u32, lasts: Duration) -> Result<Taken> {
    let (channel, runtime) = (channel.clone(), Handle::current());
    // tokio's timer has steps of a millisecond: calls would come in bursts.
    let calls = spawn_blocking(move || begin(&channel, per_second, lasts, &runtime)).await?;
    let ended = calls.join_all().await;
    if let Some(status) = ended.iter().find_map(|result| result.as_ref().err()) {
        eprintln!("  {:?}: {:.300}", status.code(), status.message());
    }
    let mut times: Vec<_> = ended.iter().filter_map(|result| result.as_ref().ok()).copied().collect();
    times.sort_unstable();
    Ok(Taken { failed: ended.len() - times.len(), times })
}

/// Begins each call at its time, on that runtime.
fn begin(
    channel: &BalancedChannel,
    per_second: u32,
    lasts: Duration,
    runtime: &Handle,
) -> JoinSet<std::result::Result<Duration, Status>> {
    let (began, all) = (Instant::now(), (f64::from(per_second) * lasts.as_secs_f64()) as u32);
    let mut calls = JoinSet::new();
    for number in 0..all {
        let due = began + Duration::from_secs(1) / per_second * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut client = GreeterClient::new(channel.clone());
        let call = async move {
            let result = client.say_hello(HelloRequest { name: "world".into() }).await;
            result.map(|_| due.elapsed())
        };
        calls.spawn_on(call, runtime);
    }
    calls
}

impl Taken {
    /// Not a number when no call was answered.
    pub(super) fn p99_ms(&self) -> f64 {
        let time = self.times.get(self.times.len() * 99 / 100);
        time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    /// Not a number when no call was answered.
    pub(super) fn median_ms(&self) -> f64 {
        let time = self.times.get(self.times.len() / 2);
        time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }

    pub(super) fn longer_than(&self, time: Duration) -> usize {
        self.times.len() - self.times.partition_point(|took| *took <= time)
    }
}
