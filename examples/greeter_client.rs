//! A client that calls all live servers of a service and prints which of them answered.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::interval;
use tonic_etcd::{BalancedChannel, Resolver, RetryPolicy, ServedBy};

#[derive(Parser)]
struct Options {
    /// The endpoints of etcd, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The name of the service in etcd
    #[arg(long, default_value = "greeter")]
    service: String,
    /// Calls per second
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The number of calls to make; without it, the client runs until it is stopped
    #[arg(long)]
    count: Option<u64>,
    /// The deadline of each call, in seconds
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init(); // warnings of the channel
    let options = Options::parse();

    let resolver = Resolver::connect_lazy(options.etcd)?;
    let channel = BalancedChannel::builder()
        .timeout(Duration::from_secs(options.timeout)) // waiting for a server, all attempts, the whole response
        .retry(RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello")) // greeting twice does no harm
        .served_by(true) // each response names its server
        .build(&resolver.resolve(&*options.service)?)?;
    let mut greeter = GreeterClient::new(channel);

    let (mut calls, mut failed) = (0, 0);
    let (mut ticks, mut stop) = (interval(Duration::from_secs(1) / options.rate), pin!(shutdown()?));
    while options.count.is_none_or(|count| calls < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
        calls += 1;
        match greeter.say_hello(HelloRequest { name: "world".into() }).await {
            Ok(response) => {
                let server = response.extensions().get::<ServedBy>().map(|server| server.address().to_string());
                println!("ok {} {}", server.unwrap_or_default(), response.get_ref().message);
            }
            Err(status) => {
                failed += 1;
                println!("failed {:?}: {}", status.code(), status.message());
            }
        }
    }
    println!("client: calls={calls} failed={failed}");
    Ok(())
}

/// Completes at SIGINT or SIGTERM.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    })
}
