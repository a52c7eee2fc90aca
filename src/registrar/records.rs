//! The records of an instance: made by the codec, and checked before anything is registered.

use std::sync::Arc;

use crate::address::Address;
use crate::codec::{Codec, Record};
use crate::error::Error;
use crate::instance::Instance;
use crate::target::Target;

/// The largest record. etcd takes requests of 1.5 MiB by default; 512 bytes are left for the rest
/// of the request.
const MAX_RECORD: usize = 1536 * 1024 - 512;

/// The records of an instance. `key` is the chosen name of its only key, below the service's
/// prefix.
pub(super) fn records(
    codec: &dyn Codec,
    target: &Target,
    instance: &Instance,
    key: Option<&str>,
) -> Result<Vec<Arc<Record>>, Error> {
    let records = encode(codec, target, instance)?;
    let Some(name) = key else { return Ok(records.into_iter().map(Arc::new).collect()) };
    let refuse = |reason: &str| Err(Error::invalid("key", name, reason));
    let [record] = records.as_slice() else {
        return refuse("a chosen key holds one address, and the instance has several");
    };
    if name.is_empty() || name.starts_with('/') || name.ends_with('/') || name.contains(char::is_control) {
        return refuse(
            "it must be a name below the service's prefix, without a slash at its ends or control characters",
        );
    }
    let record = Record::new(format!("{}{name}", target.prefix()), record.value.clone());
    check_size(&record)?;
    Ok(vec![Arc::new(record)])
}

/// Runs the codec, which is user code and may panic ([`CatchPanics`](crate::codec::CatchPanics) turns that
/// into an error), and checks what it wrote: at least one record, each under the service's prefix,
/// no key twice, none too large.
fn encode(codec: &dyn Codec, target: &Target, instance: &Instance) -> Result<Vec<Record>, Error> {
    let uncallable = |address: &Address| address.uncallable_reason().map(|reason| (address.to_string(), reason));
    if let Some((address, reason)) = instance.addresses().iter().find_map(uncallable) {
        let reason = format!("{reason}: register the address that clients reach");
        return Err(Error::invalid("address", address, reason));
    }
    let refuse = |reason: String| Error::invalid("instance", instance.addresses()[0].to_string(), reason);
    let records = codec.encode(target, instance).map_err(|error| refuse(error.to_string()))?;
    if records.is_empty() {
        return Err(refuse("the codec writes no record for it".into()));
    }
    for (index, record) in records.iter().enumerate() {
        let key = String::from_utf8_lossy(&record.key);
        if records[..index].iter().any(|other| other.key == record.key) {
            return Err(refuse(format!("the codec writes the key {key:?} twice")));
        }
        if !target.owns(&record.key) {
            let reason = format!("the codec wrote it outside of {:?}", target.prefix());
            return Err(Error::invalid("key", key, reason));
        }
        check_size(record)?;
    }
    Ok(records)
}

/// Refuses a record that etcd would not take, or whose key it would not delete.
fn check_size(record: &Record) -> Result<(), Error> {
    // A put names its key twice, because it compares the key's revision, and a delete three times.
    let (put, delete) = (2 * record.key.len() + record.value.len(), 3 * record.key.len());
    let reason = if put > MAX_RECORD {
        format!("the key, twice, and the value have {put} bytes, and etcd takes {MAX_RECORD}")
    } else if delete > MAX_RECORD {
        format!("the key, three times, has {delete} bytes, and etcd takes {MAX_RECORD}")
    } else {
        return Ok(());
    };
    let key: String = String::from_utf8_lossy(&record.key).chars().take(100).collect();
    Err(Error::invalid("record", key, reason))
}
