//! Records as frameworks, languages and people's hands write them (`records.jsonl`), and what etcd's official client for Go lists of
//! them (`go.jsonl`, written by `cargo xtask test --interop go` with `CORPUS=record`).

use std::collections::BTreeMap;

use serde::Deserialize;
use tonic_etcd::{Instance, SnapshotEntry};

/// Under which all of them stand in one etcd.
pub(crate) const SERVICE: &str = "corpus";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Its name, which begins its key here.
    pub(crate) id: String,
    /// Who writes such a record.
    #[serde(rename = "writer")]
    _writer: String,
    /// The key, as it is written, but for a slash at its beginning; or its bytes.
    #[serde(default)]
    key: String,
    #[serde(default)]
    key_hex: String,
    /// The value, or its bytes.
    #[serde(default)]
    value: String,
    #[serde(default)]
    hex: String,
    /// What this crate makes of it: [`shown`].
    pub(crate) ours: String,
    /// Why Go's client makes something else of it, if it does.
    #[serde(default)]
    pub(crate) differs: Option<String>,
}

impl Record {
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = format!("{SERVICE}/{}/{}", self.id, self.key).into_bytes();
        key.extend(bytes(&self.key_hex));
        key
    }

    pub(crate) fn value(&self) -> Vec<u8> {
        if self.hex.is_empty() { self.value.clone().into_bytes() } else { bytes(&self.hex) }
    }
}

/// What Go's client lists of a key.
#[derive(Deserialize)]
pub(crate) struct Listed {
    key: String,
    pub(crate) addr: String,
}

pub(crate) fn records() -> Vec<Record> {
    lines(include_str!("records.jsonl"))
}

/// What Go's client listed when it was last asked, by key.
pub(crate) fn listed_by_go() -> BTreeMap<String, Listed> {
    lines(include_str!("go.jsonl")).into_iter().map(|listed: Listed| (listed.key.clone(), listed)).collect()
}

/// What this crate makes of a record, in a line.
pub(crate) fn shown(entry: &SnapshotEntry) -> String {
    match entry.error() {
        Some(error) => format!("unreadable: {error}"),
        None => entry.instances().iter().map(instance).collect::<Vec<_>>().join("; "),
    }
}

fn instance(instance: &Instance) -> String {
    let mut shown: Vec<_> = instance.addresses().iter().map(ToString::to_string).collect();
    let named = [("zone", instance.zone()), ("version", instance.version()), ("id", instance.id())];
    shown.extend(instance.weight().map(|weight| format!("weight={weight}")));
    shown.extend(named.into_iter().filter_map(|(name, said)| said.map(|said| format!("{name}={said:?}"))));
    shown.extend(instance.is_draining().then(|| "draining".to_owned()));
    if !instance.metadata().is_empty() {
        shown.push(format!("metadata={:?}", instance.metadata()));
    }
    shown.extend(instance.misread().map(|misread| format!("not understood: {misread}")));
    shown.join(" ")
}

fn lines<T: for<'de> Deserialize<'de>>(text: &'static str) -> Vec<T> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}
