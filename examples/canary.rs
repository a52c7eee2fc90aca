//! Canaries by route: calls with a route go to the servers of a lane, and all others to the servers without one.
//!
//! `cargo xtask example canary -- --etcd http://127.0.0.1:2379`
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
use tonic_etcd::{BalancedChannel, Instance, Registrar, Resolver, Route};

/// Starts three servers, one of them in a lane of its own, and calls them with a route and without.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "canary-greeter")]
    service: String,
    /// How many calls to make with the route, and how many without.
    #[arg(long, default_value_t = 20)]
    count: usize,
}

/// A greeter that says which server it is.
struct Named(String);

#[tonic::async_trait]
impl Greeter for Named {
    async fn say_hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: self.0.clone() }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let options = Options::parse();

    // Two servers without a lane, and the canary.
    let registrar = Registrar::connect_lazy(options.etcd.clone())?;
    let mut registrations = Vec::new();
    for (name, lane) in [("stable-1", None), ("stable-2", None), ("canary", Some("blue"))] {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
        let instance = Instance::new(incoming.local_addr()?)?;
        let instance = match lane {
            Some(lane) => instance.with_metadata("lane", lane), // a server under `Serve` says so in `Serve::describe`
            None => instance,
        };
        let server = Server::builder().add_service(GreeterServer::new(Named(name.to_owned())));
        tokio::spawn(server.serve_with_incoming(incoming));
        let registration = registrar.register(&*options.service, instance)?;
        registration.ready(Duration::from_secs(5)).await?;
        registrations.push(registration); // a registration that is dropped leaves etcd
    }

    let resolution = Resolver::connect_lazy(options.etcd)?.resolve(&*options.service)?;
    resolution.ready(Duration::from_secs(5)).await?;
    let channel = BalancedChannel::builder()
        .timeout(Duration::from_secs(5))
        .route_key("lane") // the servers are partitioned by their metadata of this name
        .build(&resolution)?;
    let mut greeter = GreeterClient::new(channel);

    // Strict without `or_default`: such calls fail while the canary is down.
    let blue = Route::to("lane", "blue").or_default();
    for (what, route) in [("without a route", None), ("with the route lane=blue", Some(blue))] {
        let mut calls = BTreeMap::<String, usize>::new();
        for _ in 0..options.count {
            let mut request = Request::new(HelloRequest { name: "world".into() });
            if let Some(route) = &route {
                request.extensions_mut().insert(route.clone());
            }
            *calls.entry(greeter.say_hello(request).await?.into_inner().message).or_default() += 1;
        }
        println!("{what}: {calls:?}");
    }
    registrar.close(Duration::from_secs(5)).await?;
    Ok(())
}
