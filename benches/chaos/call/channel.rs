//! The two channels that are compared, as a generated client uses them.

use std::future::Future;
use std::time::Duration;

use clap::{Args, ValueEnum};
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{HelloReply, HelloRequest};
use tonic::transport::Channel;
use tonic::{Response, Status};
use tonic_etcd::policy::{LeastRequest, PeakEwma, PickFirst, RoundRobin};
use tonic_etcd::{BalancedChannel, Error, KeepAlive, OutlierDetection, Resolution, RetryPolicy, ServerState};

/// How many calls are in flight at each server now.
pub(crate) type InFlight = Box<dyn Fn() -> Vec<(String, usize)> + Send>;

/// Whose channel makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    Ours,
    Tonic,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Tonic => "tonic",
        }
    }
}

/// How our channel is built; tonic's has no such choices.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    #[arg(long, value_enum, default_value = "least-request")]
    policy: PolicyName,
    /// Declares the greeter's method repeatable.
    #[arg(long)]
    repeatable: bool,
    /// Interval and timeout of keep-alive, each.
    #[arg(long)]
    keep_alive_ms: Option<u64>,
    /// The deadline of each call.
    #[arg(long)]
    timeout_ms: Option<u64>,
    #[arg(long)]
    ejection: bool,
    #[arg(long)]
    wait_for_ready: bool,
    /// Where the client is.
    #[arg(long)]
    zone: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyName {
    LeastRequest,
    PeakEwma,
    PickFirst,
    RoundRobin,
}

/// A generated client over either channel.
pub(crate) trait Greet: Clone + Send + 'static {
    fn greet(&mut self, request: HelloRequest) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send;
}

impl Greet for GreeterClient<Channel> {
    fn greet(&mut self, request: HelloRequest) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send {
        self.say_hello(request)
    }
}

impl Greet for GreeterClient<BalancedChannel> {
    fn greet(&mut self, request: HelloRequest) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send {
        self.say_hello(request)
    }
}

pub(crate) fn ours(resolution: &Resolution, settings: &Settings) -> Result<BalancedChannel, Error> {
    let builder = BalancedChannel::builder().wait_for_ready(settings.wait_for_ready);
    let mut builder = match settings.policy {
        PolicyName::LeastRequest => builder.policy(LeastRequest::new()),
        PolicyName::PeakEwma => builder.policy(PeakEwma::new()),
        PolicyName::PickFirst => builder.policy(PickFirst::new()),
        PolicyName::RoundRobin => builder.policy(RoundRobin::new()),
    };
    if settings.repeatable {
        builder = builder.retry(RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello"));
    }
    if let Some(ms) = settings.keep_alive_ms {
        let each = Duration::from_millis(ms);
        builder = builder.keep_alive(KeepAlive::new(each, each));
    }
    if let Some(ms) = settings.timeout_ms {
        builder = builder.timeout(Duration::from_millis(ms));
    }
    if let Some(zone) = &settings.zone {
        builder = builder.zone(zone);
    }
    if settings.ejection {
        builder = builder.outlier_detection(OutlierDetection::default());
    }
    builder.build(resolution)
}

/// How many calls are in flight at each server now.
pub(crate) fn in_flight(channel: &BalancedChannel) -> InFlight {
    let channel = channel.clone();
    Box::new(move || {
        let servers = channel.servers();
        servers.iter().map(|server| (server.address().to_string(), server.in_flight())).collect()
    })
}

/// How many servers are connected.
pub(crate) fn connected(channel: &BalancedChannel) -> usize {
    channel.servers().iter().filter(|server| server.state() == ServerState::Ready).count()
}
