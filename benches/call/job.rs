//! What a client process is told to do, and what it answers: JSON on its command line and on its stdout. The clients of peers
//! that are packages of their own (`benches/peers`) read the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose channel is measured, each with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Side {
    Ours,
    /// `tonic::transport::Channel::balance_list`.
    Balanced,
    /// One `tonic::transport::Channel` to the first server.
    Plain,
    /// volo-grpc's client.
    Volo,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "BalancedChannel",
            Self::Balanced => "tonic balance_list",
            Self::Plain => "tonic plain Channel",
            Self::Volo => "volo-grpc",
        }
    }
}

/// What each worker does, one after the other.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Unary calls.
    Unary,
    /// Unary calls, some of which may fail.
    UnaryWithFailures,
    /// Reads messages of that size from one call.
    Download(u32),
    /// Writes messages of that size into one call.
    Upload(u32),
}

/// When the workers are done.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Until {
    Passed(Duration),
    /// Each worker has done so many.
    Done(u64),
}

/// The time that a call may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Deadline {
    #[default]
    None,
    /// The same for all calls, by the channel's builder.
    OfChannel,
    /// The same for all calls, by each request.
    Equal,
    /// Another one for each call, from 1 s to 10 s, by the request.
    Differing,
}

/// What our channel is told beyond its defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Setting {
    #[default]
    Nothing,
    /// `connections_per_server(1)`.
    OneConnection,
    /// A service config with 100 methods, the greeter's among them.
    ServiceConfig,
    /// A zone, a subset and slow start; the last server is in another zone.
    Selection,
    /// A service config that asks for the health of each server.
    HealthCheck,
    /// A policy of the bench: it counts the sets that it is given, and sends every second call to the first server.
    FirstServerPreferred,
    /// The same, with outlier detection.
    OutlierDetection,
    /// The method is declared as safe to repeat.
    Declared,
    /// The same, with an attempt timeout and hedging that no call reaches.
    DeclaredWithHedging,
    /// Another method than the one that is called is declared.
    Undeclared,
    /// The same, with an attempt timeout and hedging.
    UndeclaredWithHedging,
    /// A recorder of metrics that adds each value to a number.
    Recorder,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) side: Side,
    pub(crate) servers: Vec<String>,
    pub(crate) load: Load,
    pub(crate) deadline: Deadline,
    pub(crate) setting: Setting,
    /// Runs on a current-thread runtime: then counts repeat.
    pub(crate) single_thread: bool,
    pub(crate) workers: usize,
    /// The same load before anything is taken.
    pub(crate) warm_up: Until,
    pub(crate) until: Until,
}

/// What a server process is told.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ServerJob {
    /// Servers of one process, each with a port of its own.
    pub(crate) listeners: usize,
    /// Whether the first one fails every second unary call.
    pub(crate) first_fails: bool,
    /// Runs on a current-thread runtime.
    pub(crate) single_thread: bool,
}

/// What was seen after the warm-up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Calls, or messages of a stream.
    pub(crate) done: u64,
    pub(crate) elapsed: Duration,
    /// User and system time of the client process.
    pub(crate) cpu: Duration,
    /// Of calls; zero for streams.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// Sets of ready servers that the policy was given.
    pub(crate) sets: u64,
}

impl Figures {
    pub(crate) fn per_second(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn cpu_micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done as f64
    }

    pub(crate) fn p50_micros(&self) -> f64 {
        self.p50.as_secs_f64() * 1e6
    }

    pub(crate) fn p99_micros(&self) -> f64 {
        self.p99.as_secs_f64() * 1e6
    }
}
