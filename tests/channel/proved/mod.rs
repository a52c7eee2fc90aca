//! Faults that a hostile reader has proven.

mod alike;
mod codec;
mod idle_fleet;
mod long_calls;
mod long_polls;
mod page_addresses;
mod panics;
mod probation;
mod repeated;
mod slow_uploads;
mod two_runtimes;
