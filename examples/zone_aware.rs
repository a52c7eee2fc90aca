//! A policy of one's own: servers of one's own zone first, and the others when those are busy.
//!
//! `cargo xtask example zone_aware -- --etcd http://127.0.0.1:2379 --zone eu-1a`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::Request;
use tonic_etcd::{BalancedChannel, Call, Picker, Policy, ReadyServer, Resolver, ServedBy};

/// Greets the servers of a zone, and those of others when they are busy.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
    /// The zone that this client stands in.
    #[arg(long)]
    zone: String,
    /// How many calls to make.
    #[arg(long, default_value_t = 10)]
    count: usize,
}

/// Least loaded of the own zone, unless each of them has more calls in flight than `busy`.
struct ZoneAware {
    zone: String,
    busy: u64,
    /// Where to begin, so that servers with equal load take turns.
    next: AtomicUsize,
}

impl Picker for ZoneAware {
    fn pick(&self, _: &Call<'_>, servers: &[ReadyServer]) -> usize {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let least = |own_zone_alone: bool| {
            (0..servers.len())
                .map(|index| (start.wrapping_add(index)) % servers.len())
                .filter(|index| !own_zone_alone || servers[*index].instance().zone() == Some(&self.zone))
                .min_by_key(|index| servers[*index].load())
        };
        let near = least(true).filter(|index| servers[*index].load() <= self.busy);
        near.or_else(|| least(false)).unwrap_or(0)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();
    let resolution = Resolver::connect_lazy(options.etcd)?.resolve(&*options.service)?;
    let policy = ZoneAware { zone: options.zone, busy: 32, next: AtomicUsize::new(0) };
    let channel = BalancedChannel::builder().policy(Policy::custom(policy)).build(&resolution)?;
    let mut greeter = GreeterClient::new(channel.clone());
    for _ in 0..options.count {
        let mut request = Request::new(HelloRequest { name: "neighbour".into() });
        request.set_timeout(Duration::from_secs(5));
        let answer = greeter.say_hello(request).await?;
        let by = answer.extensions().get::<ServedBy>().map(|server| server.address().to_string());
        println!("{}: {}", by.unwrap_or_default(), answer.get_ref().message);
    }
    for server in channel.servers() {
        println!(
            "{}: {:?}, {} calls, latency {:?}",
            server.address(),
            server.state(),
            server.calls(),
            server.latency()
        );
    }
    Ok(())
}
