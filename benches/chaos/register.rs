//! A process of registrars alone: one with many registrations, or many of them.

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use etcd_client::Client;
use tonic_etcd::{Instance, RegistrarBuilder, Registration};

/// Longer than any number of registrations should ever take.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Options {
    #[arg(long)]
    etcd: String,
    #[arg(long, default_value_t = 1)]
    registrars: usize,
    /// Of each registrar.
    #[arg(long, default_value_t = 1)]
    registrations: usize,
    /// How many registrars share a connection to etcd.
    #[arg(long, default_value_t = 1)]
    share: usize,
    #[arg(long, default_value_t = 15)]
    ttl: u64,
}

/// Registers, says so, and stays until it is killed.
#[tokio::main]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let mut registrations = Vec::new();
    let mut client = None;
    for number in 0..options.registrars {
        let client = match client.take().filter(|_| !number.is_multiple_of(options.share)) {
            Some(known) => client.insert(known),
            None => client.insert(Client::connect([&options.etcd], None).await?),
        };
        let builder = RegistrarBuilder::from_client(client.clone());
        let registrar = builder.ttl(Duration::from_secs(options.ttl)).connect_lazy()?;
        for port in 1..=options.registrations {
            registrations.push(registrar.register("many", Instance::new(format!("h{number}:{port}"))?)?);
        }
    }
    for registration in &registrations {
        registration.ready(PATIENCE).await?;
    }
    println!("registered {}", registrations.len());
    stay(registrations).await
}

async fn stay(registrations: Vec<Registration>) -> Result<(), Box<dyn Error>> {
    std::future::pending::<()>().await;
    drop(registrations);
    Ok(())
}
