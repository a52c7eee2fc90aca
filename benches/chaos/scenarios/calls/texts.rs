//! Calls that end with a long text: does it come, and do the calls beside them go on?

use std::time::Duration;

use greeter_proto::Channel;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use test_support::Bar;
use tokio::time::timeout;
use tonic::Status;
use tonic_etcd::BalancedChannel;

use super::callers::Kind;
use super::channel;
use super::company::Company;
use super::fleet::Fleet;
use crate::findings::Findings;
use crate::peer::conduct::Conduct;
use crate::peer::{ASK_FOR_TEXT, TEXT_CODE};
use crate::world::{Result, World};

/// Times a text, and whether it must come whole: 20 KB, 70 KB, 25 KB that are written as 75 KB, and more than any head may be.
const TEXTS: [(usize, &str, bool); 4] =
    [(20_000, "x", true), (70_000, "x", true), (12_500, "ä", true), (1 << 20, "x", false)];
const ROUNDS: usize = 3;
const WHOLE: usize = 3 * ROUNDS;
/// Of the calls beside.
const ANSWER: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(5);

/// Of all rounds.
#[derive(Default)]
struct Found {
    whole: usize,
    failed: usize,
    connections: usize,
}

pub(in crate::scenarios) fn run(_world: &World, findings: &mut Findings) -> Result<()> {
    let (mut ours, mut tonic) = (Found::default(), Found::default());
    super::block_on(async {
        for text in TEXTS {
            let fleet = Fleet::start(1, Conduct::well(ANSWER))?;
            let channel = fleet.ours(BalancedChannel::builder()).await?;
            ours.add(&channel, &fleet, text).await?;
            let fleet = Fleet::start(1, Conduct::well(ANSWER))?;
            tonic.add(&channel::tonic(&fleet.addresses())?, &fleet, text).await?;
        }
        Ok(())
    })?;
    let names = [
        "other calls that failed beside texts of 20 KB, 70 KB, 25 KB of non-ASCII, 1 MiB, of 384",
        "connections that ended",
        "texts below 1 MiB that came whole, with their code, of 9",
    ];
    let bars = [Bar::Equal(0.0), Bar::Equal(0.0), Bar::Equal(WHOLE as f64)];
    let counts = |found: &Found| [found.failed, found.connections, found.whole];
    for (name, (bar, count)) in names.iter().zip(bars.into_iter().zip(counts(&ours))) {
        findings.ours(name, count as f64, "", bar);
    }
    for (name, count) in names.iter().zip(counts(&tonic)) {
        findings.tonic(name, count as f64, "");
    }
    Ok(())
}

impl Found {
    async fn add(
        &mut self,
        channel: &impl Channel,
        fleet: &Fleet,
        (times, text, must): (usize, &str, bool),
    ) -> Result<()> {
        for _ in 0..ROUNDS {
            let company = Company::start(channel, &fleet.arrivals, Kind::Stream).await?;
            let status = timeout(LIMIT, ask(channel, times, text)).await.or(Err("a call hangs"))?;
            let whole = status.code() == TEXT_CODE && status.message().len() == times * text.len();
            if must && !whole {
                eprintln!("  {times} × {text}: {:?}, {:.200}", status.code(), status.message());
            }
            self.whole += usize::from(must && whole);
            self.failed += company.failed().await;
        }
        self.connections += fleet.accepted().saturating_sub(1);
        Ok(())
    }
}

/// Calls, and gives the status that the server answers.
async fn ask(channel: &impl Channel, times: usize, text: &str) -> Status {
    let request = HelloRequest { name: format!("{ASK_FOR_TEXT}{times} {text}") };
    let answer = GreeterClient::new(channel.clone()).say_hello(request).await;
    answer.err().unwrap_or_else(|| Status::ok("it was answered"))
}
