//! The messages that this crate logs at INFO and above, what each means, and what to do.
//!
//! Messages are constants: search for them as they stand here. Their data are fields of the event.
//!
//! | message | level | meaning | what to do |
//! |---|---|---|---|
