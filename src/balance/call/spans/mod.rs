//! The spans of a call and of its attempts, by gRFC A72. The page `crate::spans` tells operators of them.
//!
//! | file | what |
//! |---|---|
//! | `call.rs` | the span of a call, from which those of its attempts are made |
//! | `attempt.rs` | the span of an attempt |
//! | `open.rs` | a span that is enabled, until its end is recorded |
//!
//! ```text
//! call made ─▶ CallSpan of the call's state ──head──▶ CallSpan of the response's body ──end or drop──▶ closed
//!                │ one for each attempt
//!                ▼
//!              AttemptSpan of the attempt's reporter ──────────────────end or drop──▶ closed
//! ```
//!
//! A span that nobody wants is one null pointer, and one look at the level that `tracing` keeps. Only an enabled one is
//! allocated.
//!
//! No span is ever entered: `tracing-opentelemetry` takes the time of the last exit for the end. So none is current
//! while code of users runs, and parents are explicit, those of events about a call too.

mod attempt;
mod call;
mod open;

pub(crate) use crate::balance::call::spans::attempt::AttemptSpan;
pub(crate) use crate::balance::call::spans::call::CallSpan;

/// The target of the spans, for filters.
const TARGET: &str = "tonic_etcd::call";
