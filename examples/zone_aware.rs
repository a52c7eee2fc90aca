//! A policy of one's own: servers of one's own zone first, and the others when those are busy. The channel can do that by itself
//! (`BalancedChannelBuilder::zone`, see the example `zones`): this one shows how a policy is written.
//!
//! `cargo xtask example zone_aware -- --etcd http://127.0.0.1:2379 --zone eu-1a`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Parser;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::Request;
use tonic_etcd::policy::{Call, Pick, Picker, ReadySet};
use tonic_etcd::{BalancedChannel, Policy, Resolver, ServedBy};

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

/// The least loaded server of the own zone, unless each of them has more calls in flight than `busy`.
#[derive(Debug)]
struct ZoneAware {
    zone: String,
    busy: u64,
}

/// Picks from one set of servers.
struct ZoneAwarePicker {
    set: ReadySet,
    /// The indexes of the servers in the own zone.
    near: Vec<usize>,
    busy: u64,
    /// Where to begin, so that servers with equal load take turns.
    next: AtomicUsize,
}

impl Policy for ZoneAware {
    fn picker(&self, set: &ReadySet) -> Arc<dyn Picker> {
        let is_near = |server: &usize| set.servers()[*server].instance().zone() == Some(&self.zone);
        let near = (0..set.len()).filter(is_near).collect();
        Arc::new(ZoneAwarePicker { set: set.clone(), near, busy: self.busy, next: AtomicUsize::new(0) })
    }
}

impl Picker for ZoneAwarePicker {
    fn pick(&self, call: &Call<'_>) -> Pick {
        let load = |server: usize| self.set.servers()[server].load();
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = |count: usize| (0..count).map(move |step| start.wrapping_add(step) % count);
        let near = in_turn(self.near.len()).map(|at| self.near[at]).filter(|server| call.is_available(*server));
        let near = near.min_by_key(|server| load(*server)).filter(|server| load(*server) <= self.busy);
        let any = || in_turn(self.set.len()).min_by_key(|server| load(*server));
        near.or_else(any).map_or(Pick::Wait, Pick::Server)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();
    let resolution = Resolver::connect_lazy(options.etcd)?.resolve(&*options.service)?;
    let policy = ZoneAware { zone: options.zone, busy: 32 };
    let channel = BalancedChannel::builder().policy(policy).served_by(true).build(&resolution)?;
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
            "{}: {:?}, {} attempts, latency {:?}",
            server.address(),
            server.state(),
            server.attempts(),
            server.latency()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_etcd::Instance;
    use tonic_etcd::testing::{TestCall, TestServer, ready_set};

    #[test]
    fn the_own_zone_is_first_until_it_is_busy() {
        let server = |zone, load| TestServer::new(Instance::new("h:1").unwrap().with_zone(zone)).with_load(load);
        let policy = ZoneAware { zone: "near".into(), busy: 32 };
        let picked =
            |servers: [TestServer; 3], call: TestCall| match policy.picker(&ready_set(servers)).pick(&call.call()) {
                Pick::Server(server) => server,
                other => panic!("{other:?}"),
            };
        let call = || TestCall::new("/helloworld.Greeter/SayHello");
        assert_eq!(picked([server("far", 0), server("near", 32), server("near", 33)], call()), 1);
        assert_eq!(picked([server("far", 0), server("near", 33), server("near", 33)], call()), 0);
        assert_eq!(picked([server("far", 9), server("near", 1), server("near", 2)], call().without_server(1)), 2);
    }
}
