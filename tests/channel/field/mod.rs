//! What breaks in the field, each by the number of the report.

mod cancelled;
mod connecting;
mod cost;
mod draining;
mod driven;
mod ejected;
mod ends;
mod frozen;
mod greeting;
mod idle;
mod large_answers;
mod large_heads;
mod large_requests;
mod no_grpc;
mod queue;
mod scripted;
mod stalls;
mod stock;
mod unread;
mod wakes;
mod watched;
