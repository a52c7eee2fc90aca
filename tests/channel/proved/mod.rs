//! Faults that a hostile reader has proven.

mod long_calls;
