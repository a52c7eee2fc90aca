//! Stored formats: how instances are read from etcd's keys and values, and written to them.
//!
//! [`Detect`] is the default. It reads etcd's gRPC naming ([`GrpcNaming`]) and plain addresses
//! ([`Plain`]), and writes gRPC naming. For a format of your own, implement [`Codec`], and pass it
//! to `ResolverBuilder::codec` and `RegistrarBuilder::codec`:
//!
//! ```
//! use tonic_etcd::codec::{Codec, DecodeError, EncodeError, Record};
//! use tonic_etcd::{Instance, Target};
//!
//! /// The address is the last part of the key, and the value is empty.
//! #[derive(Debug)]
//! struct InTheKey;
//!
//! impl Codec for InTheKey {
//!     fn decode(&self, key: &[u8], _value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
//!         let key = std::str::from_utf8(key).map_err(|error| DecodeError::new(error.to_string()))?;
//!         let address = key.rsplit('/').next().unwrap_or_default();
//!         let instance = Instance::new(address).map_err(|error| DecodeError::new(error.to_string()))?;
//!         Ok(vec![instance])
//!     }
//!
//!     fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
//!         let key = |address| format!("{}{address}", target.prefix());
//!         Ok(instance.addresses().iter().map(|address| Record::new(key(address), "")).collect())
//!     }
//! }
//!
//! let instances = InTheKey.decode(b"greeter/10.0.0.5:50051", b"").unwrap();
//! assert_eq!(instances[0].addresses()[0].port(), 50051);
//! ```
// PURE: no I/O, no clock, no logging.

mod catch_panics;
mod grpc_naming;
mod hint;
pub(crate) mod json;
mod metadata;
mod plain;

use std::fmt;

use crate::instance::Instance;
use crate::secret;
use crate::target::Target;

pub(crate) use crate::codec::catch_panics::CatchPanics;
pub use crate::codec::grpc_naming::GrpcNaming;
pub use crate::codec::plain::Plain;

/// A stored format: reads instances from records, and writes them.
///
/// A codec must be pure: the same record always gives the same instances. One record may give none,
/// one or many instances. For a record that cannot be read, return an error. The resolver counts
/// such a record, logs it once with its key (at most ten of one change), and goes on with the other
/// records.
///
/// A panic of the codec counts as its error: the record is unreadable, or the instance is refused
/// when it is registered. With `panic = "abort"` a panic ends the process.
///
/// The resolver accepts no address that nobody can call (`0.0.0.0`, `[::]`, multicast), and no Unix
/// socket unless [`ResolverBuilder::unix_sockets`](crate::ResolverBuilder::unix_sockets) allows it.
/// A record with such an address counts as unreadable.
pub trait Codec: fmt::Debug + Send + Sync + 'static {
    /// Reads one record. `key` is the whole etcd key, the name of the service included.
    ///
    /// Called in a background task for each record of a list and for each event, and by a registrar
    /// for a few records that seem to be of a name below its service, so it must not
    /// block. The same record may be read again.
    ///
    /// # Errors
    /// When the record cannot be read. The reason is logged with the key.
    fn decode(&self, key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError>;

    /// Writes an instance: at least one record under the target's prefix, with no key twice.
    ///
    /// Called when an instance is registered or updated, in the task of the caller. Equal instances
    /// must give equal records: a registrar compares them with what etcd holds.
    ///
    /// # Errors
    /// When the format cannot express the instance.
    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError>;

    /// The name of the format, 1 to 255 bytes; `custom` by default. It is written into cache files
    /// ([`ResolverBuilder::cache`](crate::ResolverBuilder::cache)), and a file with another name is
    /// not used: give formats of your own different names if their resolvers share a folder.
    ///
    /// It must stay the same from build to build: with another name a program that is restarted while
    /// etcd is down does not find its servers. So it is not the name of the type, which the
    /// compiler may change.
    #[expect(clippy::unnecessary_literal_bound, reason = "a codec may make its name when it is built")]
    fn name(&self) -> &str {
        "custom"
    }
}

/// One key and its value, as they are stored in etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The whole key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
}

impl Record {
    /// A record of this key and value.
    pub fn new(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: value.into() }
    }
}

/// Why a record cannot be read. Entries of a snapshot hold it
/// ([`SnapshotEntry::error`](crate::SnapshotEntry::error)). Errors compare by their reason, so that
/// a record that stays unreadable for the same reason is no change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    reason: Box<str>,
}

impl DecodeError {
    /// An error with this reason. At most 200 characters are kept. What may be a user and a
    /// password, such as `user:password@`, is masked.
    pub fn new(reason: impl Into<String>) -> Self {
        // The value may hold a password.
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

/// Why a format cannot express an instance. Registering the instance fails with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodeError {
    reason: Box<str>,
}

impl EncodeError {
    /// An error with this reason.
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

/// The default format. Reads etcd's gRPC naming and plain addresses: a value that begins with `{`,
/// after white space or not, is gRPC naming, and any other value is a plain address. Writes gRPC
/// naming.
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

    fn name(&self) -> &'static str {
        "detect"
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
