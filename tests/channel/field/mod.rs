//! Faults that people met in the field; each test names its row.

mod addresses;
mod budget;
mod pauses;
mod requests;
mod stock;
mod timeouts;
mod unsent;
mod uploads;
mod whole;
