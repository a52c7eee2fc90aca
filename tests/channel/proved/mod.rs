//! Faults that a hostile reader has proven.

mod alike;
mod codec;
mod long_calls;
mod long_polls;
mod panics;
mod probation;
mod repeated;
mod slow_uploads;
mod two_runtimes;
