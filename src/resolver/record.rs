//! From a record of etcd to an entry of the snapshot: the codec reads it, and addresses that must
//! not be called are refused. PURE.

use std::sync::Arc;

use crate::address::Address;
use crate::codec::{CatchPanics, Codec, DecodeError, Detect};
use crate::instance::Instance;
use crate::resolver::snapshot::SnapshotEntry;
use crate::target::Target;

/// How the records of all services of a resolver are read.
#[derive(Clone)]
pub(super) struct RecordReader {
    /// The stored format.
    pub(super) codec: Arc<dyn Codec>,
    /// Whether records may name Unix sockets. They are paths of this host, named by whoever may
    /// write into etcd.
    pub(super) unix_sockets: bool,
    /// Whether entries keep their values, for cache files.
    pub(super) keep_values: bool,
}

impl Default for RecordReader {
    fn default() -> Self {
        Self { codec: Arc::new(CatchPanics(Detect)), unix_sockets: false, keep_values: false }
    }
}

impl RecordReader {
    /// The entry of a key; `None` for a key that is not the service's own.
    pub(super) fn read(&self, target: &Target, key: &[u8], value: &[u8]) -> Option<SnapshotEntry> {
        target.owns(key).then(|| {
            let read = self.codec.decode(key, value);
            let entry = SnapshotEntry::new(key, read.and_then(|instances| self.check(instances)));
            if self.keep_values { entry.with_value(value) } else { entry }
        })
    }

    /// Refuses a record with an address that must not be called. One such address makes the whole
    /// record unreadable, because its writer meant something else.
    fn check(&self, instances: Vec<Instance>) -> Result<Vec<Instance>, DecodeError> {
        let refused = instances.iter().flat_map(Instance::addresses).find_map(|address| {
            let reason = self.refusal(address)?;
            Some(DecodeError::new(format!("the address {address} is not called: {reason}")))
        });
        refused.map_or(Ok(instances), Err)
    }

    /// Why an address must not be called, if so.
    fn refusal(&self, address: &Address) -> Option<&'static str> {
        if address.unix_path().is_some() && !self.unix_sockets {
            return Some("Unix sockets are not allowed here, see ResolverBuilder::unix_sockets");
        }
        address.uncallable_reason()
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;

    /// The fuzz target: no address that must not be called comes through, in whatever way it is written.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let target = Target::parse("s").unwrap();
        for unix_sockets in [false, true] {
            let reader = RecordReader { unix_sockets, ..RecordReader::default() };
            let entry = reader.read(&target, b"s/x", bytes).unwrap();
            assert_eq!(entry.key(), b"s/x");
            assert_eq!(entry.error().is_some(), entry.instances().is_empty(), "{entry:?}");
            for address in entry.instances().iter().flat_map(Instance::addresses) {
                assert!(unix_sockets || address.unix_path().is_none(), "{address}");
                let ip = address.host().parse::<std::net::IpAddr>().map(|ip| ip.to_canonical());
                assert!(!ip.is_ok_and(|ip| ip.is_unspecified() || ip.is_multicast()), "{address}");
            }
            assert_eq!(reader.read(&target, b"s/x", bytes).as_ref(), Some(&entry), "the same record gives the same");
        }
        if let Some(entry) = RecordReader::default().read(&target, bytes, b"h:1") {
            assert!(bytes.starts_with(b"s/") && entry.instances().len() == 1);
        }
    }

    fn read(value: &str, unix_sockets: bool) -> SnapshotEntry {
        let reader = RecordReader { codec: Arc::new(Detect), unix_sockets, keep_values: false };
        reader.read(&Target::parse("s").unwrap(), b"s/x", value.as_bytes()).unwrap()
    }

    /// F21: in every spelling, plain and as gRPC naming.
    #[test]
    fn what_nobody_can_call_is_not_read() {
        for (address, said) in [
            ("0.0.0.0:50051", "every interface"),
            ("http://0.0.0.0", "every interface"),
            ("https://0.0.0.0:50051", "every interface"),
            ("[::]:1", "every interface"),
            ("[0:0:0:0:0:0:0:0]:1", "every interface"),
            ("[::0.0.0.0]:1", "every interface"),
            ("[::ffff:0.0.0.0]:1", "every interface"),
            ("[::ffff:0:0]:1", "every interface"),
            ("0x0:1", "every interface"),
            ("0X0.0x0:1", "every interface"),
            ("0:1", "no IPv4 address"),
            ("00:1", "no IPv4 address"),
            ("0.0:1", "no IPv4 address"),
            ("000.0.0.0:1", "no IPv4 address"),
            ("0.0.0.0.:1", "no IPv4 address"),
            (":1", "no host"),
            ("224.0.0.1:1", "multicast"),
            ("239.255.255.255:1", "multicast"),
            ("0xe0000001:1", "multicast"),
            ("[ff02::1]:1", "multicast"),
            ("[::ffff:224.0.0.1]:1", "multicast"),
            ("255.255.255.255:1", "broadcast"),
            ("unix:/run/docker.sock", "Unix sockets are not allowed"),
            ("unix:///run/docker.sock", "Unix sockets are not allowed"),
        ] {
            for value in [address.to_owned(), format!(r#"{{"Addr":"{address}"}}"#)] {
                let entry = read(&value, false);
                let error = entry.error().unwrap_or_else(|| panic!("{value} is read")).to_string();
                assert!(error.contains(said), "{value}: {error}");
            }
        }
    }

    /// F21: loopback stays readable, and Unix sockets are where they are allowed.
    #[test]
    fn what_can_be_called_is_read() {
        for address in
            ["127.0.0.1:1", "[::1]:1", "localhost:1", "0x7f.1:1", "[::ffff:10.0.0.5]:1", "10.0.0.5:1", "0greeter:1"]
        {
            assert_eq!(read(address, false).instances().len(), 1, "{address}");
        }
        assert_eq!(read("unix:/run/greeter.sock", true).instances().len(), 1);
        assert!(read("0.0.0.0:1", true).error().is_some());
    }
}
