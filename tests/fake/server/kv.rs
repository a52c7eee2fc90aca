//! Keys and values.

use std::cmp::Ordering;

use etcd_client::CompareOp;
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbResponseOp, PbTargetUnion, PbTxnOpRequest,
    PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::message::header;
use super::{Shared, Store};

#[tonic::async_trait]
impl PbKvService for Shared {
    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        // What it holds itself, a learner tells.
        if !request.get_ref().serializable {
            self.admit()?;
        }
        self.reply(|rpcs| &mut rpcs.range, request.get_ref(), |store, request| store.range(request)).await
    }

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("no streams of ranges"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        self.answer(|rpcs| &mut rpcs.put, request.get_ref(), put).await
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        self.answer(|rpcs| &mut rpcs.delete, request.get_ref(), delete).await
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.get_ref();
        match request.success.as_slice() {
            [PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestPut(put)) }] => {
                self.admit()?;
                self.guarded_put(put, |store| txn(store, request)).await
            }
            _ => self.answer(|rpcs| &mut rpcs.txn, request, txn).await,
        }
    }

    async fn compact(&self, _: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        Err(Status::unimplemented("tests compact the store itself"))
    }
}

fn put(store: &mut Store, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
    lives(store, request.lease)?;
    let revision = store.put_under(request.key.clone(), request.value.clone(), request.lease);
    Ok(PbPutResponse { header: header(revision), prev_kv: None })
}

/// Whether one may put under that lease.
fn lives(store: &Store, lease: i64) -> Result<(), Status> {
    if lease != 0 && store.ttl(lease).is_none() {
        return Err(Status::not_found("etcdserver: requested lease not found"));
    }
    Ok(())
}

fn delete(store: &mut Store, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Status> {
    if !request.range_end.is_empty() {
        return Err(Status::unimplemented("no deletion of ranges"));
    }
    let deleted = store.delete(&request.key).into();
    Ok(PbDeleteResponse { header: header(store.revision()), deleted, prev_kvs: Vec::new() })
}

/// All of it at one revision, or nothing.
fn txn(store: &mut Store, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
    let mut succeeded = true;
    for compare in &request.compare {
        succeeded &= holds(store, compare)?;
    }
    let operations = if succeeded { &request.success } else { &request.failure };
    for operation in operations {
        if let Some(PbTxnOpRequest::RequestPut(put)) = &operation.request {
            lives(store, put.lease)?;
        }
    }
    let done = |store: &mut Store| operations.iter().map(|operation| perform(store, operation)).collect();
    let responses: Result<_, Status> = store.at_once(done);
    Ok(PbTxnResponse { header: header(store.revision()), succeeded, responses: responses? })
}

/// A key that is not there has zeros to compare, but no value.
fn holds(store: &Store, compare: &PbCompare) -> Result<bool, Status> {
    let there = store.get(&compare.key);
    let pair = there.clone().unwrap_or_default();
    let is = match &compare.target_union {
        _ if !compare.range_end.is_empty() => return Err(Status::unimplemented("no comparison of ranges")),
        Some(PbTargetUnion::Value(_)) if there.is_none() => return Ok(false),
        Some(PbTargetUnion::Value(value)) => pair.value.cmp(value),
        Some(PbTargetUnion::Lease(lease)) => pair.lease.cmp(lease),
        Some(PbTargetUnion::Version(version)) => pair.version.cmp(version),
        Some(PbTargetUnion::CreateRevision(revision)) => pair.create_revision.cmp(revision),
        Some(PbTargetUnion::ModRevision(revision)) => pair.mod_revision.cmp(revision),
        None => return Err(Status::unimplemented("no comparison with nothing")),
    };
    Ok(match compare.result() {
        CompareOp::Equal => is == Ordering::Equal,
        CompareOp::Greater => is == Ordering::Greater,
        CompareOp::Less => is == Ordering::Less,
        CompareOp::NotEqual => is != Ordering::Equal,
    })
}

fn perform(store: &mut Store, operation: &PbTxnRequestOp) -> Result<PbResponseOp, Status> {
    let response = match &operation.request {
        Some(PbTxnOpRequest::RequestRange(request)) => PbTxnOpResponse::ResponseRange(store.range(request)?),
        Some(PbTxnOpRequest::RequestPut(request)) => PbTxnOpResponse::ResponsePut(put(store, request)?),
        Some(PbTxnOpRequest::RequestDeleteRange(request)) => {
            PbTxnOpResponse::ResponseDeleteRange(delete(store, request)?)
        }
        Some(PbTxnOpRequest::RequestTxn(_)) | None => return Err(Status::unimplemented("no transaction in another")),
    };
    Ok(PbResponseOp { response: Some(response) })
}
