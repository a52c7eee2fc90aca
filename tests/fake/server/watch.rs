//! Watches, one to a stream.

use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::message::{compacted, created, events, progress};
use super::script::Watched;
use super::{Reply, Shared, State, Store};

type Said = Result<PbWatchResponse, Status>;

/// A watch that is open.
pub(super) struct Open {
    watched: Watched,
    /// The first revision that it was not told; none if it is to be silent.
    next: Option<i64>,
    to: UnboundedSender<Said>,
}

impl Open {
    /// The client may be gone: then nobody hears it.
    pub(super) fn say(&self, message: Said) {
        drop(self.to.send(message));
    }

    pub(super) fn speak(&mut self) {
        self.next = Some(self.watched.start);
    }

    /// Says what is new; whether anyone listens.
    pub(super) fn tell(&mut self, store: &Store) -> bool {
        if let Some(next) = self.next {
            let news = store.events(next, &self.watched.key, &self.watched.end);
            if !news.is_empty() {
                self.say(Ok(events(store.revision(), news)));
            }
            self.next = Some(next.max(store.revision() + 1));
        }
        !self.to.is_closed()
    }
}

#[tonic::async_trait]
impl PbWatchService for Shared {
    type WatchStream = UnboundedReceiverStream<Said>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let token = request.metadata().get("token").and_then(|token| token.to_str().ok()).map(str::to_owned);
        let (to, said) = unbounded_channel();
        tokio::spawn(self.clone().serve(request.into_inner(), token, to));
        Ok(Response::new(UnboundedReceiverStream::new(said)))
    }
}

impl Shared {
    async fn serve(self, mut requests: Streaming<PbWatchRequest>, token: Option<String>, to: UnboundedSender<Said>) {
        while let Ok(Some(PbWatchRequest { request_union })) = requests.message().await {
            match request_union {
                Some(PbWatchRequestUnion::CreateRequest(create)) => {
                    let (start, token) = (create.start_revision, token.clone());
                    self.open(Watched { start, key: create.key, end: create.range_end, token }, to.clone());
                }
                Some(PbWatchRequestUnion::ProgressRequest(_)) => self.progress(&to),
                Some(PbWatchRequestUnion::CancelRequest(_)) | None => {}
            }
        }
        self.state().watches.retain(|open| !open.to.same_channel(&to));
    }

    fn open(&self, watched: Watched, to: UnboundedSender<Said>) {
        let mut state = self.state();
        let State { store, rpcs, watches, .. } = &mut *state;
        let reply = rpcs.watch.decide(store, &watched);
        let mut open = Open { next: None, watched, to };
        match reply {
            Reply::Honest => {
                open.say(Ok(created(store.revision())));
                if open.watched.start < store.compacted() {
                    open.say(Ok(compacted(store.revision(), store.compacted())));
                } else {
                    open.speak();
                }
            }
            Reply::Say(messages) => messages.into_iter().for_each(|message| open.say(Ok(message))),
            Reply::Fail(status) => open.say(Err(status)),
            Reply::Never => {}
        }
        watches.push(open);
        state.tell();
    }

    fn progress(&self, to: &UnboundedSender<Said>) {
        let mut state = self.state();
        let State { store, rpcs, .. } = &mut *state;
        let answer = match rpcs.probe.decide(store, &()) {
            Reply::Honest => Ok(progress(-1, store.revision())),
            Reply::Say(message) => Ok(message),
            Reply::Fail(status) => Err(status),
            Reply::Never => return,
        };
        drop(to.send(answer));
    }
}
