//! What tests, benches and `xtask` share: real etcd processes ([`Etcd`], [`Cluster`]), a TCP proxy
//! that breaks connections on demand ([`Proxy`]), an HTTP/2 proxy that holds, delays or drops messages
//! ([`FrameProxy`]), etcd's own gRPC proxy ([`GrpcProxy`]), child processes whose output is waited for
//! ([`Process`]), programs in Go ([`go_program`]) and measurements held against a bar ([`Report`]).
//!
//! All of it is plain blocking code with short waits, so that an async test may call it as it is;
//! what can take a second or more ([`Cluster::start`], [`GrpcProxy::to`], [`Etcd::terminate`], [`Process::wait`],
//! [`go_program`]) belongs in `spawn_blocking` where other tasks of the same test must go on meanwhile.
//!
//! ```no_run
//! let etcd = test_support::Etcd::start();
//! let proxy = test_support::Proxy::to(etcd.address());
//! println!("clients connect to {}", proxy.endpoint());
//! proxy.stall(); // etcd lives, and no byte of it arrives
//! etcd.kill();
//! etcd.start_again(); // same data, same port
//! ```
#![allow(clippy::disallowed_types)] // real time is meant

mod callgrind;
mod clock;
mod cluster;
mod error;
mod etcd;
mod frame_proxy;
mod go;
mod grpc_proxy;
mod http;
mod limits;
#[cfg(feature = "log")]
mod log;
mod ports;
mod process;
mod proxy;
#[cfg(feature = "metrics")]
mod recorder;
mod refusing;
mod report;
#[cfg(feature = "metrics")]
mod series_recorder;
mod svg;

pub use callgrind::{Counts, callgrind, instructions, short_and_long, valgrind};
pub use clock::cpu_time;
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use etcd::{Builder, Etcd};
pub use frame_proxy::{FrameProxy, Late, Rule};
pub use go::go_program;
pub use grpc_proxy::GrpcProxy;
pub use limits::raise_fd_limit;
#[cfg(feature = "log")]
pub use log::Log;
pub use process::{Process, example_bin};
pub use proxy::Proxy;
#[cfg(feature = "metrics")]
pub use recorder::Recorder;
pub use refusing::refuse_calls;
pub use report::{Bar, Report, Row};
pub use rustix::process::Signal;
#[cfg(feature = "metrics")]
pub use series_recorder::{SeriesRecorder, Values};
pub use svg::Svg;
