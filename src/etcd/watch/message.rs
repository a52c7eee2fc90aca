//! The messages of a watch stream, as etcd's rpc.proto defines them, without the fields that nobody
//! reads here.
//!
//! Keys and values are slices of the message that brought them and are not copied. For
//! etcd-client's own types see the `From` below.

use bytes::Bytes;

use crate::etcd::failure::{Class, Failure};

/// A request on the stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchRequest {
    #[prost(oneof = "RequestUnion", tags = "1, 2, 3")]
    pub(super) union: Option<RequestUnion>,
}

/// The kinds of requests.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum RequestUnion {
    /// Create a watch.
    #[prost(message, tag = "1")]
    Create(CreateRequest),
    /// Cancel a watch.
    #[prost(message, tag = "2")]
    Cancel(CancelRequest),
    /// Ask for the progress of all watches.
    #[prost(message, tag = "3")]
    Progress(ProgressRequest),
}

/// Creates a watch of a range from a revision on.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
    #[prost(bool, tag = "4")]
    pub(super) progress_notify: bool,
    #[prost(int64, tag = "7")]
    pub(super) watch_id: i64,
}

/// Cancels a watch.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CancelRequest {
    #[prost(int64, tag = "1")]
    pub(super) watch_id: i64,
}

/// Asks for the progress of all watches of the stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProgressRequest {}

/// A message of etcd: a creation, a cancellation, events, or progress.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    #[prost(int64, tag = "2")]
    pub(super) watch_id: i64,
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<RawEvent>,
}

/// The header of a response, of which the revision is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// An event. Its type is not read: the version of a deleted key is zero (etcd's rpc.proto).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawEvent {
    #[prost(message, optional, tag = "2")]
    pub(super) pair: Option<KeyValue>,
}

/// The key of an event.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub(super) version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
    #[prost(int64, tag = "6")]
    pub(super) lease: i64,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The revision of the change.
    pub(crate) revision: i64,
    /// The key.
    pub(crate) key: Bytes,
    /// The lease that a put attached to the key; 0 for none.
    pub(crate) lease: i64,
    /// The value of a put; `None` for a deletion.
    pub(crate) value: Option<Bytes>,
}

impl WatchRequest {
    /// A request of this kind.
    pub(super) fn new(union: RequestUnion) -> Self {
        Self { union: Some(union) }
    }
}

impl WatchResponse {
    /// The revision of the header; 0 without one.
    pub(super) fn revision(&self) -> i64 {
        self.header.as_ref().map_or(0, |header| header.revision)
    }

    /// The events of the message. An event without a key is left out.
    pub(super) fn into_events(self) -> Vec<Event> {
        let event = |pair: KeyValue| {
            let value = (pair.version > 0).then_some(pair.value);
            Event { revision: pair.mod_revision, key: pair.key, lease: pair.lease, value }
        };
        self.events.into_iter().filter_map(|event| event.pair).map(event).collect()
    }

    /// Why etcd has ended a watch, if this message says that it has. A compaction is told by its
    /// revision, everything else by a reason in words.
    pub(super) fn cancellation(&self) -> Option<Failure> {
        if self.compact_revision > 0 {
            let reason = format!("compacted up to {}", self.compact_revision);
            return Some(Failure::new(Class::Revision, reason));
        }
        self.canceled.then(|| Failure::from_reason(&self.cancel_reason))
    }
}

/// From etcd-client's message, for a user's own client. Copies keys and values.
impl From<&etcd_client::WatchResponse> for WatchResponse {
    fn from(response: &etcd_client::WatchResponse) -> Self {
        let pair = |pair: &etcd_client::KeyValue| KeyValue {
            key: Bytes::copy_from_slice(pair.key()),
            mod_revision: pair.mod_revision(),
            version: pair.version(),
            value: Bytes::copy_from_slice(pair.value()),
            lease: pair.lease(),
        };
        Self {
            header: response.header().map(|header| ResponseHeader { revision: header.revision() }),
            watch_id: response.watch_id(),
            created: response.created(),
            canceled: response.canceled(),
            compact_revision: response.compact_revision(),
            cancel_reason: response.cancel_reason().to_owned(),
            events: response.events().iter().map(|event| RawEvent { pair: event.kv().map(pair) }).collect(),
        }
    }
}
