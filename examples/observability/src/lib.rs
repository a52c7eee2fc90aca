//! How tonic-etcd's metrics reach an operator: [`greeter`] is a program that is watched, `main.rs` shows its numbers to
//! Prometheus, and [`opentelemetry`] records them into OpenTelemetry's metrics instead.

pub mod greeter;
pub mod opentelemetry;
