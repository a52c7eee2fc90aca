//! The client process: one channel, and calls through it.

pub(crate) mod channel;
mod cold;
mod first;
mod histogram;
mod load;
mod picks;
mod tally;
mod usage;

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use etcd_client::Client;
use greeter_proto::greeter_client::GreeterClient;
use tokio::time::sleep;
use tonic_etcd::Resolver;

use self::channel::{Settings, Side};
use self::load::Load;
use crate::outcome::Outcome;

/// Longer than etcd's first answer, or connecting a thousand servers, should ever take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a client process does.
#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Options {
    #[arg(long, value_delimiter = ',')]
    etcd: Vec<String>,
    #[arg(long)]
    service: String,
    #[arg(long, value_enum)]
    channel: Side,
    #[command(flatten)]
    settings: Settings,
    #[arg(long, default_value_t = 64)]
    workers: usize,
    /// SIGTERM ends it sooner.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long each worker waits between two calls.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Notes the most calls in flight at each server.
    #[arg(long)]
    watch_in_flight: bool,
    /// Takes samples of memory, tasks and file descriptors.
    #[arg(long)]
    usage: bool,
    /// Begins when so many servers are connected, and says how long that took; our channel alone can tell.
    #[arg(long)]
    connect: Option<usize>,
    /// Instead: finds out what a pick costs.
    #[arg(long)]
    picks: bool,
    /// Instead: so many times, calls while there is no server, then puts this address into etcd.
    #[arg(long, requires = "address")]
    first: Option<usize>,
    #[arg(long)]
    address: Option<String>,
    /// Keeps cache files in this folder.
    #[arg(long)]
    cache: Option<PathBuf>,
    #[arg(long, requires = "cache")]
    cache_max_age_ms: Option<u64>,
    /// Instead: waits for nothing, makes one call, and says how long its answer took from the start; our channel alone.
    #[arg(long)]
    cold: bool,
}

#[tokio::main]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let options = Options::parse_from(args);
    let resolver = options.resolver()?;
    if let (Some(times), Some(address)) = (options.first, &options.address) {
        return first(&options, &resolver, times, address).await;
    }
    let resolution = resolver.resolve(&*options.service)?;
    if options.cold {
        let greeter = GreeterClient::new(channel::ours(&resolution, &options.settings)?);
        println!("cold {}", cold::run(greeter, started).await);
        return Ok(());
    }
    resolution.ready(PATIENCE).await?;
    if options.channel == Side::Tonic {
        let greeter = GreeterClient::new(resolution.balance_channel()?);
        return say(&load::run(greeter, options.load(), None).await);
    }
    let began = Instant::now();
    let ours = channel::ours(&resolution, &options.settings)?;
    if let Some(wanted) = options.connect {
        while channel::connected(&ours) < wanted {
            if began.elapsed() > PATIENCE {
                return Err(format!("only {} of {wanted} servers are connected", channel::connected(&ours)).into());
            }
            sleep(Duration::from_millis(1)).await;
        }
        println!("connected {}", began.elapsed().as_secs_f64() * 1e3);
    }
    if options.picks {
        println!("pick {}", picks::run(ours).await?);
        return Ok(());
    }
    let in_flight = options.watch_in_flight.then(|| channel::in_flight(&ours));
    say(&load::run(GreeterClient::new(ours), options.load(), in_flight).await)
}

impl Options {
    fn resolver(&self) -> Result<Resolver, tonic_etcd::Error> {
        let mut builder = Resolver::builder(self.etcd.clone());
        if let Some(folder) = &self.cache {
            builder = builder.cache(folder);
        }
        if let Some(ms) = self.cache_max_age_ms {
            builder = builder.cache_max_age(Duration::from_millis(ms));
        }
        builder.connect_lazy()
    }

    fn load(&self) -> Load {
        Load {
            workers: self.workers,
            seconds: self.seconds,
            pause: Duration::from_millis(self.pause_ms),
            usage: self.usage,
        }
    }
}

fn say(outcome: &Outcome) -> Result<(), Box<dyn Error>> {
    println!("outcome {}", serde_json::to_string(outcome)?);
    Ok(())
}

async fn first(options: &Options, resolver: &Resolver, times: usize, address: &str) -> Result<(), Box<dyn Error>> {
    let etcd = Client::connect(&options.etcd, None).await?;
    for time in 0..times {
        let resolution = resolver.resolve(format!("{}-{time}", options.service))?;
        resolution.ready(PATIENCE).await?;
        let took = match options.channel {
            Side::Ours => {
                let greeter = GreeterClient::new(channel::ours(&resolution, &options.settings)?);
                first::run(greeter, &resolution, &etcd, address).await?
            }
            Side::Tonic => {
                let greeter = GreeterClient::new(resolution.balance_channel()?);
                first::run(greeter, &resolution, &etcd, address).await?
            }
        };
        println!("first {}", took.unwrap_or(f64::NAN));
    }
    Ok(())
}
