//! Faults of the field, by their numbers in the notes that the tests name.

mod driven;
mod ends;
mod greeting;
mod idle;
mod stalls;
