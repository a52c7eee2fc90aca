//! A greeter that is in the directory while its health service says that it serves. SIGUSR1 turns that over.
//!
//! `cargo xtask example health -- --etcd http://127.0.0.1:2379`
#![allow(clippy::doc_markdown)] // the options' doc comments are read in a terminal

use std::error::Error;
use std::net::SocketAddr;

use clap::Parser;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::Registrar;
use tonic_health::server::{HealthReporter, health_reporter};

/// A greeter whose health decides, until Ctrl-C. RUST_LOG=info shows what it does.
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
    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on {}; kill -USR1 {} turns its health over", listener.local_addr()?, std::process::id());

    let (reporter, health) = health_reporter();
    reporter.set_serving::<GreeterServer<Me>>().await;
    tokio::spawn(turn_over(reporter.clone()));
    let router = Server::builder().add_service(health).add_service(GreeterServer::new(Me));
    let registrar = Registrar::connect_lazy(options.etcd)?;
    registrar
        .service(&*options.service)
        .health(&reporter)
        .health_of::<GreeterServer<Me>>() // without it, only the health of the whole server decides
        .serve(router, listener, async { tokio::signal::ctrl_c().await.unwrap_or_default() })
        .await?;
    Ok(())
}

/// With each SIGUSR1.
async fn turn_over(reporter: HealthReporter) -> std::io::Result<()> {
    let mut turns = signal(SignalKind::user_defined1())?;
    loop {
        turns.recv().await;
        println!("NOT_SERVING");
        reporter.set_not_serving::<GreeterServer<Me>>().await;
        turns.recv().await;
        println!("SERVING");
        reporter.set_serving::<GreeterServer<Me>>().await;
    }
}

fn filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
