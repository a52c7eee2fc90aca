//! What breaks in the field, each by the number of the report.

mod cancelled;
mod cost;
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
mod scripted;
mod stalls;
mod stock;
mod unread;
