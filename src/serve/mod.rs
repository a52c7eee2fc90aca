//! The whole life of a tonic server around its registration.
//!
//! # Files
//!
//! - `options`: [`Serve`]: what users set, each with its default and the reason for it.
//! - `run`: [`Serve::serve`]: checks the options and starts the lifecycle.
//! - `lifecycle`: the steps below.
//! - `control`: [`ServeControl`]: the handle to a served server; `state`: [`ServeState`] and its
//!   stream.
//! - `series`: the server's metrics.
//! - `update_lock`: orders updates in which user code runs.
//! - `advertise/`: which address is registered.
//! - `health/`: checks and health services, which decide whether the server is in the directory.
//! - `connections/`: the accepted connections, and which of them have calls in flight.
//!
//! # States of a server
//!
//! ```text
//!              checks pass,            stop, signal,             left, or not in time,
//!              address known           nothing to accept         then the propagation wait
//!   Starting ───────────────▶ Serving ───────────────▶ Leaving ───────────────▶ Draining ──▶ Stopped
//!      │                         │                        ▲     GOAWAY, listener closed         ▲
//!      └── refused ──────────────┴── tonic's server ended ┘─────────────────────────────────────┘
//! ```
//!
//! The server accepts calls from `Starting` to `Leaving`. Each step has a limit, except that checks
//! are repeated until they pass. No step needs etcd:
//!
//! | step | at most | set by |
//! |---|---|---|
//! | one check | 5 s, then it is repeated | |
//! | mark, and deregister | 5 s together | [`Serve::deregister_timeout`] |
//! | clients see that it left | 1 s | [`Serve::propagation_delay`] |
//! | calls in flight | 20 s | [`Serve::drain_timeout`] |
//! | connections without a call | 0.75 s, within the drain | |
//! | tonic notices closed connections | 1 s | |
//!
//! # Who runs what
//!
//! All of it runs in the future of [`Serve::serve`], so dropping that future ends everything. Two
//! things live longer: tonic's tasks, one for each connection, which end because their sockets fail
//! once the registry is dropped; and the registrar's task, which removes the keys in the
//! background.
//!
//! [`ServeControl`] may be used from any thread, also while a tracing subscriber handles an event.
//! It never holds a lock while user code runs: see `control`.

pub(crate) mod advertise;
pub(crate) mod connections;
mod control;
mod health;
mod lifecycle;
mod options;
mod run;
mod series;
mod state;
mod update_lock;

pub use self::connections::calls::{CountCalls, CountCallsLayer};
pub use self::connections::listener::Listener;
pub use self::control::ServeControl;
pub use self::options::{Departure, Serve};
pub use self::state::{ServeState, ServeStates};
