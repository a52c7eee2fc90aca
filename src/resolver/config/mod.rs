//! Service configs in etcd: one key for each service, below the control prefix.
//!
//! ```text
//! tonic-etcd/config/greeter            the document of the service "greeter"
//! tonic-etcd/config/shop%2Fpayments    that of "shop/payments": its name as one segment
//! ```
//!
//! They are never below the prefix of the service itself, where readers of etcd's naming would take them for servers.
//!
//! - `mod.rs` (pure): the names, and how the values are read.
//! - `watches.rs`: from which watch the document of one service comes. One serves all services of a resolver, if its role may read
//!   all of them, and otherwise one for each.
//! - `updates.rs`: the documents of one service, one after the other, for one of its channels: those of etcd, and at first that of
//!   the cache file, of which each service that a channel uses has one.

pub(super) mod updates;
mod watches;

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::codec::{Codec, DecodeError, EncodeError, Record};
use crate::error::Error;
use crate::instance::Instance;
use crate::resolver::record::RecordReader;
use crate::target::Target;
use crate::target::control::{self, CONTROL_PREFIX};

/// What is escaped in the name of a service, so that it is one segment.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Where the service configs are.
#[derive(Clone, Debug)]
pub(super) struct ConfigKeys {
    /// The control prefix, which no service may have as its name.
    control: String,
    /// The range of all of them, as a target.
    all: Target,
}

impl Default for ConfigKeys {
    fn default() -> Self {
        Self { control: CONTROL_PREFIX.to_owned(), all: Target::of_name(format!("{CONTROL_PREFIX}/config")) }
    }
}

impl ConfigKeys {
    /// # Errors
    /// When the prefix cannot be part of a key.
    pub(super) fn new(control: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::invalid("control prefix", control, reason);
        if control.is_empty() || control.ends_with('/') || control.contains(':') {
            return Err(refuse("write the beginning of keys, without a slash at its end".into()));
        }
        let all = Target::parse(&format!("{control}/config")).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { control: control.to_owned(), all })
    }

    /// The range of all service configs, as a target.
    pub(super) fn all(&self) -> &Target {
        &self.all
    }

    /// The key of the document of a service.
    pub(super) fn of(&self, service: &Target) -> Vec<u8> {
        format!("{}{}", self.all.prefix(), utf8_percent_encode(service.name(), ESCAPED)).into_bytes()
    }

    /// Refuses a service whose prefix would hold what belongs to the control prefix.
    pub(super) fn check(&self, service: &Target) -> Result<(), Error> {
        control::check_service(service, &self.control)
    }
}

/// Reads no instances: the value of a key is kept as it is.
#[derive(Debug)]
struct Unread;

impl Codec for Unread {
    fn decode(&self, _: &[u8], _: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        Ok(Vec::new())
    }

    fn encode(&self, _: &Target, _: &Instance) -> Result<Vec<Record>, EncodeError> {
        Err(EncodeError::new("service configs are only read"))
    }
}

/// Keeps the values of service configs.
pub(super) fn reader() -> RecordReader {
    RecordReader { codec: Arc::new(Unread), unix_sockets: false, keep_values: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target::parse(name).unwrap()
    }

    #[test]
    fn the_name_of_a_service_is_one_segment() {
        let keys = ConfigKeys::new(CONTROL_PREFIX).unwrap();
        for (service, key) in [
            ("greeter", "tonic-etcd/config/greeter"),
            ("shop/payments", "tonic-etcd/config/shop%2Fpayments"),
            ("a.B-c_d~e", "tonic-etcd/config/a.B-c_d~e"),
            ("50%", "tonic-etcd/config/50%25"),
            ("ü", "tonic-etcd/config/%C3%BC"),
        ] {
            assert_eq!(String::from_utf8(keys.of(&target(service))).unwrap(), key);
            assert!(keys.all().owns(key.as_bytes()), "{key}");
        }
        assert_eq!(ConfigKeys::default().all(), keys.all());
        assert_eq!(ConfigKeys::new("ops/control").unwrap().of(&target("x")), b"ops/control/config/x");
    }

    #[test]
    fn a_service_of_the_control_prefix_is_refused() {
        let keys = ConfigKeys::new(CONTROL_PREFIX).unwrap();
        for service in ["tonic-etcd", "tonic-etcd/config", "tonic-etcd/x/y"] {
            assert!(keys.check(&target(service)).unwrap_err().is_invalid_argument(), "{service}");
        }
        for service in ["tonic-etcd2", "x/tonic-etcd", "tonic"] {
            keys.check(&target(service)).unwrap();
        }
        let keys = ConfigKeys::new("team/ops/control").unwrap();
        for service in ["team", "team/ops", "team/ops/control", "team/ops/control/x"] {
            assert!(keys.check(&target(service)).unwrap_err().is_invalid_argument(), "{service}");
        }
        for service in ["tea", "team/op", "team/ops/controls", "team/x", "ops"] {
            keys.check(&target(service)).unwrap();
        }
        for prefix in ["", "/", "etcd:///x", "a/"] {
            assert!(ConfigKeys::new(prefix).is_err(), "{prefix:?}");
        }
    }
}
