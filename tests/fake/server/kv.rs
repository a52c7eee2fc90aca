//! Keys and values.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTargetUnion, PbTxnOpRequest, PbTxnRequest,
    PbTxnResponse,
};
use tokio_stream::Empty;
use tonic::{Request, Response, Status};

use super::message::header;
use super::{Shared, Store};

#[tonic::async_trait]
impl PbKvService for Shared {
    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        self.answer(|rpcs| &mut rpcs.range, request.get_ref(), |store, request| store.range(request)).await
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
        self.answer(|rpcs| &mut rpcs.txn, request.get_ref(), txn).await
    }

    async fn compact(&self, _: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        Err(Status::unimplemented("tests compact the store itself"))
    }
}

fn put(store: &mut Store, request: &PbPutRequest) -> Result<PbPutResponse, Status> {
    if request.lease != 0 && store.ttl(request.lease).is_none() {
        return Err(Status::not_found("etcdserver: requested lease not found"));
    }
    let revision = store.put_under(request.key.clone(), request.value.clone(), request.lease);
    Ok(PbPutResponse { header: header(revision), prev_kv: None })
}

fn delete(store: &mut Store, request: &PbDeleteRequest) -> Result<PbDeleteResponse, Status> {
    if !request.range_end.is_empty() {
        return Err(Status::unimplemented("no deletion of ranges"));
    }
    let deleted = store.delete(&request.key).into();
    Ok(PbDeleteResponse { header: header(store.revision()), deleted, prev_kvs: Vec::new() })
}

/// Deletes under the condition of a lease, which is all that is asked for.
fn txn(store: &mut Store, request: &PbTxnRequest) -> Result<PbTxnResponse, Status> {
    let mut succeeded = true;
    for compare in &request.compare {
        let Some(PbTargetUnion::Lease(lease)) = compare.target_union else {
            return Err(Status::unimplemented("no comparison but of leases"));
        };
        succeeded &= store.get(&compare.key).is_some_and(|pair| pair.lease == lease);
    }
    for operation in request.success.iter().filter(|_| succeeded) {
        let Some(PbTxnOpRequest::RequestDeleteRange(request)) = &operation.request else {
            return Err(Status::unimplemented("no operation but deletion"));
        };
        delete(store, request)?;
    }
    Ok(PbTxnResponse { header: header(store.revision()), succeeded, responses: Vec::new() })
}
