//! Spans of calls and attempts in OpenTelemetry, and the trace context on its way to the server.
//!
//! `cargo xtask example opentelemetry` makes one call, which is tried twice, and prints its spans. No etcd is needed: a
//! fixed list names the server. With etcd only the channel is made in another way (`Resolver::channel`).

mod propagation;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::{Greeter, GreeterServer};
use greeter_proto::{HelloReply, HelloRequest};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_etcd::{BalancedChannel, Instance, RetryPolicy};
use tower::discover::Change;
use tracing::level_filters::LevelFilter;
use tracing::{Instrument as _, Subscriber, info_span};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// A greeter that refuses its first call.
#[derive(Default)]
struct Busy(AtomicBool);

#[tonic::async_trait]
impl Greeter for Busy {
    async fn say_hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let span = info_span!("serve", otel.name = "Recv.helloworld.Greeter.SayHello", otel.kind = "server");
        propagation::continue_trace(&span, request.metadata());
        span.in_scope(|| {
            if self.0.swap(true, Ordering::Relaxed) {
                Ok(Response::new(HelloReply { message: format!("Hello {}", request.into_inner().name) }))
            } else {
                Err(Status::unavailable("busy"))
            }
        })
    }
}

/// What the program sends to OpenTelemetry: its own spans, and those of calls and attempts.
fn traced(provider: &SdkTracerProvider) -> impl Subscriber + Send + Sync {
    let wanted = Targets::new()
        .with_target(env!("CARGO_CRATE_NAME"), LevelFilter::INFO)
        .with_target("tonic_etcd::call", LevelFilter::DEBUG);
    let to_opentelemetry = tracing_opentelemetry::layer().with_tracer(provider.tracer("greeter"));
    tracing_subscriber::registry().with(to_opentelemetry.with_filter(wanted))
}

fn provider(exporter: impl SpanExporter + 'static) -> SdkTracerProvider {
    SdkTracerProvider::builder().with_simple_exporter(exporter).build()
}

/// Serves in the background.
fn serve() -> Result<SocketAddr, Box<dyn Error>> {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = incoming.local_addr()?;
    let server = Server::builder().add_service(GreeterServer::new(Busy::default()));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

/// Makes a call that its first server refuses.
async fn greet(server: SocketAddr) -> Result<String, Box<dyn Error>> {
    let servers = tokio_stream::iter([Ok::<_, Infallible>(Change::Insert(server, Instance::new(server)?))]);
    let retry = RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello");
    let channel = BalancedChannel::builder().retry(retry).build_with_discovery("greeter", servers)?;
    let mut greeter = GreeterClient::with_interceptor(channel, propagation::send_trace);
    let request = HelloRequest { name: "world".into() };
    Ok(greeter.say_hello(request).instrument(info_span!("order")).await?.into_inner().message)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let provider = provider(opentelemetry_stdout::SpanExporter::default());
    traced(&provider).init();
    println!("{}", greet(serve()?).await?);
    provider.shutdown()?; // exports what is left
    Ok(())
}
