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
use tokio_stream::StreamExt;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::{Registrar, ServeControl, ServeState};

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
    /// What clients reach, where it is not what is listened on: a host, or host and port. TONIC_ETCD_ADVERTISE does the
    /// same. Where every interface is listened on (0.0.0.0) it is by default the one that reaches etcd.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// How many calls it is to get, relative to the service's other servers.
    #[arg(long)]
    weight: Option<u32>,
    /// How many seconds etcd keeps the registration of a server that was killed.
    #[arg(long, default_value_t = 15)]
    ttl: u64,
}

struct Me {
    address: MetadataValue<Ascii>,
}

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}", request.into_inner().name);
        let mut response = Response::new(HelloReply { message });
        // Tells clients in other languages which of the servers answered.
        response.metadata_mut().insert("x-served-by", self.address.clone());
        Ok(response)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let options = Options::parse();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let shutdown = async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    };

    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    println!("listening on {address}");
    let router = Server::builder().add_service(GreeterServer::new(Me { address: address.to_string().parse()? }));

    let registrar = Registrar::builder(options.etcd).ttl(Duration::from_secs(options.ttl)).connect_lazy()?;
    let mut service = registrar.service(&*options.service);
    if let Some(advertise) = options.advertise {
        service = service.advertise(advertise);
    }
    if let Some(weight) = options.weight {
        service = service.describe(move |instance| instance.with_weight(weight));
    }
    let telling = tokio::spawn(tell(service.control(), registrar, options.service));
    // Registers once it serves; at the end leaves the directory, lets the clients see it, answers what is on its way.
    service.serve(router, listener, shutdown).await?;
    telling.await?;
    println!("stopped");
    Ok(())
}

/// Tells on stdout what becomes of it.
async fn tell(control: ServeControl, registrar: Registrar, service: String) {
    let mut states = control.states();
    while let Some(state) = states.next().await {
        match state {
            ServeState::Starting { why: Some(why), .. } => eprintln!("not ready: {why:?}"),
            ServeState::Serving if control.ready(Duration::MAX).await.is_ok() => {
                let addresses = control.instance().map(|instance| instance.addresses().to_vec()).unwrap_or_default();
                for address in addresses {
                    println!("registered {service}/{address}, lease {:x}", registrar.lease_id().unwrap_or_default());
                }
            }
            ServeState::Draining { why: None, .. } => println!("deregistered"),
            ServeState::Draining { why: Some(why), .. } => eprintln!("not deregistered: {why:?}"),
            _ => {}
        }
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
