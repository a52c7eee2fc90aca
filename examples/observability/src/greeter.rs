//! A server and a client of the greeter in one process, so that it has all metrics.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::interval;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::metrics::Metrics;
use tonic_etcd::{BalancedChannel, Registrar, Resolver, RetryPolicy};

/// What the greeter is told.
#[derive(Args, Clone, Debug)]
pub struct GreeterOptions {
    /// The endpoints of etcd, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    etcd: Vec<String>,
    /// The name of the service in etcd
    #[arg(long, default_value = "greeter")]
    service: String,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The time in seconds after which etcd removes a server that was killed
    #[arg(long, default_value_t = 15)]
    ttl: u64,
    /// Calls per second that this process makes to all servers of the service; 0 makes none
    #[arg(long, default_value_t = 10)]
    rate: u32,
}

struct MyGreeter;

#[tonic::async_trait]
impl Greeter for MyGreeter {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
    }
}

/// Serves and calls until `shutdown` completes.
///
/// # Errors
/// When the address to listen on is taken, an option cannot be used, or serving fails.
pub async fn run(
    options: GreeterOptions,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Box<dyn Error>> {
    let (stop, mut stopped) = watch::channel(false);
    tokio::spawn(async move {
        shutdown.await;
        stop.send_replace(true);
    });

    // The channels of a resolver record where it does, and so does `Serve` with its registrar.
    let resolver = Resolver::builder(options.etcd.clone()).metrics(metrics.clone()).connect_lazy()?;
    let channel = BalancedChannel::builder()
        .timeout(Duration::from_secs(5))
        .retry(RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello")) // greeting twice does no harm
        .build(&resolver.resolve(&*options.service)?)?;
    let calls = tokio::spawn(call(channel, options.rate, stopped.clone()));

    let listener = TcpListener::bind(options.listen).await?;
    println!("listening on {}", listener.local_addr()?);
    let router = Server::builder().add_service(GreeterServer::new(MyGreeter));
    let registrar =
        Registrar::builder(options.etcd).metrics(metrics).ttl(Duration::from_secs(options.ttl)).connect_lazy()?;
    let shutdown = async move {
        let _ = stopped.wait_for(|is_stopped| *is_stopped).await; // an error says that the task above is gone: stop too
    };
    registrar.service(&*options.service).serve(router, listener, shutdown).await?;
    calls.await?;
    Ok(())
}

async fn call(channel: BalancedChannel, rate: u32, mut stopped: watch::Receiver<bool>) {
    let Some(pause) = Duration::from_secs(1).checked_div(rate) else { return };
    tokio::select! {
        _ = channel.wait_until_ready(Duration::MAX) => {} // where it fails, so do the calls, and say why
        _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
    }
    let mut greeter = GreeterClient::new(channel);
    let mut ticks = interval(pause);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stopped.wait_for(|is_stopped| *is_stopped) => return,
        }
        if let Err(status) = greeter.say_hello(HelloRequest { name: "world".into() }).await {
            eprintln!("failed {:?}: {}", status.code(), status.message());
        }
    }
}
