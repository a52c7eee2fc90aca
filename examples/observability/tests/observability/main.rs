//! What operators are shown: the names on `/metrics`, and those that the dashboard and the alert rules ask for.
#![allow(clippy::disallowed_types)] // real time is meant

mod files;
mod names;
mod page;
mod promql;
mod real_run;
