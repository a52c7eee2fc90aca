//! Faults that a hostile reader has proven.

mod alike;
mod broken_off;
mod codec;
mod early_ok;
mod far;
mod idle_fleet;
mod page_addresses;
mod panics;
mod repeated;
mod slow_uploads;
mod two_runtimes;
