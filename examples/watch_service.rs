//! Shows what a service resolves to, and every change of it, as it happens.
//!
//! `cargo xtask example watch_service -- --etcd http://127.0.0.1:2379 --service greeter`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;

use clap::Parser;
use tonic_etcd::{Instance, ResolutionState, Resolver, Target};

/// Shows what a service resolves to, and every change of it.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
    /// Also read the key that is the name itself.
    #[arg(long)]
    name_key: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let options = Options::parse();
    let target = Target::parse(&options.service)?.with_name_key(options.name_key);
    let mut resolution = Resolver::connect_lazy(options.etcd)?.resolve(target)?;
    loop {
        let snapshot = resolution.changed().await?;
        let state = match resolution.state() {
            ResolutionState::Stale { .. } => "stale",
            ResolutionState::Cached { .. } => "cached",
            ResolutionState::ConfirmedEmpty => "empty",
            ResolutionState::Current => "current",
            _ => "unresolved",
        };
        let addresses = snapshot.instances().flat_map(Instance::addresses);
        let servers: Vec<String> = addresses.map(ToString::to_string).collect();
        println!("{state} revision={} servers={}", snapshot.revision(), servers.join(","));
        for entry in snapshot.entries() {
            if let Some(error) = entry.error() {
                println!("unreadable {}: {error}", String::from_utf8_lossy(entry.key()));
            }
        }
        if let Some(error) = resolution.last_error() {
            println!("last error: {error}");
        }
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
