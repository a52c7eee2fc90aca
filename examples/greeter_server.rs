//! A server that registers itself in etcd and leaves the directory before it stops.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::{Instance, Registrar, ServeControl, ServeState};

#[derive(Parser)]
struct Options {
    /// The endpoints of etcd, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The name of the service in etcd
    #[arg(long, default_value = "greeter")]
    service: String,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
    /// The address that clients call, where it is not the one to listen on: a host, or host and port
    #[arg(long)]
    advertise: Option<String>,
    /// The time in seconds after which etcd removes a server that was killed
    #[arg(long, default_value_t = 15)]
    ttl: u64,
}

struct MyGreeter {
    address: AsciiMetadataValue,
}

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let message = format!("Hello {}", request.into_inner().name);
        let mut response = Response::new(HelloReply { message });
        response.metadata_mut().insert("x-served-by", self.address.clone()); // for clients in other languages
        Ok(response)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init(); // what the registrar does
    let options = Options::parse();
    let shutdown = shutdown()?;

    let listener = TcpListener::bind(options.listen).await?;
    let address = listener.local_addr()?;
    println!("listening on {address}");
    let greeter = MyGreeter { address: address.to_string().parse()? };
    let router = Server::builder().add_service(GreeterServer::new(greeter));

    let registrar = Registrar::builder(options.etcd).ttl(Duration::from_secs(options.ttl)).connect_lazy()?;
    let mut service = registrar.service(&*options.service);
    if let Some(address) = options.advertise {
        service = service.advertise(address);
    }
    let states = tokio::spawn(print_states(service.control(), options.service));
    // Serves and registers. At the signal: deregisters, waits 1 s, finishes the calls in flight.
    service.serve(router, listener, shutdown).await?;
    states.await?;
    println!("stopped");
    Ok(())
}

async fn print_states(control: ServeControl, service: String) {
    let mut states = control.states();
    let mut is_registered = false;
    while let Some(state) = states.next().await {
        match state {
            ServeState::Serving => {
                is_registered = control.ready(Duration::MAX).await.is_ok();
                let instance = control.instance().filter(|_| is_registered);
                for address in instance.iter().flat_map(Instance::addresses) {
                    println!("registered {service}/{address}");
                }
            }
            ServeState::Draining { why: None, .. } if is_registered => println!("deregistered"),
            ServeState::Starting { why: Some(error), .. } | ServeState::Draining { why: Some(error), .. } => {
                eprintln!("{error}");
            }
            _ => {}
        }
    }
}

/// Completes at SIGINT or SIGTERM.
fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
    })
}
