//! Sticky sessions: the calls of one user go to one server, and only those of a server that is gone move (consistent hash).
//!
//! `cargo xtask example sticky -- --etcd http://127.0.0.1:2379`
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
use tonic_etcd::policy::ConsistentHash;
use tonic_etcd::{BalancedChannel, Instance, Registrar, Resolver};

/// Starts three servers, calls them for some users, and takes one server away.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "sticky-greeter")]
    service: String,
    /// How many users there are.
    #[arg(long, default_value_t = 9)]
    users: usize,
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
    let options = Options::parse();
    let registrar = Registrar::connect(options.etcd.clone()).await?;
    let mut registrations = Vec::new();
    for name in ["one", "two", "three"] {
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
        // With an id a server keeps its users when it comes back at another address.
        let instance = Instance::new(incoming.local_addr()?)?.with_id(name);
        tokio::spawn(
            Server::builder().add_service(GreeterServer::new(Named(name.into()))).serve_with_incoming(incoming),
        );
        let registration = registrar.register(options.service.as_str(), instance)?;
        registration.ready(Duration::from_secs(5)).await?;
        registrations.push(registration);
    }
    let resolver = Resolver::connect(options.etcd).await?;
    let policy = ConsistentHash::by_header("x-user")?;
    let channel = BalancedChannel::builder().policy(policy).build(&resolver.resolve(options.service.as_str())?)?;
    channel.wait_until_ready(Duration::from_secs(5)).await?;
    tokio::time::sleep(Duration::from_millis(300)).await; // until all are connected
    println!("users by server: {:?}", users(&channel, options.users).await?);
    println!("once more:       {:?}", users(&channel, options.users).await?);
    if let Some(three) = registrations.pop() {
        three.deregister().await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("without three:   {:?}", users(&channel, options.users).await?);
    registrar.close(Duration::from_secs(5)).await?;
    Ok(())
}

/// Which server answers whom.
async fn users(channel: &BalancedChannel, count: usize) -> Result<BTreeMap<String, Vec<usize>>, Box<dyn Error>> {
    let mut greeter = GreeterClient::new(channel.clone());
    let mut users: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for user in 0..count {
        let mut request = Request::new(HelloRequest { name: "world".into() });
        request.metadata_mut().insert("x-user", user.to_string().parse()?);
        users.entry(greeter.say_hello(request).await?.into_inner().message).or_default().push(user);
    }
    Ok(users)
}
