//! Messages, as etcd words them.

use etcd_client::EventType;
use etcd_client::proto::{PbEvent, PbKeyValue, PbResponseHeader, PbWatchResponse};
use tonic::Status;

/// Of every fake, as members of one cluster.
pub(crate) const CLUSTER: u64 = 0x7e1c;

#[expect(clippy::unnecessary_wraps, reason = "a message takes its header so")]
pub(crate) fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { cluster_id: CLUSTER, member_id: 1, revision, raft_term: 2 })
}

/// The watch exists, says a member at that revision.
pub(crate) fn created(revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), created: true, ..PbWatchResponse::default() }
}

/// The watch exists, says etcd's grpc-proxy, which knows no more of it than where it is to start.
pub(super) fn created_by_proxy(start: i64) -> PbWatchResponse {
    let header = PbResponseHeader { revision: start, ..PbResponseHeader::default() };
    PbWatchResponse { header: Some(header), ..created(start) }
}

/// The watch is over, as its client wished.
pub(crate) fn canceled(revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), canceled: true, ..PbWatchResponse::default() }
}

/// The watch was refused, as etcd does it: under no id.
pub(crate) fn refused(revision: i64, reason: &str) -> PbWatchResponse {
    PbWatchResponse { canceled: true, cancel_reason: reason.to_owned(), watch_id: -1, ..created(revision) }
}

/// What the watch wants was compacted.
pub(crate) fn compacted(revision: i64, compact_revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), canceled: true, compact_revision, ..PbWatchResponse::default() }
}

/// No events: of one watch, as etcd gives it by itself, or of all of a stream (−1), as it answers a request.
pub(crate) fn progress(watch_id: i64, revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), watch_id, ..PbWatchResponse::default() }
}

pub(crate) fn events(revision: i64, events: Vec<PbEvent>) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), events, ..PbWatchResponse::default() }
}

pub(crate) fn put(revision: i64, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> PbEvent {
    let pair = PbKeyValue {
        key: key.into(),
        value: value.into(),
        create_revision: revision,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    PbEvent { r#type: EventType::Put as i32, kv: Some(pair), prev_kv: None }
}

/// How a member that only learns refuses, as etcd 3.6 and the later releases of 3.5 word it.
pub(crate) fn learner() -> Status {
    Status::failed_precondition("etcdserver: rpc not supported for learner")
}

/// How a member that only learns refuses, as etcd 3.4 and the first releases of 3.5 word it.
pub(crate) fn old_learner() -> Status {
    Status::unavailable("etcdserver: rpc not supported for learner")
}
