//! What breaks in the field, against stock servers.

mod cancelled;
mod stock;
mod texts;
