//! Calls with more metadata than their server takes: do the calls beside them go on?

use std::time::Duration;

use greeter_proto::Channel;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::Bar;
use tokio::time::timeout;
use tonic::Request;
use tonic_etcd::BalancedChannel;

use super::callers::Kind;
use super::channel;
use super::company::Company;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::world::{Result, World};

/// KiB of one header; servers of tonic take 16.
const SIZES: [usize; 3] = [17, 70, 200];
const ROUNDS: usize = 3;
/// Of the calls beside.
const ANSWER: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(5);

/// Of all rounds.
#[derive(Default)]
struct Found {
    failed: usize,
    connections: usize,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let (mut ours, mut tonic) = (Found::default(), Found::default());
    super::block_on(async {
        for size in SIZES {
            let fleet = Fleet::start(1, Conduct::well(ANSWER))?;
            let channel = fleet.ours(BalancedChannel::builder()).await?;
            ours.add(&channel, &fleet, size).await?;
            let fleet = Fleet::start(1, Conduct::well(ANSWER))?;
            tonic.add(&channel::tonic(&fleet.addresses())?, &fleet, size).await?;
        }
        Ok(())
    })?;
    let names = ["other calls that failed beside metadata of 17, 70, 200 KiB, of 288", "connections that ended"];
    for (name, count) in names.iter().zip([ours.failed, ours.connections]) {
        findings.ours(name, count as f64, "", Bar::Equal(0.0));
    }
    for (name, count) in names.iter().zip([tonic.failed, tonic.connections]) {
        findings.tonic(name, count as f64, "");
    }
    Ok(())
}

impl Found {
    async fn add(&mut self, channel: &impl Channel, fleet: &Fleet, kib: usize) -> Result<()> {
        for _ in 0..ROUNDS {
            let company = Company::start(channel, &fleet.arrivals, Kind::Unary).await?;
            let mut request = Request::new(HelloRequest::default());
            request.metadata_mut().insert("token", "t".repeat(kib << 10).parse()?);
            let mut client = GreeterClient::new(channel.clone());
            let answer = timeout(LIMIT, client.say_hello(request)).await.or(Err("a call hangs"))?;
            if answer.is_ok() {
                return Err(format!("the server takes {kib} KiB of metadata").into());
            }
            self.failed += company.failed().await;
        }
        self.connections += fleet.accepted().saturating_sub(1);
        Ok(())
    }
}
