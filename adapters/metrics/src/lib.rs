#![doc = include_str!("../README.md")]

mod names;
mod recorder;

pub use crate::names::{buckets, prometheus_name};
pub use crate::recorder::MetricsRecorder;
