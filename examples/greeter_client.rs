//! A client that greets all live servers of a service, and shows which of them answered.
//!
//! `cargo xtask example greeter_client -- --etcd http://127.0.0.1:2379 --rate 10 --count 100`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use clap::Parser;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Request, Response};
use tonic_etcd::{BalancedChannel, Resolver, RetryPolicy, ServedBy};

/// A client that greets all live servers of a service. RUST_LOG=info shows what it sees.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
    /// Whom to greet.
    #[arg(long, default_value = "world")]
    name: String,
    /// Calls per second.
    #[arg(long, default_value_t = 1.0, value_parser = rate)]
    rate: f64,
    /// How many calls to make; without it, until it is told to stop.
    #[arg(long)]
    count: Option<u64>,
    /// How long a call may take, in seconds.
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.001 to 1000000".into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let options = Options::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut stop = pin!(async {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    });

    let resolver = Resolver::connect_lazy(options.etcd)?;
    let resolution = resolver.resolve(&*options.service)?;
    // Greeting twice does no harm: a call whose server dies half-way may be made again on another.
    let retry = RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello");
    let mut greeter = GreeterClient::new(BalancedChannel::builder().retry(retry).build(&resolution)?);

    let (mut calls, mut failed) = (0, 0);
    let mut ticks = interval(Duration::from_secs_f64(1.0 / options.rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while options.count.is_none_or(|count| calls < count) {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => break,
        }
        // Covers everything: waiting for a server, all attempts, and what the server is told.
        let mut request = Request::new(HelloRequest { name: options.name.clone() });
        request.set_timeout(Duration::from_secs(options.timeout));
        let answer = tokio::select! {
            answer = greeter.say_hello(request) => answer,
            () = &mut stop => break,
        };
        calls += 1;
        match answer {
            Ok(response) => println!("ok {} {}", served_by(&response), response.get_ref().message),
            Err(status) => {
                failed += 1;
                println!("failed {:?}: {}", status.code(), status.message());
            }
        }
    }
    println!("client: calls={calls} failed={failed}");
    Ok(())
}

fn served_by<T>(response: &Response<T>) -> String {
    response.extensions().get::<ServedBy>().map_or_else(|| "unknown".into(), |server| server.address().to_string())
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
