//! Faults that were proved by review.

mod broken_off;
mod early_ok;
mod far;
