//! Faults that were proved by review.

mod broken_off;
