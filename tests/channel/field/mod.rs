//! What breaks in the field, each by the number of the report.

mod cost;
mod ejected;
