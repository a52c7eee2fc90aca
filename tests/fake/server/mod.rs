//! A fake of etcd's services: true to etcd, but where a test's script says otherwise.

mod auth;
mod kv;
mod lease;
pub(crate) mod message;
mod script;
mod store;
mod watch;
mod watches;

use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::proto::{
    PbKvServer, PbLeaseServer, PbPutRequest, PbPutResponse, PbTxnResponse, PbWatchResponse, PbWatchServer,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};

pub(crate) use script::{Reply, Rpc, Rpcs, Seen};
pub(crate) use store::Store;

/// One member, on a port of its own.
pub(crate) struct Fake {
    shared: Shared,
    address: SocketAddr,
    server: AbortHandle,
}

#[derive(Clone, Default)]
struct Shared {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    store: Store,
    rpcs: Rpcs,
    watches: watches::Watches,
    keep_alives: usize,
    /// How it refuses what a learner does not serve, if it is one.
    learner: Option<fn() -> Status>,
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// One whose connections admit so many streams.
    pub(crate) async fn start_with(streams: Option<u32>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let shared = Shared::default();
        let services = Routes::new(PbKvServer::new(shared.clone()))
            .add_service(PbWatchServer::new(shared.clone()))
            .add_service(PbLeaseServer::new(shared.clone()))
            .into_axum_router();
        let services = Routes::from(auth::route(services, shared.clone()));
        let serving =
            Server::builder().max_concurrent_streams(streams).add_routes(services).serve_with_incoming(incoming);
        let server = tokio::spawn(serving).abort_handle();
        Self { shared, address, server }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Looks at what it holds, or changes it, which all honest watches are told.
    pub(crate) fn store<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.shared.state();
        let result = change(&mut state.store);
        state.tell();
        result
    }

    /// Looks at what was asked, or sets rules.
    pub(crate) fn rpcs<T>(&self, script: impl FnOnce(&mut Rpcs) -> T) -> T {
        script(&mut self.shared.state().rpcs)
    }

    /// Sends a message on the watch that was opened last, and under its id if the message has none (0).
    pub(crate) fn say(&self, message: PbWatchResponse) {
        self.shared.state().watches.say(message);
    }

    /// The watch that was opened last goes on by the truth, from where it was asked to begin.
    pub(crate) fn speak(&self) {
        let mut state = self.shared.state();
        state.watches.speak();
        state.tell();
    }

    /// Breaks all streams of watches, after what was said on them.
    pub(crate) fn cut(&self) {
        self.shared.state().watches.cut();
    }

    /// How many streams of watches were opened so far.
    pub(crate) fn watch_streams(&self) -> usize {
        self.shared.state().watches.streams()
    }

    /// How many streams of watches are open.
    pub(crate) fn open_watch_streams(&self) -> usize {
        self.shared.state().watches.open_streams()
    }

    /// From now on it is a learner that refuses in this way, or, with none, it is promoted. Streams that are open
    /// stay so.
    pub(crate) fn learner(&self, refusal: Option<fn() -> Status>) {
        self.shared.state().learner = refusal;
    }

    /// From now on it serves watches as etcd's grpc-proxy does: it chooses their ids itself, and knows no progress.
    pub(crate) fn as_grpc_proxy(&self) {
        self.shared.state().watches.proxy = true;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    /// Tells all honest watches what has changed.
    fn tell(&mut self) {
        let Self { store, watches, .. } = self;
        watches.tell(store);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unless it is a learner.
    fn admit(&self) -> Result<(), Status> {
        let mut state = self.state();
        let Some(refusal) = state.learner else { return Ok(()) };
        state.rpcs.turned_away += 1;
        Err(refusal())
    }

    /// Answers by the script, else honestly, what no learner answers.
    async fn answer<Q: Clone, A>(
        &self,
        rpc: fn(&mut Rpcs) -> &mut Rpc<Q, A>,
        request: &Q,
        honest: fn(&mut Store, &Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        self.admit()?;
        self.reply(rpc, request, honest).await
    }

    /// Answers by the script, else honestly.
    async fn reply<Q: Clone, A>(
        &self,
        rpc: fn(&mut Rpcs) -> &mut Rpc<Q, A>,
        request: &Q,
        honest: fn(&mut Store, &Q) -> Result<A, Status>,
    ) -> Result<Response<A>, Status> {
        let reply = {
            let mut state = self.state();
            let State { store, rpcs, .. } = &mut *state;
            let reply = match rpc(rpcs).decide(store, request) {
                Reply::Honest => Some(honest(store, request)),
                Reply::Say(answer) => Some(Ok(answer)),
                Reply::Fail(status) => Some(Err(status)),
                Reply::Never => None,
            };
            state.tell();
            reply
        };
        match reply {
            Some(result) => result.map(Response::new),
            None => pending().await,
        }
    }

    /// A put that is guarded by a comparison is scripted, and counted, as any other put is.
    async fn guarded_put(
        &self,
        put: &PbPutRequest,
        honest: impl FnOnce(&mut Store) -> Result<PbTxnResponse, Status>,
    ) -> Result<Response<PbTxnResponse>, Status> {
        let reply = {
            let mut state = self.state();
            let State { store, rpcs, .. } = &mut *state;
            let reply = match rpcs.put.decide(store, put) {
                Reply::Honest => Some(honest(store)),
                Reply::Say(PbPutResponse { header, .. }) => {
                    Some(Ok(PbTxnResponse { header, succeeded: true, responses: Vec::new() }))
                }
                Reply::Fail(status) => Some(Err(status)),
                Reply::Never => None,
            };
            state.tell();
            reply
        };
        match reply {
            Some(result) => result.map(Response::new),
            None => pending().await,
        }
    }
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// The answers of a stream. Its headers go with the first of them, as always in Go: who waits for headers before asking
/// for anything waits for ever.
async fn answers<A: Send + 'static>(
    mut from: UnboundedReceiver<Result<A, Status>>,
) -> Result<Response<Answers<A>>, Status> {
    let first = from.recv().await.transpose()?.map(Ok);
    Ok(Response::new(Box::pin(tokio_stream::iter(first).chain(UnboundedReceiverStream::new(from)))))
}
