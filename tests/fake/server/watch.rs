//! Streams of watches, each of which carries many.

use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tonic::{Request, Response, Status, Streaming};

use super::script::Watched;
use super::watches::Said;
use super::{Answers, Shared, State, answers};

#[tonic::async_trait]
impl PbWatchService for Shared {
    type WatchStream = Answers<PbWatchResponse>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        self.admit()?;
        let token = request.metadata().get("token").and_then(|token| token.to_str().ok()).map(str::to_owned);
        let (to, said) = unbounded_channel();
        let stream = self.state().watches.begin(to.clone());
        tokio::spawn(self.clone().serve(stream, request.into_inner(), token, to));
        answers(said).await
    }
}

impl Shared {
    /// Until the client goes or the stream fails. A client that only asks for nothing more is still told.
    async fn serve(
        self,
        stream: usize,
        mut requests: Streaming<PbWatchRequest>,
        token: Option<String>,
        to: UnboundedSender<Said>,
    ) {
        let reading = async {
            while let Ok(Some(PbWatchRequest { request_union })) = requests.message().await {
                self.watch_request(stream, request_union, token.as_ref());
            }
            to.closed().await;
        };
        tokio::select! {
            () = reading => {}
            () = to.closed() => {}
        }
        self.state().watches.end(stream);
    }

    fn watch_request(&self, stream: usize, request: Option<PbWatchRequestUnion>, token: Option<&String>) {
        let mut state = self.state();
        let State { store, rpcs, watches, .. } = &mut *state;
        if !watches.is_open(stream) {
            return;
        }
        match request {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let (key, end, token) = (create.key, create.range_end, token.cloned());
                let watched = Watched { id: create.watch_id, stream, start: create.start_revision, key, end, token };
                let reply = rpcs.watch.decide(store, &watched);
                watches.open(store, watched, reply);
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                rpcs.cancels.push((stream, cancel.watch_id));
                watches.cancel(store, stream, cancel.watch_id);
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                let reply = rpcs.probe.decide(store, &stream);
                watches.progress(store, stream, reply);
            }
            None => {}
        }
        state.tell();
    }
}
