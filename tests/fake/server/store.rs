//! What the fake holds: its keys at every revision since the first, and its leases.

use std::collections::BTreeMap;

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbKeyValue, PbRangeRequest, PbRangeResponse};
use tonic::Status;

use super::message::header;

/// Nothing is ever forgotten here: a compaction only forbids to ask for what was before.
#[derive(Debug)]
pub(crate) struct Store {
    revision: i64,
    /// The revision before what is done at once.
    before: Option<i64>,
    compacted: i64,
    history: Vec<PbEvent>,
    leases: BTreeMap<i64, i64>,
}

impl Default for Store {
    /// As a new etcd is.
    fn default() -> Self {
        Self { revision: 1, before: None, compacted: 0, history: Vec::new(), leases: BTreeMap::new() }
    }
}

impl Store {
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn compacted(&self) -> i64 {
        self.compacted
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.revision;
    }

    /// The revision of the put.
    pub(crate) fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> i64 {
        self.put_under(key, value, 0)
    }

    pub(crate) fn put_under(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: i64) -> i64 {
        let (key, value) = (key.into(), value.into());
        self.advance();
        let before = self.get(&key);
        let pair = PbKeyValue {
            version: before.as_ref().map_or(0, |pair| pair.version) + 1,
            create_revision: before.map_or(self.revision, |pair| pair.create_revision),
            mod_revision: self.revision,
            key,
            value,
            lease,
        };
        self.history.push(PbEvent { r#type: EventType::Put as i32, kv: Some(pair), prev_kv: None });
        self.revision
    }

    /// Does several things at one revision.
    pub(super) fn at_once<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> T {
        self.before = Some(self.revision);
        let result = change(self);
        self.before = None;
        result
    }

    fn advance(&mut self) {
        self.revision = self.before.unwrap_or(self.revision) + 1;
    }

    /// Whether it was there.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        self.delete_all(vec![key.to_vec()]) > 0
    }

    fn delete_all(&mut self, mut keys: Vec<Vec<u8>>) -> usize {
        keys.retain(|key| self.get(key).is_some());
        if !keys.is_empty() {
            self.advance();
        }
        for key in &keys {
            let pair = PbKeyValue { key: key.clone(), mod_revision: self.revision, ..PbKeyValue::default() };
            self.history.push(PbEvent { r#type: EventType::Delete as i32, kv: Some(pair), prev_kv: None });
        }
        keys.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<PbKeyValue> {
        self.at(self.revision).remove(key)
    }

    /// The keys as they stood at that revision.
    fn at(&self, revision: i64) -> BTreeMap<Vec<u8>, PbKeyValue> {
        let mut keys = BTreeMap::new();
        for event in self.history.iter().filter(|event| mod_revision(event) <= revision) {
            let pair = event.kv.clone().expect("a stored event has a key");
            match event.r#type() {
                EventType::Put => keys.insert(pair.key.clone(), pair),
                EventType::Delete => keys.remove(&pair.key),
            };
        }
        keys
    }

    pub(crate) fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Status> {
        let at = if request.revision > 0 { request.revision } else { self.revision };
        if at < self.compacted {
            return Err(Status::out_of_range("etcdserver: mvcc: required revision has been compacted"));
        }
        if at > self.revision {
            return Err(Status::out_of_range("etcdserver: mvcc: required revision is a future revision"));
        }
        let mut pairs: Vec<PbKeyValue> = self.at(at).into_values().collect();
        pairs.retain(|pair| contains(&request.key, &request.range_end, &pair.key));
        let count = i64::try_from(pairs.len()).expect("less than 2^63 keys");
        let limit = match request.limit {
            _ if request.count_only => 0,
            0 => count,
            limit => limit,
        };
        pairs.truncate(usize::try_from(limit).expect("a limit is positive"));
        let more = !request.count_only && limit < count;
        Ok(PbRangeResponse { header: header(self.revision), kvs: pairs, more, count })
    }

    /// What happened in a range from that revision on.
    pub(crate) fn events(&self, from: i64, start: &[u8], end: &[u8]) -> Vec<PbEvent> {
        let concerns = |event: &&PbEvent| {
            let pair = event.kv.as_ref().expect("a stored event has a key");
            pair.mod_revision >= from && contains(start, end, &pair.key)
        };
        self.history.iter().filter(concerns).cloned().collect()
    }

    pub(crate) fn leases(&self) -> Vec<i64> {
        self.leases.keys().copied().collect()
    }

    pub(crate) fn ttl(&self, lease: i64) -> Option<i64> {
        self.leases.get(&lease).copied()
    }

    /// Whether it is new.
    pub(crate) fn grant(&mut self, lease: i64, ttl: i64) -> bool {
        let new = !self.leases.contains_key(&lease);
        self.leases.entry(lease).or_insert(ttl);
        new
    }

    /// Ends a lease, by hand or by time, and what stands under it. Whether it was there.
    pub(crate) fn end_lease(&mut self, lease: i64) -> bool {
        let under = self.at(self.revision).into_values().filter(|pair| pair.lease == lease);
        let keys = under.map(|pair| pair.key).collect();
        self.leases.remove(&lease).is_some() && {
            self.delete_all(keys);
            true
        }
    }
}

fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    if end.is_empty() { key == start } else { (start..end).contains(&key) }
}

fn mod_revision(event: &PbEvent) -> i64 {
    event.kv.as_ref().map_or(0, |pair| pair.mod_revision)
}
