//! Faults that a hostile reader has proven.

mod long_calls;
mod long_polls;
mod idle_fleet;
mod probation;
mod page_addresses;
mod two_runtimes;
mod repeated;
mod alike;
mod codec;
mod slow_uploads;
mod panics;
