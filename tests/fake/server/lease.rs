//! Leases, which end only when a test says so.

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::{Request, Response, Status, Streaming};

use super::message::header;
use super::script::Renewal;
use super::{Answers, Shared, Store, answers};

type Renewed = Result<PbLeaseKeepAliveResponse, Status>;

#[tonic::async_trait]
impl PbLeaseService for Shared {
    type LeaseKeepAliveStream = Answers<PbLeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        self.answer(|rpcs| &mut rpcs.grant, request.get_ref(), grant).await
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        self.answer(|rpcs| &mut rpcs.revoke, request.get_ref(), |store, request| revoke(store, request.id)).await
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.admit()?;
        let stream = {
            let mut state = self.state();
            state.keep_alives += 1;
            state.keep_alives
        };
        let (to, answered) = unbounded_channel();
        tokio::spawn(self.clone().keep_alive(stream, request.into_inner(), to));
        answers(answered).await
    }

    async fn lease_time_to_live(
        &self,
        _: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("tests ask the store itself"))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("tests ask the store itself"))
    }
}

impl Shared {
    async fn keep_alive(
        self,
        stream: usize,
        mut requests: Streaming<PbLeaseKeepAliveRequest>,
        answers: UnboundedSender<Renewed>,
    ) {
        while let Ok(Some(request)) = requests.message().await {
            let renewal = Renewal { lease: request.id, stream };
            let result = self.reply(|rpcs| &mut rpcs.renew, &renewal, |store, renewal| Ok(renewed(store, *renewal)));
            let (result, closed) = tokio::select! {
                result = result => (result.map(Response::into_inner), false),
                () = answers.closed() => (Err(Status::cancelled("the client went")), true),
            };
            let failed = result.is_err();
            if closed || answers.send(result).is_err() || failed {
                return;
            }
        }
    }
}

fn grant(store: &mut Store, request: &PbLeaseGrantRequest) -> Result<PbLeaseGrantResponse, Status> {
    if !store.grant(request.id, request.ttl) {
        return Err(Status::failed_precondition("etcdserver: lease already exists"));
    }
    let error = String::new();
    Ok(PbLeaseGrantResponse { header: header(store.revision()), id: request.id, ttl: request.ttl, error })
}

fn revoke(store: &mut Store, lease: i64) -> Result<PbLeaseRevokeResponse, Status> {
    if !store.end_lease(lease) {
        return Err(Status::not_found("etcdserver: requested lease not found"));
    }
    Ok(PbLeaseRevokeResponse { header: header(store.revision()) })
}

/// A lease that is gone is not an error, but has no time left.
fn renewed(store: &Store, renewal: Renewal) -> PbLeaseKeepAliveResponse {
    let ttl = store.ttl(renewal.lease).unwrap_or_default();
    PbLeaseKeepAliveResponse { header: header(store.revision()), id: renewal.lease, ttl }
}
