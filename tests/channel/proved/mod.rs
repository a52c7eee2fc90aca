//! Faults that a hostile reader has proven.

mod alike;
pub(crate) mod codec;
mod idle_fleet;
mod page_addresses;
mod panics;
mod repeated;
mod slow_uploads;
mod two_runtimes;
