//! What a client process is told to do, and what it answers: JSON on its command line and on its stdout.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whose channel is measured, each with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side {
    Ours,
    /// `tonic::transport::Channel::balance_list`.
    Balanced,
    /// One `tonic::transport::Channel` to the first server.
    Plain,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "BalancedChannel",
            Self::Balanced => "tonic balance_list",
            Self::Plain => "tonic plain Channel",
        }
    }
}

/// What each worker does, one after the other.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Load {
    /// Unary calls.
    Unary,
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

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) side: Side,
    pub(crate) servers: Vec<String>,
    pub(crate) load: Load,
    pub(crate) workers: usize,
    /// The same load before anything is taken.
    pub(crate) warm_up: Until,
    pub(crate) until: Until,
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
