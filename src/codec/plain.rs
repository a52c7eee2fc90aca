//! Plain addresses: the value is `host:port` or an `http(s)://` URL, as tutorials and go-kit write
//! it. PURE.
//!
//! This is the format that people type by hand with `etcdctl put`, so its errors explain most.

use crate::address::Address;
use crate::codec::grpc_naming::StoredMetadata;
use crate::codec::{Codec, DecodeError, EncodeError, Record, hint};
use crate::instance::Instance;
use crate::target::Target;

/// Plain addresses: `greeter/10.0.0.5:50051` = `10.0.0.5:50051`.
///
/// The value is one address as [`Address::parse`](crate::Address::parse) reads it: `host:port`,
/// `http://host`, `https://host`, or `unix:/path` if the resolver allows that. White space around
/// the address is ignored. The key is not read: any key below the prefix will do.
///
/// Weight, zone, version, id, draining and metadata cannot be expressed: `encode` refuses an
/// instance with any of them. It writes one key for each address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Codec for Plain {
    fn decode(&self, _key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        let read = match std::str::from_utf8(value) {
            Ok(text) => Address::read(text.trim()),
            Err(_) => Err("the value is not UTF-8".into()),
        };
        // What the value looks like says more than the first character that is not allowed in an
        // address.
        let reason = |reason: String| hint::hint_for_value(value).map_or(reason, str::to_owned);
        let address = read.map_err(|why| DecodeError::new(format!("no address: {}", reason(why))))?;
        Ok(vec![Instance::at(address)])
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        if !StoredMetadata::of(instance).is_empty() {
            let reason =
                "plain addresses have no place for weight, zone, version, id, draining or metadata: use GrpcNaming";
            return Err(EncodeError::new(reason));
        }
        let prefix = target.prefix();
        let record = |a: &Address| Record::new(format!("{prefix}{}", a.parsed_authority().as_str()), a.to_string());
        Ok(instance.addresses().iter().map(record).collect())
    }

    fn name(&self) -> &'static str {
        "plain"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        let target = Target::parse("/web").unwrap();
        let instance = Instance::new("https://10.0.0.5:8443").unwrap();
        let records = Plain.encode(&target, &instance).unwrap();
        assert_eq!(records, [Record::new("/web/10.0.0.5:8443", "https://10.0.0.5:8443")]);
        assert_eq!(Plain.decode(&records[0].key, &records[0].value), Ok(vec![instance.clone()]));
        assert!(Plain.encode(&target, &instance.with_weight(3).unwrap()).unwrap_err().to_string().contains("no place"));
    }

    #[test]
    fn gives_a_reason_for_what_is_no_address() {
        for value in [&b""[..], b"hello", b"\xff:1", b"a:0", b"1.2.3.4:5 and more"] {
            assert!(Plain.decode(b"k", value).is_err());
        }
        assert!(Plain.decode(b"k", b" 1.2.3.4:5\n").is_ok());
    }
}
