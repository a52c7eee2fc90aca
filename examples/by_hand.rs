//! The server's order without `Serve`: for a server that has a life of its own already.
//!
//! `cargo xtask example by_hand -- --etcd http://127.0.0.1:2379`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{Instance, Registrar};

/// How long leaving the directory may take: etcd may be away.
const LEAVE: Duration = Duration::from_secs(5);
/// How long clients get to see that the server has left, before it stops: etcd tells them within milliseconds.
const PROPAGATION: Duration = Duration::from_secs(1);
/// How long calls that are still on their way may take.
const DRAIN: Duration = Duration::from_secs(20);

/// A greeter that registers itself by hand, until Ctrl-C. RUST_LOG=info shows what it does.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
    /// Where to listen, and what to register: an address that clients reach.
    #[arg(long, default_value = "127.0.0.1:50051")]
    listen: SocketAddr,
}

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter()).init();
    let options = Options::parse();

    // Listen first: a key in etcd is a promise that somebody answers. tonic leaves TCP_NODELAY off where it is handed a
    // listener.
    let incoming = TcpIncoming::bind(options.listen)?.with_nodelay(Some(true));
    let address = incoming.local_addr()?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = Server::builder().add_service(GreeterServer::new(Me));
    let mut server = tokio::spawn(server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }));

    // Registered from here on, for as long as the handle is held, and the runtime lives.
    let registrar = Registrar::connect_lazy(options.etcd)?;
    let _registration = registrar.register(&*options.service, Instance::new(address)?)?;
    println!("listening on {address}, and registering as {}", options.service);
    let died = tokio::select! {
        signal = tokio::signal::ctrl_c() => { signal?; None }
        // A server that has ended by itself answers nobody: it leaves as well.
        ended = &mut server => Some(ended),
    };

    // Leave the directory, let the clients see it, then answer what is still on its way and stop.
    // Closing takes everything out that the registrar has registered; `Registration::deregister` is for one.
    if let Err(error) = registrar.close(LEAVE).await {
        eprintln!("{error:?}; the lease will end by itself");
    }
    if let Some(ended) = died {
        return Ok(ended??);
    }
    sleep(PROPAGATION).await;
    drop(stop);
    match timeout(DRAIN, server).await {
        Ok(ended) => ended??,
        Err(_) => eprintln!("calls were still on their way after {} s", DRAIN.as_secs()),
    }
    Ok(())
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
