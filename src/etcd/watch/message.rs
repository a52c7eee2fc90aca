//! The messages of a watch stream, as etcd's `rpc.proto` and `kv.proto` define them, without the
//! fields that nobody reads here.
//!
//! They are declared here, and not taken from etcd-client, because keys and values are then slices
//! of the message that brought them: a list of events is not copied key by key. Only a user's own
//! client takes the way through etcd-client's types, which copies.
//!
//! Revisions and ids are `i64`, as in etcd. A negative id stands for the whole stream.

use bytes::Bytes;

use crate::etcd::failure::{Class, Failure};

/// A request on the stream, of one of three kinds.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchRequest {
    /// The kind; always set.
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

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CreateRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The first key after the range; empty for a single key.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    /// The first revision that is reported; 0 for "from now on".
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
    /// Whether etcd reports progress while there are no events: every ten minutes by default.
    #[prost(bool, tag = "4")]
    pub(super) progress_notify: bool,
    /// The id of the watch on this stream, chosen by us. A proxy may choose another one.
    #[prost(int64, tag = "7")]
    pub(super) watch_id: i64,
}

/// Cancels a watch. etcd answers with `canceled`, also for an id that it does not know.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CancelRequest {
    /// The id of the watch.
    #[prost(int64, tag = "1")]
    pub(super) watch_id: i64,
}

/// Asks for the progress of all watches of the stream. etcd answers once all of them have reached
/// its revision, with the id −1. grpc-proxy does not answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ProgressRequest {}

/// A message of etcd: a creation, a cancellation, events, or progress.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchResponse {
    /// The header; always set by etcd.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// The id of the watch; −1 for the stream.
    #[prost(int64, tag = "2")]
    pub(super) watch_id: i64,
    /// Whether this answers a creation.
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    /// Whether the watch has ended.
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    /// The revision up to which etcd has compacted, where the watch has ended because of that;
    /// otherwise 0.
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    /// Why the watch has ended, in words.
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    /// The changes, in the order of their revisions.
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<RawEvent>,
}

/// The header of a response, of which the revision is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    /// The revision of the member that sent the message.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
}

/// An event. Its type is not read: the version of a deleted key is zero (etcd's rpc.proto).
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RawEvent {
    /// The key, with its value for a put.
    #[prost(message, optional, tag = "2")]
    pub(super) pair: Option<KeyValue>,
}

/// The key of an event.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    /// The revision of the change.
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    /// The number of puts since the key was created; 0 for a deleted key.
    #[prost(int64, tag = "4")]
    pub(super) version: i64,
    /// The value; empty for a deleted key.
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
    /// The lease that the key is attached to; 0 for none.
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

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::etcd::members::learn;

    /// The fuzz target: messages of any bytes, and any messages. What is decoded is the same when it is encoded and decoded again,
    /// and a message has an event for each key in it.
    pub(crate) fn fuzz(bytes: &[u8]) {
        learn::tests::fuzz(bytes);
        if let Ok(response) = WatchResponse::decode(bytes) {
            is_the_same_again(&response);
        }
        crate::fuzzing::with(bytes, response(), |response| {
            is_the_same_again(&response);
            Ok(())
        });
    }

    fn is_the_same_again(response: &WatchResponse) {
        let encoded = Bytes::from(response.encode_to_vec());
        assert_eq!(WatchResponse::decode(encoded.clone()).as_ref(), Ok(response));
        let ends = response.canceled || response.compact_revision > 0;
        assert_eq!(response.cancellation().is_some(), ends);
        if let Some(failure) = response.cancellation() {
            assert!(!failure.to_string().is_empty());
        }
        let pairs: Vec<_> = response.events.iter().filter_map(|event| event.pair.clone()).collect();
        let events = response.clone().into_events();
        assert_eq!(events.len(), pairs.len());
        for (event, pair) in events.iter().zip(&pairs) {
            assert_eq!((&event.key, event.revision, event.lease), (&pair.key, pair.mod_revision, pair.lease));
            assert_eq!(event.value.as_ref(), (pair.version > 0).then_some(&pair.value));
        }
        // Keys and values are slices of the message that brought them.
        for event in WatchResponse::decode(encoded.clone()).unwrap_or_default().into_events() {
            let is_within = event.key.is_empty() || encoded.as_ptr_range().contains(&event.key.as_ptr());
            assert!(is_within, "the key is copied");
        }
    }

    fn response() -> impl Strategy<Value = WatchResponse> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..6).prop_map(Bytes::from);
        let number = || {
            (any::<bool>(), -1_i64..3, any::<i64>())
                .prop_map(|(is_small, small, any)| if is_small { small } else { any })
        };
        let pair =
            (bytes(), number(), number(), bytes(), number()).prop_map(|(key, mod_revision, version, value, lease)| {
                KeyValue { key, mod_revision, version, value, lease }
            });
        let event = proptest::option::of(pair).prop_map(|pair| RawEvent { pair });
        let header = proptest::option::of(number().prop_map(|revision| ResponseHeader { revision }));
        let events = proptest::collection::vec(event, 0..4);
        (header, number(), any::<(bool, bool)>(), number(), any::<u8>(), events).prop_map(
            |(header, watch_id, (created, canceled), compact_revision, reason, events)| {
                let reasons = ["", "etcdserver: mvcc: required revision has been compacted", "permission denied", "ä"];
                let cancel_reason = reasons[usize::from(reason) % reasons.len()].to_owned();
                WatchResponse { header, watch_id, created, canceled, compact_revision, cancel_reason, events }
            },
        )
    }

    proptest! {
        #[test]
        fn any_message_is_read_as_it_was_written(response in response()) {
            is_the_same_again(&response);
        }
    }
}
