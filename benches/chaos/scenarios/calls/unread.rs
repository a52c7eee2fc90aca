//! Answers that nobody reads: do other calls of the connection go on?

use std::time::Duration;

use greeter_proto::Channel;
use greeter_proto::bench::DownloadRequest;
use greeter_proto::bench::streams_client::StreamsClient;
use test_support::Bar;
use tokio::time::{sleep, timeout};
use tonic_etcd::BalancedChannel;

use super::callers::greet;
use super::channel;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

const UNREAD: usize = 64;
const CHUNK: u32 = 64 << 10;
/// In which they fill what windows there are.
const FILL: Duration = Duration::from_secs(2);
const CALLS: usize = 10;
/// A call that takes longer hangs.
const LIMIT: Duration = Duration::from_millis(500);

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let ours = super::block_on(async {
        let fleet = Fleet::start(1, Conduct::default())?;
        let channel = fleet.ours(BalancedChannel::builder()).await?;
        let answered = beside(&channel).await?;
        Ok((answered, fleet.accepted()))
    })?;
    let tonic = super::block_on(async {
        let fleet = Fleet::start(1, Conduct::default())?;
        beside(&channel::tonic(&fleet.addresses())?).await
    })?;
    let name = "calls answered beside 64 unread answers, of 10";
    findings.ours(name, ours.0 as f64, "", Bar::Equal(CALLS as f64));
    findings.ours("connections", ours.1 as f64, "", Bar::Equal(1.0));
    findings.tonic(name, tonic as f64, "");
    Ok(())
}

async fn beside(channel: &impl Channel) -> Result<usize> {
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let mut client = StreamsClient::new(channel.clone());
        unread.push(timeout(FILL, client.download(DownloadRequest { size: CHUNK })).await??);
    }
    sleep(FILL).await;
    let mut answered = 0;
    for _ in 0..CALLS {
        answered += usize::from(matches!(timeout(LIMIT, greet(channel)).await, Ok(Ok(()))));
    }
    drop(unread);
    Ok(answered)
}
