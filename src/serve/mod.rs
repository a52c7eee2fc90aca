//! The whole life of a tonic server around its registration.
//!
//! # Files
//!
//! - `options`: [`Serve`]: what users set, each with its default and the reason for it.
//! - `run`: [`Serve::serve`]: checks the options and starts the lifecycle.
//! - `lifecycle`: the steps below.
//! - `control`: [`ServeControl`]: the handle to a served server; `state`: [`ServeState`] and its stream.
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
//! The server accepts calls from `Starting` to `Leaving`. Each step has a limit, and none needs etcd.

mod advertise;
mod connections;
mod control;
mod health;
mod lifecycle;
mod options;
mod run;
mod state;
mod update_lock;

pub use self::connections::calls::CountCalls;
pub use self::connections::listener::Listener;
pub use self::control::ServeControl;
pub use self::options::{Departure, Serve};
pub use self::state::{ServeState, ServeStates};
