//! Zones: calls stay with the servers of the client's zone while those have room, and leave when it is gone.
//!
//! `cargo xtask example zones -- --etcd http://127.0.0.1:2379`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, Instance, Registrar, Registration, Resolver};

/// Starts four servers in two zones, calls them from one of these, and takes that zone away.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "zones-greeter")]
    service: String,
    /// How many calls to make in each of the three parts.
    #[arg(long, default_value_t = 20)]
    count: usize,
}

/// A greeter that says in which zone it is.
struct Named(&'static str);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: self.0.into() }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let registrar = Registrar::connect(options.etcd.clone()).await?;
    let mut home = Vec::new();
    let mut away = Vec::new();
    for (zone, registrations) in [("eu-1a", &mut home), ("eu-1b", &mut away)] {
        for _ in 0..2 {
            registrations.push(serve(&registrar, &options.service, zone).await?);
        }
    }
    let resolver = Resolver::connect(options.etcd).await?;
    let channel = BalancedChannel::builder().zone("eu-1a").build(&resolver.resolve(options.service.as_str())?)?;
    channel.wait_until_ready(Duration::from_secs(5)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await; // until all are connected, those of the own zone too
    println!("a client in eu-1a: {:?}", call(&channel, options.count).await?);
    for registration in home {
        registration.deregister().await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await; // until the client has seen it
    println!("without servers in eu-1a: {:?}", call(&channel, options.count).await?);
    let _back = serve(&registrar, &options.service, "eu-1a").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("with one again: {:?}", call(&channel, options.count).await?);
    registrar.close(Duration::from_secs(5)).await?;
    Ok(())
}

/// Serves in the background, registered in this zone.
async fn serve(registrar: &Registrar, service: &str, zone: &'static str) -> Result<Registration, Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let instance = Instance::new(incoming.local_addr()?)?.with_zone(zone);
    tokio::spawn(Server::builder().add_service(GreeterServer::new(Named(zone))).serve_with_incoming(incoming));
    let registration = registrar.register(service, instance)?;
    registration.ready(Duration::from_secs(5)).await?;
    Ok(registration)
}

/// Counts who has answered.
async fn call(channel: &BalancedChannel, count: usize) -> Result<BTreeMap<String, usize>, Status> {
    let mut greeter = GreeterClient::new(channel.clone());
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let reply = greeter.say_hello(HelloRequest { name: "world".into() }).await?;
        *answers.entry(reply.into_inner().message).or_default() += 1;
    }
    Ok(answers)
}
