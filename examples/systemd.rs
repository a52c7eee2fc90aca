//! A greeter whose listeners are systemd's (socket activation), TCP and Unix sockets alike. SIGTERM makes it drain; a second
//! one ends it at once.
//!
//! `systemd-socket-activate -l 127.0.0.1:50051 -l /run/greeter.sock target/debug/examples/systemd --etcd http://127.0.0.1:2379`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::time::Duration;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::{Registrar, ServeControl};

/// A greeter on listeners that it is given. RUST_LOG=info shows what it does.
#[derive(Parser)]
struct Options {
    /// etcd's endpoints, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The service's name in etcd.
    #[arg(long, default_value = "greeter")]
    service: String,
}

struct Me;

#[tonic::async_trait]
impl Greeter for Me {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let name = request.into_inner().name;
        if name == "patience" {
            println!("waiting");
            std::future::pending::<()>().await;
        }
        Ok(Response::new(HelloReply { message: format!("Hello {name}") }))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log).init();
    let options = Options::parse();
    let terminate = signal(SignalKind::terminate())?;
    let registrar = Registrar::connect_lazy(options.etcd)?;

    // One `Serve` for each listener; what they register shares the registrar's lease.
    let (mut passed, mut servers, mut controls) = (ListenFd::from_env(), JoinSet::new(), Vec::new());
    for at in 0..passed.len() {
        let serve = registrar.service(&*options.service).propagation_delay(Duration::from_millis(200));
        controls.push(serve.control());
        let router = Server::builder().add_service(GreeterServer::new(Me));
        let never = std::future::pending();
        if let Ok(Some(listener)) = passed.take_tcp_listener(at) {
            listener.set_nonblocking(true)?;
            servers.spawn(serve.serve(router, TcpListener::from_std(listener)?, never));
        } else if let Some(listener) = passed.take_unix_listener(at)? {
            listener.set_nonblocking(true)?;
            servers.spawn(serve.serve(router, UnixListener::from_std(listener)?, never));
        }
    }
    if controls.is_empty() {
        return Err("no listener was passed: start it with systemd-socket-activate".into());
    }
    for control in &controls {
        control.ready(Duration::MAX).await?;
    }
    println!("registered {}", controls.len());

    tokio::spawn(on_terminate(terminate, controls));
    while let Some(ended) = servers.join_next().await {
        ended??;
    }
    println!("stopped");
    Ok(())
}

/// The first signal drains; at the second nothing is waited for any more.
async fn on_terminate(mut terminate: Signal, controls: Vec<ServeControl>) {
    terminate.recv().await;
    println!("draining");
    controls.iter().for_each(ServeControl::stop);
    terminate.recv().await;
    println!("ending at once");
    std::process::exit(1);
}
