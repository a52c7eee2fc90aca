//! What a balanced channel promises, against servers on loopback that speak bare HTTP/2 and do as they are told.

mod attempts;
mod documents;
mod field;
mod health;
mod limits;
mod membership;
mod message_sizes;
mod method_config;
mod metrics;
mod peer;
mod per_server;
mod policies;
mod raw;
mod refused;
mod retries;
mod selection;
mod service_config;
mod spans;
mod support;
mod transports;
mod waiting;
