//! What breaks in the field, one file a topic; each test names its row.

mod connecting;
mod draining;
mod queue;
mod wakes;
mod watched;
