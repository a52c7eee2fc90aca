//! What breaks in the field, each by the number of the report.

mod cancelled;
mod cost;
mod ejected;
mod frozen;
mod large_answers;
mod large_heads;
mod large_requests;
mod no_grpc;
mod scripted;
mod stock;
mod unread;
