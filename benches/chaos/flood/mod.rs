//! A flood of changes: one process writes it, another reads it.
//!
//! Each value is `{"Op":0,"Addr":…,"Metadata":{"t":"MICROSECONDS"}}`, and says when it was put. Every fiftieth key is sampled.

pub(crate) mod read;
pub(crate) mod write;

pub(crate) const PREFIX: &str = "flood/";
pub(crate) const KEYS: usize = 1_000;
/// One in so many keys is sampled.
const SAMPLED: usize = 50;

fn key(number: usize) -> String {
    format!("{PREFIX}10.0.{}.{}:5", number / 256, number % 256)
}

fn value(number: usize, put_us: u64) -> String {
    format!(r#"{{"Op":0,"Addr":"10.0.{}.{}:5","Metadata":{{"t":"{put_us}"}}}}"#, number / 256, number % 256)
}

fn sampled() -> impl Iterator<Item = usize> {
    (0..KEYS).step_by(SAMPLED)
}
