//! etcd's own gRPC naming, as Go's `endpoints.Manager` and grpc-proxy write it. PURE.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{Codec, DecodeError, EncodeError, Record};
use crate::address::Address;
use crate::instance::Instance;
use crate::secret;
use crate::target::Target;

/// `greeter/10.0.0.5:50051` = `{"Op":0,"Addr":"10.0.0.5:50051","Metadata":null}`: one key per address.
///
/// Written: `Metadata` is `null`, or `{"weight":…,"zone":…,"version":…,"id":…,"draining":true,"metadata":{…}}` with absent
/// parts left out.
/// An `https` address is written with its scheme, which Go's resolver does not understand: in a mixed fleet register
/// `host:port` and turn TLS on at the clients.
///
/// Read, as Go reads it: field names without regard to case, unknown fields ignored, `Op` without meaning, `Metadata`
/// any JSON. Its members `weight` (a number or decimal text), `zone`, `version`, `id`, `draining` and `metadata` are understood, and
/// what else it holds is kept as metadata of that name, as text; so is a string that holds such an object
/// (grpc-proxy). Anything else that it may be stands in the metadata under the name `Metadata`.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcNaming;

impl Codec for GrpcNaming {
    fn decode(&self, _key: &[u8], value: &[u8]) -> Result<Vec<Instance>, DecodeError> {
        let update: Update =
            serde_json::from_slice(value).map_err(|error| DecodeError::new(format!("no gRPC naming: {error}")))?;
        let text = update.addr.ok_or_else(|| DecodeError::new("no gRPC naming: \"Addr\" is missing"))?;
        let address = Address::read(&text)
            .map_err(|reason| DecodeError::new(format!("\"Addr\" is {:?}: {reason}", secret::without_user(&text))))?;
        Ok(vec![match update.metadata {
            None => Instance::at(address),
            Some(metadata) => with_metadata(Instance::at(address), metadata),
        }])
    }

    fn encode(&self, target: &Target, instance: &Instance) -> Result<Vec<Record>, EncodeError> {
        let said = Said {
            weight: instance.weight(),
            zone: instance.zone(),
            version: instance.version(),
            id: instance.id(),
            draining: instance.is_draining(),
            metadata: instance.metadata(),
        };
        let metadata = (!said.is_empty()).then_some(&said);
        let prefix = target.prefix();
        let record = |address: &Address| {
            let written = Written { op: 0, addr: address.to_string(), metadata };
            let value = serde_json::to_vec(&written).map_err(|error| EncodeError::new(error.to_string()))?;
            Ok(Record::new(format!("{prefix}{}", address.parsed_authority().as_str()), value))
        };
        instance.addresses().iter().map(record).collect()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'a> {
    op: u8,
    addr: String,
    metadata: Option<&'a Said<'a>>,
}

#[derive(Serialize)]
struct Said<'a> {
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

impl Said<'_> {
    fn is_empty(&self) -> bool {
        let named = self.zone.is_some() || self.version.is_some() || self.id.is_some();
        self.weight.is_none() && !named && !self.draining && self.metadata.is_empty()
    }
}

/// What is read of a value. By hand, because Go matches field names without regard to case.
struct Update {
    addr: Option<String>,
    metadata: Option<Value>,
}

impl<'de> Deserialize<'de> for Update {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Update;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with \"Addr\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Update, A::Error> {
                let mut update = Update { addr: None, metadata: None };
                while let Some(name) = map.next_key::<Name>()? {
                    match name {
                        Name::Addr => update.addr = map.next_value()?,
                        Name::Metadata => update.metadata = map.next_value()?,
                        Name::Other => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(update)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

enum Name {
    Addr,
    Metadata,
    Other,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyCase;

        impl Visitor<'_> for AnyCase {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Name, E> {
                Ok(match name {
                    _ if name.eq_ignore_ascii_case("addr") => Name::Addr,
                    _ if name.eq_ignore_ascii_case("metadata") => Name::Metadata,
                    _ => Name::Other,
                })
            }
        }

        deserializer.deserialize_identifier(AnyCase)
    }
}

fn with_metadata(instance: Instance, metadata: Value) -> Instance {
    match metadata {
        Value::Null => instance,
        Value::Object(members) => members.into_iter().fold(instance, with_member),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(members)) => members.into_iter().fold(instance, with_member),
            _ => instance.with_metadata("Metadata", text),
        },
        other => instance.with_metadata("Metadata", other.to_string()),
    }
}

fn with_member(instance: Instance, (name, value): (String, Value)) -> Instance {
    match (name.as_str(), value) {
        (_, Value::Null) => instance,
        ("zone", Value::String(zone)) => instance.with_zone(zone),
        ("version", Value::String(version)) => instance.with_version(version),
        ("id", Value::String(id)) => instance.with_id(id),
        ("draining", Value::Bool(draining)) => instance.with_draining(draining),
        ("metadata", Value::Object(pairs)) => {
            pairs.into_iter().fold(instance, |instance, (name, value)| instance.with_metadata(name, text(value)))
        }
        ("weight", value) => match weight(&value) {
            Some(weight) => instance.with_weight(weight),
            None => instance.with_metadata(name, text(value)),
        },
        (_, value) => instance.with_metadata(name, text(value)),
    }
}

fn weight(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
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
        let instance = at("10.0.0.5:1").with_address("https://[::1]:2").unwrap().with_weight(7).with_metadata("a", "b");
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
    fn reads_what_go_would_read() {
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

    #[test]
    fn reads_any_metadata_and_loses_none_of_it() {
        for (metadata, instance) in [
            (
                r#"{"weight":10,"zone":"a","version":"v1","metadata":{"k":"v","n":1}}"#,
                at("h:1")
                    .with_weight(10)
                    .with_zone("a")
                    .with_version("v1")
                    .with_metadata("k", "v")
                    .with_metadata("n", "1"),
            ),
            (r#"{"weight":"10"}"#, at("h:1").with_weight(10)),
            (r#"{"weight":0}"#, at("h:1")),
            (r#"{"weight":-1,"zone":7}"#, at("h:1").with_metadata("weight", "-1").with_metadata("zone", "7")),
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
            weight.into_iter().fold(instance, Instance::with_weight)
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
