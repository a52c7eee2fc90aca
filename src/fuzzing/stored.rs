//! The stored formats: what is decoded can be encoded, and is the same when it is decoded again.

use proptest::prelude::*;

use crate::codec::{Codec, Detect, GrpcNaming, Plain};
use crate::instance::Instance;
use crate::target::Target;

/// Values of any bytes; then any instance.
pub(super) fn grpc_naming(bytes: &[u8]) {
    let read = GrpcNaming.decode(b"k", bytes);
    for instance in read.iter().flatten() {
        is_the_same_again(&GrpcNaming, instance);
        is_the_same_again(&Detect, instance);
    }
    match read {
        Ok(_) => assert_eq!(Detect.decode(b"k", bytes), read),
        Err(error) => assert!(error.to_string().chars().count() <= 201, "{error}"),
    }
    super::with(bytes, instance(), |instance| {
        is_the_same_again(&GrpcNaming, &instance);
        Ok(())
    });
}

/// Values of any bytes.
pub(super) fn plain(bytes: &[u8]) {
    let read = Plain.decode(b"k", bytes);
    for instance in read.iter().flatten() {
        is_the_same_again(&Plain, instance);
        assert_eq!(Detect.decode(b"k", bytes).as_ref(), read.as_ref());
    }
    if let Err(error) = read {
        assert!(error.to_string().chars().count() <= 201, "{error}");
    }
}

fn is_the_same_again(codec: &dyn Codec, instance: &Instance) {
    let expected = understood(instance);
    let target = Target::parse("greeter").unwrap();
    let records = codec.encode(&target, instance).unwrap();
    assert_eq!(records.len(), instance.addresses().len());
    for (record, address) in records.iter().zip(instance.addresses()) {
        assert!(target.owns(&record.key));
        let again = codec.decode(&record.key, &record.value).unwrap();
        assert_eq!(again.iter().map(Instance::addresses).collect::<Vec<_>>(), [std::slice::from_ref(address)]);
        if let [_] = instance.addresses() {
            assert_eq!(again, std::slice::from_ref(&expected));
        }
    }
    assert_eq!(codec.encode(&target, instance).unwrap(), records, "equal instances give equal records");
}

/// Without what was not understood of its record: it is kept as metadata, and is understood then.
fn understood(instance: &Instance) -> Instance {
    let (first, others) = instance.addresses().split_first().unwrap();
    let mut copy = Instance::at(first.clone());
    for address in others {
        copy = copy.with_address(address.to_string()).unwrap();
    }
    copy = copy.with_stored_weight(instance.weight().unwrap_or(0)).with_draining(instance.is_draining());
    copy = copy.with_zone(instance.zone().unwrap_or_default()).with_version(instance.version().unwrap_or_default());
    copy = copy.with_id(instance.id().unwrap_or_default());
    instance.metadata().iter().fold(copy, |copy, (name, value)| copy.with_metadata(name, value))
}

/// Any instance.
fn instance() -> impl Strategy<Value = Instance> {
    let text = || proptest::collection::vec(any::<char>(), 0..6).prop_map(String::from_iter);
    let pairs = proptest::collection::vec((text(), text()), 0..4);
    let addresses = proptest::collection::vec((any::<bool>(), 1_u16..), 1..4);
    (addresses, any::<u32>(), text(), text(), text(), any::<bool>(), pairs).prop_map(
        |(addresses, weight, zone, version, id, draining, pairs)| {
            let written = |(secure, port): &(bool, u16)| {
                let scheme = if *secure { "https://" } else { "" };
                format!("{scheme}h:{port}")
            };
            let mut instance = Instance::new(written(&addresses[0])).unwrap();
            for address in &addresses[1..] {
                // One that is there with the other scheme is refused.
                instance = instance.clone().with_address(written(address)).unwrap_or(instance);
            }
            instance = instance.with_stored_weight(weight).with_zone(zone).with_version(version).with_id(id);
            instance = instance.with_draining(draining);
            pairs.into_iter().fold(instance, |instance, (name, value)| instance.with_metadata(name, value))
        },
    )
}
