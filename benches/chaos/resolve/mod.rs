//! A process that resolves services, and says each change and each logged event.
//!
//! Its lines: `resolved` once; `snapshot MICROSECONDS ADDRESS,…` for each return of `Resolution::changed()`; `event LEVEL …`;
//! with many services, `all MICROSECONDS` when each of them has an instance.

mod events;

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use tokio::task::JoinSet;
use tonic_etcd::{EtcdOptions, Instance, Resolution, Resolver, Snapshot};

use crate::clock::unix_us;

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Options {
    #[arg(long, value_delimiter = ',')]
    etcd: Vec<String>,
    /// Name and password, with a colon between.
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    service: String,
    /// So many services instead, each named by the service's name and a number from 0.
    #[arg(long)]
    many: Option<usize>,
}

/// Runs until it is killed.
#[tokio::main]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    events::tell();
    let mut etcd = EtcdOptions::new(&options.etcd);
    if let Some((name, password)) = options.user.as_deref().and_then(|user| user.split_once(':')) {
        etcd = etcd.user(name, password);
    }
    let resolver = Resolver::connect_lazy(etcd)?;
    match options.many {
        None => one(resolver.resolve(&*options.service)?).await,
        Some(count) => many(&resolver, &options.service, count).await,
    }
}

async fn one(mut resolution: Resolution) -> Result<(), Box<dyn Error>> {
    let first = resolution.ready(PATIENCE).await?;
    println!("resolved");
    say(&first);
    loop {
        say(&*resolution.changed().await?);
    }
}

fn say(snapshot: &Snapshot) {
    let at = unix_us();
    let mut addresses: Vec<_> = snapshot.instances().flat_map(Instance::addresses).map(ToString::to_string).collect();
    addresses.sort();
    println!("snapshot {at} {}", addresses.join(","));
}

async fn many(resolver: &Resolver, service: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let mut resolutions = Vec::new();
    for number in 0..count {
        resolutions.push(resolver.resolve(format!("{service}{number}"))?);
    }
    println!("started");
    let mut seeing = JoinSet::new();
    for resolution in &resolutions {
        let mut resolution = resolution.clone();
        seeing.spawn(async move {
            while resolution.snapshot().is_empty() {
                resolution.changed().await?;
            }
            Ok::<_, tonic_etcd::Error>(())
        });
    }
    while let Some(seen) = seeing.join_next().await {
        seen??;
    }
    println!("all {}", unix_us());
    std::future::pending::<()>().await;
    drop(resolutions);
    Ok(())
}
