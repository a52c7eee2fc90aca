//! The registrar: puts instances into etcd under a lease and keeps them there while they live.
//!
//! # How data flows
//!
//! ```text
//!   handle/ ── desired state ──▶ Shared (entries) ── Notify ──▶ task/ ── Input ──▶ lease/ (PURE machine)
//!      ▲                             ▲                           │  ◀── Action ───┘
//!      └── tokio watch: state ───────┴────── Publication ────────┤
//!                                                                └── requests, renewals, watches ──▶ etcd/
//! ```
//!
//! Handles write the desired state and wake the task; the task reads it, tells the machine, sends
//! what the machine asks for, and publishes the state of each registration. No queue is between
//! them: the task always reads the latest.
//!
//! # Files
//!
//! - `handle/`: what users hold: [`Registrar`], its builder, [`Registration`] and their states.
//! - `shared`: what handles and task share, behind one lock.
//! - `entry`: one registration there: its desired state and its published state.
//! - `pause`: why a registration is paused.
//! - `records`: the records of an instance, and which are refused.
//! - `nested_names`: the warning about names below other names.
//! - `stats/`: the numbers of a registrar: [`RegistrarStats`], and the series of a recorder.
//! - `task/`: the background task.
//! - `lease/`: the machine that decides.
//!
//! # States of a registrar
//!
//! ```text
//!           first registration                all left, lease revoked
//!   Idle ──────────────────────▶ Running ─────────────────────────────▶ Idle
//!                                 │    │
//!                        close()  │    │ the runtime ends with keys in etcd
//!                                 ▼    ▼
//!                              Closed  Abandoned ── next registration ──▶ Running
//! ```
//!
//! *Idle*: no task and no lease. *Running*: a task on the runtime of the first registration works
//! for all of them. *Closed*: everything leaves, and new registrations are refused. *Abandoned*:
//! nobody renews the lease, so its keys stay in etcd until it ends; [`RegistrarHealth::is_live`] is
//! false.
//!
//! The states of one registration are those of [`RegistrationState`].

mod entry;
mod handle;
pub(crate) mod lease;
mod nested_names;
mod pause;
mod records;
mod shared;
mod stats;
mod task;

pub(crate) use self::entry::Publication;
pub use self::handle::builder::RegistrarBuilder;
pub use self::handle::health::RegistrarHealth;
pub use self::handle::options::RegistrationOptions;
pub use self::handle::registrar::Registrar;
pub use self::handle::registration::Registration;
pub use self::handle::state::{RegistrationState, RegistrationStates};
pub use self::lease::Conflict;
pub(crate) use self::pause::PauseReason;
pub use self::stats::RegistrarStats;
