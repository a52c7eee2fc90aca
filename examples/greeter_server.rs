//! A greeter that registers itself in etcd, and leaves every client's hands before it stops.
//!
//! `cargo xtask example greeter_server -- --etcd http://127.0.0.1:2379 --listen 127.0.0.1:0`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{Address, Instance, Registrar};

/// How long clients get to see that the server has left, before it stops: etcd tells them within milliseconds.
const PROPAGATION: Duration = Duration::from_millis(500);
/// How long calls that are still on their way may take.
const DRAIN: Duration = Duration::from_secs(10);

/// A greeter that registers itself in etcd. RUST_LOG=info shows what it does.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
    /// Where to listen; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// The host to register, where clients do not reach the one that is listened on (0.0.0.0 in a container).
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// How many seconds etcd keeps the registration of a server that was killed.
    #[arg(long, default_value_t = 15)]
    ttl: u64,
}

struct Me {
    address: Address,
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}", request.into_inner().name);
        let mut response = Response::new(HelloReply { message });
        // Tells clients in other languages which of the servers answered.
        let me = self.address.to_string().parse().map_err(|_| Status::internal("an address is always a header"))?;
        response.metadata_mut().insert("x-served-by", me);
        Ok(response)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let options = Options::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);

    // Listen first, then register: a key in etcd is a promise that somebody answers.
    let listener = TcpListener::bind(options.listen).await?;
    let bound = listener.local_addr()?;
    let address = match options.advertise {
        Some(host) => Address::parse(&format!("{host}:{}", bound.port()))?,
        None if bound.ip().is_unspecified() => {
            return Err("--listen takes every interface: --advertise HOST says which clients reach".into());
        }
        None => Address::try_from(bound)?,
    };
    println!("listening on {address}");
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder()
        .add_service(GreeterServer::new(Me { address: address.clone() }))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async {
            drop(stopped.await);
        });
    let mut server = tokio::spawn(server);

    let registrar = Registrar::builder(options.etcd).ttl(Duration::from_secs(options.ttl)).build()?;
    let registration = registrar.register(&*options.service, Instance::new(address.clone())?).await?;
    let told = async {
        if registration.ready(Duration::MAX).await.is_ok() {
            let lease = registration.lease_id().unwrap_or_default();
            println!("registered {}/{address}, lease {lease:x}", options.service);
        }
        std::future::pending::<()>().await;
    };
    let died = tokio::select! {
        () = told => None,
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        // A server that has ended by itself answers nobody: it leaves as well.
        ended = &mut server => Some(ended),
    };

    // Leave the directory, let the clients see it, then answer what is still on its way and stop.
    let was_there = registration.is_registered();
    match registration.deregister().await {
        Ok(()) => println!("{}", if was_there { "deregistered" } else { "was not registered" }),
        Err(error) => eprintln!("{error}; the lease will end by itself"),
    }
    if let Some(ended) = died {
        return Ok(ended??);
    }
    tokio::time::sleep(PROPAGATION).await;
    drop(stop);
    match timeout(DRAIN, server).await {
        Ok(ended) => ended??,
        Err(_) => eprintln!("calls were still on their way after {} s", DRAIN.as_secs()),
    }
    println!("stopped");
    Ok(())
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
