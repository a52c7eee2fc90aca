//! etcd's own gRPC naming, as Go's `endpoints.Manager` and grpc-proxy write it. PURE.
//!
//! Reading: `json.rs` prepares the text, `ReadUpdate` takes `Addr` and `Metadata` from it,
//! `metadata.rs` reads the metadata, and `hint.rs` explains what cannot be read. Writing:
//! `StoredUpdate`, with the fields in the order in which Go writes them, so that equal instances
//! give equal values.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::address::Address;
use crate::codec::json::matches_name;
use crate::codec::metadata::with_metadata;
use crate::codec::{Codec, DecodeError, EncodeError, Record, hint, json};
use crate::instance::Instance;
use crate::secret;
use crate::target::Target;

/// etcd's gRPC naming, one key for each address: `greeter/10.0.0.5:50051` =
/// `{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}`.
///
/// **Written**: `Metadata` is `null`, or
/// `{"weight":…,"zone":…,"version":…,"id":…,"draining":true,"metadata":{…}}` without the parts that
/// are not set. An `https` address is written with its scheme, which etcd's Go resolver does not
/// understand: in a mixed fleet register `host:port`, and call all servers over TLS with
/// `BalancedChannelBuilder::tls`.
///
/// **Read**: values are read as Go's `encoding/json` reads them. Field names match in any case, the
/// later of two fields with one name counts, unknown fields are ignored, and invalid UTF-8 and lone
/// surrogates become U+FFFD. A value is read if its `Addr` is an address. `Op` is ignored, whatever
/// it holds.
///
/// `Metadata` may be any JSON value, also a string that holds an object (grpc-proxy writes that).
/// Of an object these members are understood, with their names in any case:
///
/// | member | as |
/// |---|---|
/// | `weight` | a whole number: `9`, `9.0`, `"9"`; 0 and an empty text mean "not set", as Go writes such a field |
/// | `draining` | `true`, `1`, `"true"`, `"True"`, `"yes"`, `"on"`, and their opposites |
/// | `zone`, `version`, `id` | text or a number; an empty text means "not set" |
/// | `metadata` | an object, whose members become the instance's metadata |
///
/// Every other member is kept as metadata under its name, as text. A member of the table with any
/// other value is kept as metadata too, and the resolver logs that once for each service
/// ([`Instance::misread`]). A `Metadata` that is no object is kept as metadata with the name
/// `Metadata`.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcNaming;

impl Codec for GrpcNaming {
    fn decode(&self, _key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        let refuse = |reason: String| DecodeError::new(format!("no gRPC naming: {reason}"));
        let text = json::text(value).map_err(|reason| refuse(reason.to_owned()))?;
        let update: ReadUpdate<'_> =
            serde_json::from_str(&text).map_err(|error| match hint::hint_for_value(value) {
                Some(hint) => refuse(format!("{hint} ({error})")),
                None => refuse(error.to_string()),
            })?;
        let Some(written) = update.addr else {
            let hint = hint::hint_for_object(&text).map(|hint| format!("; {hint}")).unwrap_or_default();
            return Err(refuse(format!("\"Addr\" is missing{hint}")));
        };
        let address = Address::read(&written).map_err(|reason| {
            DecodeError::new(format!("\"Addr\" is {:?}: {reason}", secret::without_user(&written)))
        })?;
        Ok(vec![match update.metadata {
            None => Instance::at(address),
            Some(metadata) => with_metadata(Instance::at(address), metadata),
        }])
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        let stored = StoredMetadata::of(instance);
        let metadata = (!stored.is_empty()).then_some(&stored);
        let prefix = target.prefix();
        let record = |address: &Address| {
            let written = StoredUpdate { op: 0, addr: address.to_string(), metadata };
            let value = serde_json::to_vec(&written).map_err(|error| EncodeError::new(error.to_string()))?;
            Ok(Record::new(format!("{prefix}{}", address.parsed_authority().as_str()), value))
        };
        instance.addresses().iter().map(record).collect()
    }

    fn name(&self) -> &'static str {
        "grpc-naming"
    }
}

/// A value as it is written: the `Update` of etcd's Go client, with its fields in the same order.
/// `Op` is always 0, which means "add".
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StoredUpdate<'a> {
    op: u8,
    addr: String,
    metadata: Option<&'a StoredMetadata<'a>>,
}

/// What an instance says of itself, as it is written. Parts that are not set are left out, so that
/// other readers see only what was said.
#[derive(Serialize)]
pub(super) struct StoredMetadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    draining: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
}

impl<'a> StoredMetadata<'a> {
    /// What this instance says of itself.
    pub(super) fn of(instance: &'a Instance) -> Self {
        Self {
            weight: instance.weight(),
            zone: instance.zone(),
            version: instance.version(),
            id: instance.id(),
            draining: instance.is_draining(),
            metadata: instance.metadata(),
        }
    }

    /// Whether nothing is set. `Metadata` is then `null`, as Go writes it, and the instance can be
    /// written as a plain address.
    pub(super) fn is_empty(&self) -> bool {
        let named = self.zone.is_some() || self.version.is_some() || self.id.is_some();
        self.weight.is_none() && !named && !self.draining && self.metadata.is_empty()
    }
}

/// What is read of a value. Deserialized by hand, because Go matches field names without regard to
/// case, and takes the later of two fields with one name.
struct ReadUpdate<'a> {
    /// `Addr`, if it is there.
    addr: Option<String>,
    /// `Metadata` as it is written, if it is there.
    metadata: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for ReadUpdate<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = ReadUpdate<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with \"Addr\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ReadUpdate<'de>, A::Error> {
                let mut update = ReadUpdate { addr: None, metadata: None };
                while let Some(name) = map.next_key::<FieldName>()? {
                    match name {
                        // In Go a `null` changes nothing.
                        FieldName::Addr => update.addr = map.next_value::<Option<String>>()?.or(update.addr),
                        FieldName::Metadata => update.metadata = Some(map.next_value()?),
                        FieldName::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(update)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The fields of a value.
enum FieldName {
    /// The address.
    Addr,
    /// What the instance says of itself.
    Metadata,
    /// Any other field, which is ignored.
    Other,
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyCase;

        impl Visitor<'_> for AnyCase {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<FieldName, E> {
                Ok(match name {
                    _ if matches_name(name, "addr") => FieldName::Addr,
                    _ if matches_name(name, "metadata") => FieldName::Metadata,
                    _ => FieldName::Other,
                })
            }
        }

        deserializer.deserialize_identifier(AnyCase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(value: &str) -> Result<Vec<Instance>, DecodeError> {
        GrpcNaming.decode(b"foo/my-service/x", value.as_bytes())
    }

    fn at(address: &str) -> Instance {
        Instance::new(address).unwrap()
    }

    #[test]
    fn writes_what_go_writes() {
        let target = Target::parse("foo/my-service").unwrap();
        let records = GrpcNaming.encode(&target, &at("10.0.0.5:50051")).unwrap();
        let expected = r#"{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}"#;
        assert_eq!(records, [Record::new("foo/my-service/10.0.0.5:50051", expected)]);
    }

    #[test]
    fn writes_one_key_per_address_and_leaves_absent_parts_out() {
        let instance = at("10.0.0.5:1").with_address("https://[::1]:2").unwrap().with_metadata("a", "b");
        let instance = instance.with_weight(7).unwrap();
        let records = GrpcNaming.encode(&Target::parse("s").unwrap(), &instance).unwrap();
        let metadata = r#"{"weight":7,"metadata":{"a":"b"}}"#;
        assert_eq!(
            records,
            [
                Record::new("s/10.0.0.5:1", format!(r#"{{"Op":0,"Addr":"10.0.0.5:1","Metadata":{metadata}}}"#)),
                Record::new("s/[::1]:2", format!(r#"{{"Op":0,"Addr":"https://[::1]:2","Metadata":{metadata}}}"#)),
            ]
        );
    }

    #[test]
    fn reads_what_go_would_read_and_more() {
        let plain = Ok(vec![at("10.0.0.5:1")]);
        for value in [
            r#"{"Op":0,"Addr":"10.0.0.5:1","Metadata":null}"#,
            r#"{"Op":1,"Addr":"10.0.0.5:1"}"#,
            r#"{"addr":"10.0.0.5:1"}"#,
            r#"{"ADDR":"10.0.0.5:1","op":"what","Extra":[1,{"x":2}],"MetadataX":{"weight":3}}"#,
            " {\"Addr\":\"10.0.0.5:1\"}\n",
        ] {
            assert_eq!(decode(value), plain, "{value}");
        }
    }

    /// F70: what Go's decoder makes of odd values.
    #[test]
    fn reads_odd_values_as_go_does() {
        let replaced = at("h:1").with_metadata("k", "a\u{fffd}b");
        for (value, read) in [
            (&b"{\"Addr\":\"h:1\",\"Metadata\":{\"k\":\"a\xffb\"}}"[..], replaced.clone()),
            (br#"{"Addr":"h:1","Metadata":{"k":"a\ud800b"}}"#, replaced.clone()),
            (br#"{"Addr":"h:1","Metadata":"{\"k\":\"a\\udc00b\"}"}"#, replaced),
            (b"{\"x\xff\":\"\xff\",\"Addr\":\"h:1\"}", at("h:1")),
            (br#"{"Addr":"g:2","addr":"h:1"}"#, at("h:1")),
            (br#"{"Addr":"h:1","ADDR":null}"#, at("h:1")),
            (br#"{"Addr":"h:1","Metadata":{"k":"v"},"metadata":null}"#, at("h:1")),
            (br#"{"Addr":"h:1","x":1e999,"Metadata":[]}"#, at("h:1").with_metadata("Metadata", "[]")),
            (br#"{"\u0041ddr":"h:1"}"#, at("h:1")),
            (br#"{"Addr":"h\u003a1"}"#, at("h:1")),
        ] {
            assert_eq!(GrpcNaming.decode(b"k", value), Ok(vec![read]), "{}", String::from_utf8_lossy(value));
        }
        let deep = format!(r#"{{"Addr":"h:1","Metadata":{{"k":{}1{}}}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(decode(&deep).unwrap()[0].metadata()["k"].len(), 10_001, "Go reads up to 10000 levels");
    }

    #[test]
    fn reads_any_metadata_and_loses_none_of_it() {
        for (metadata, instance) in [
            (
                r#"{"weight":10,"zone":"a","version":"v1","metadata":{"k":"v","n":1}}"#,
                at("h:1")
                    .with_stored_weight(10)
                    .with_zone("a")
                    .with_version("v1")
                    .with_metadata("k", "v")
                    .with_metadata("n", "1"),
            ),
            (r#"{"weight":"10"}"#, at("h:1").with_stored_weight(10)),
            (r#"{"weight":0}"#, at("h:1")),
            (
                r#"{"weight":-1,"zone":7}"#,
                at("h:1")
                    .with_metadata("weight", "-1")
                    .with_zone("7")
                    .with_misread(r#""weight" is "-1": no whole number from 0 to 4294967295"#),
            ),
            (
                r#"{"team":"x","tags":["a"],"none":null}"#,
                at("h:1").with_metadata("team", "x").with_metadata("tags", r#"["a"]"#),
            ),
            (r#""{\"name\":\"proxy-1\"}""#, at("h:1").with_metadata("name", "proxy-1")),
            (r#""just text""#, at("h:1").with_metadata("Metadata", "just text")),
            ("[1,2]", at("h:1").with_metadata("Metadata", "[1,2]")),
        ] {
            assert_eq!(decode(&format!(r#"{{"Addr":"h:1","Metadata":{metadata}}}"#)), Ok(vec![instance]), "{metadata}");
        }
    }

    #[test]
    fn gives_a_reason_for_what_it_cannot_read() {
        for (value, reason) in [
            ("", "no gRPC naming"),
            ("{\"Addr\":\"é://x@h:1\"}", "user"),
            ("{", "no gRPC naming"),
            ("[]", "Addr"),
            ("{}", "missing"),
            (r#"{"Addr":null}"#, "missing"),
            (r#"{"Addr":7}"#, "no gRPC naming"),
            (r#"{"Addr":""}"#, "no host"),
            (r#"{"Addr":"10.0.0.5"}"#, "port"),
            (r#"{"Addr":"ftp://h:1"}"#, "scheme"),
            (r#"{"Addr":"unix:run/x"}"#, "absolute path"),
            (r#"{"Addr":"h:1"} trailing"#, "no gRPC naming"),
        ] {
            let error = decode(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{value}: {error}");
        }
        let deep = format!(r#"{{"Addr":"h:1","Metadata":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        assert!(decode(&deep).is_err());
    }

    prop_compose! {
        fn instances()(
            ports in proptest::collection::btree_set(1u16.., 1..4),
            secure: bool, weight in proptest::option::of(1u32..), zone in proptest::option::of(".*"),
            version in proptest::option::of(".*"), id in proptest::option::of(".*"), draining: bool,
            metadata in proptest::collection::btree_map(".*", ".*", 0..4),
        ) -> Instance {
            let scheme = if secure { "https://" } else { "" };
            let mut ports = ports.into_iter();
            let first = at(&format!("{scheme}10.0.0.5:{}", ports.next().unwrap()));
            let instance = ports.fold(first, |i, port| i.with_address(format!("10.0.0.5:{port}")).unwrap());
            let instance = metadata.into_iter().fold(instance, |i, (name, value)| i.with_metadata(name, value));
            let instance = zone.into_iter().fold(instance, Instance::with_zone);
            let instance = version.into_iter().fold(instance, Instance::with_version);
            let instance = id.into_iter().fold(instance, Instance::with_id).with_draining(draining);
            weight.into_iter().fold(instance, Instance::with_stored_weight)
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(instance in instances()) {
            let records = GrpcNaming.encode(&Target::parse("s").unwrap(), &instance).unwrap();
            prop_assert_eq!(records.len(), instance.addresses().len());
            for (record, address) in records.iter().zip(instance.addresses()) {
                let read = GrpcNaming.decode(&record.key, &record.value).unwrap();
                prop_assert_eq!(read.len(), 1);
                prop_assert_eq!(read[0].addresses(), std::slice::from_ref(address));
                prop_assert_eq!((read[0].id(), read[0].is_draining()), (instance.id(), instance.is_draining()));
                prop_assert_eq!(
                    (read[0].weight(), read[0].zone(), read[0].version(), read[0].metadata()),
                    (instance.weight(), instance.zone(), instance.version(), instance.metadata())
                );
            }
        }
    }
}
