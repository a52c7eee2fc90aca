//! Stored formats: what stands in etcd, and how it is read and written.
//!
//! [`Detect`] is the default. A format of your own implements [`Codec`] and is given to `ResolverBuilder::codec` and
//! `RegistrarBuilder::codec`.
// PURE: no I/O, no clock, no logging.

mod catch_panics;
mod grpc_naming;
mod hint;
mod json;
mod metadata;
mod plain;

use std::fmt;

use crate::instance::Instance;
use crate::secret;
use crate::target::Target;

pub(crate) use crate::codec::catch_panics::CatchPanics;
pub use crate::codec::grpc_naming::GrpcNaming;
pub use crate::codec::plain::Plain;

/// One stored format: how etcd's keys and values become instances, and instances keys and values.
///
/// A codec is pure: the same record always gives the same instances. One record may give none, one or many; a record
/// that cannot be read gives an error, which the resolver counts and reports once with the key, and never spoils
/// the records beside it. So it is with a record on which the codec panics: it cannot be read, and an instance that it panics on is
/// refused. With `panic = "abort"` a panic ends the process.
///
/// Of what it reads the resolver takes no address that nobody can call (`0.0.0.0`, `[::]`, multicast), and no Unix socket unless
/// [`ResolverBuilder::unix_sockets`](crate::ResolverBuilder::unix_sockets) allows it: such a record counts as one that cannot be read.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// Reads one record. `key` is the whole etcd key, the service's name included.
    ///
    /// # Errors
    /// When the record cannot be read; the reason is shown to the user beside the key.
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError>;

    /// Writes an instance: the records that stand for it under the target's prefix, at least one, no key twice.
    ///
    /// # Errors
    /// When the format cannot hold what the instance says.
    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError>;
}

/// One key and its value, as they stand in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The whole key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Record {
    /// A record of the given key and value.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// Why a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    reason: Box<str>,
}

impl DecodeError {
    /// An error that gives this reason, of which the first 200 characters are kept.
    pub fn new(reason: impl Into<String>) -> Self {
        // What stands in etcd may hold a password.
        let mut reason = secret::without_password(&reason.into()).into_owned();
        if let Some((end, _)) = reason.char_indices().nth(200) {
            reason.replace_range(end.., "…");
        }
        Self { reason: reason.into_boxed_str() }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for DecodeError {}

/// Why an instance cannot be written in a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    reason: Box<str>,
}

impl EncodeError {
    /// An error that gives this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into().into_boxed_str() }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for EncodeError {}

/// The default: reads etcd's gRPC naming and plain addresses, told apart by their first byte, and writes gRPC naming.
#[derive(Clone, Copy, Debug, Default)]
pub struct Detect;

impl Codec for Detect {
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        match value.trim_ascii_start().first() {
            Some(b'{') => GrpcNaming.decode(key, value),
            _ => Plain.decode(key, value),
        }
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        GrpcNaming.encode(target, instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn detects_the_format_by_the_value() {
        let decode = |value: &str| Detect.decode(b"k", value.as_bytes());
        let plain = Instance::new("10.0.0.5:50051").unwrap();
        assert_eq!(decode("10.0.0.5:50051"), Ok(vec![plain.clone()]));
        assert_eq!(decode("http://10.0.0.5:50051"), Ok(vec![plain.clone()]));
        assert_eq!(decode(" {\"Addr\":\"10.0.0.5:50051\"}\n"), Ok(vec![plain]));
        assert!(decode("").is_err());
        assert!(decode("[1]").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_instances_or_a_reason(value: Vec<u8>) {
            let _ = Detect.decode(&value, &value);
            let _ = GrpcNaming.decode(&value, &value);
        }

        #[test]
        fn any_json_like_text_gives_instances_or_a_reason(
            text in r#"\{("(Op|Addr|Metadata|weight|x)":("[a-z0-9:.]{0,12}"|[0-9]{1,20}|null|\{\}|\[\]),?){0,5}\}?"#
        ) {
            let _ = Detect.decode(b"k", text.as_bytes());
        }
    }
}
