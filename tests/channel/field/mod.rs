//! Faults met in the field: each test names its row.

mod large_answers;
mod large_heads;
mod large_requests;
mod no_grpc;
mod scripted;
mod stock;
mod unread;
