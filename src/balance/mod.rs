//! The balanced channel: a set of servers as one service, picked in the caller's task.
//!
//! Knows `connection` and changes of instances, and never etcd: any tower discovery of instances feeds it.

mod answer;
mod builder;
mod call;
mod call_error;
mod channel;
mod clock;
mod connecting;
mod cost;
mod deadline;
#[cfg(test)]
mod exhaustion_tests;
mod feed;
mod foreign;
mod headers;
mod line;
mod outlier;
mod outlook;
mod party;
mod pause;
mod pick;
mod places;
mod policy;
mod pool;
mod queue;
mod ready;
mod reason;
mod redact;
mod request;
mod retry;
mod roster;
mod runtime;
mod server;
mod status;

mod supervisor;
mod timeouts;
mod timer;
mod view;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tokio::task::AbortHandle;
use tonic::Status;
use tower::Service;

pub use answer::ResponseBody;
pub use builder::BalancedChannelBuilder;
pub use call_error::CallError;
pub use outlier::Ejection;
pub use outlook::Connectivity;
pub(crate) use outlook::Directory;
pub use policy::{Call, Picker, Policy};
pub(crate) use pool::Update;
pub use ready::ReadyServer;
pub use retry::RetryPolicy;
pub use server::{ServerState, ServerStatus};
pub use timeouts::CallTimeout;
pub use view::ConnectivityStream;

use channel::Inner;
use server::Server;

use crate::address::Address;

/// The recommended channel: every call goes to a server that is connected and, as far as anyone can know, alive.
///
/// It is what a generated client is built on, under tower layers and tonic interceptors too:
///
/// ```no_run
/// # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
/// # use tonic_etcd::{BalancedChannel, Resolver, RetryPolicy};
/// # async fn client() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = Resolver::connect(["http://127.0.0.1:2379"]).await?;
/// let greeters = resolver.resolve("greeter").await?;
/// let channel = BalancedChannel::builder()
///     .timeout(std::time::Duration::from_secs(5))
///     .retry(RetryPolicy::new().repeatable("/helloworld.Greeter/SayHello"))
///     .build(&greeters)?;
/// let mut greeter = GreeterClient::new(channel);
/// greeter.say_hello(HelloRequest { name: "world".into() }).await?;
/// # Ok(())
/// # }
/// ```
///
/// # What becomes of a call
///
/// - It is **picked** in its caller's task among the servers that are connected (see [`Policy`]); no queue, no lock.
/// - It **waits** while the servers are being resolved or connected to for the first time, or while all are at their limit of
///   concurrent streams; in order, one queue for both; a call that is not polled when its turn comes is passed over after 25 to 50 ms; no longer than its deadline and [`BalancedChannelBuilder::wait_limit`].
/// - It **fails at once**, with `UNAVAILABLE` and a text that tells the servers' states and the last error, when no server is
///   registered or none can be connected, unless it is to wait for ready ([`WaitForReady`]).
/// - It goes **to another server** when it was provably never processed, always and within its deadline: h2 refused to send
///   it, or the server said `REFUSED_STREAM`, or a GOAWAY that leaves its stream out. Each ready server is tried once, then with
///   backoff. What may have been processed is repeated only as [`RetryPolicy`] says.
/// - Its **deadline**, from `grpc-timeout` ([`tonic::Request::set_timeout`]) and [`BalancedChannelBuilder::timeout`]
///   ([`CallTimeout`] for one call), covers waiting, all attempts, and the whole of a streamed answer.
///
/// # Errors
///
/// Always a [`Status`] of a call: `poll_ready` is always ready. Those that a server sent are passed on as they are. No text and no
/// metadata that the channel adds holds an address, so that a handler may pass a status on to its own caller; its source,
/// [`CallError`], names the server, and [`BalancedChannelBuilder::addresses_in_statuses`] puts the addresses back.
/// Those that the channel makes:
///
/// | code | when |
/// |---|---|
/// | `UNAVAILABLE` | no server (the text says why), [`BalancedChannelBuilder::wait_limit`] is over, the connection was lost, nobody processed it |
/// | `DEADLINE_EXCEEDED` | the deadline passed: `waited …` where no server had the call, `no answer …` where one had |
/// | `RESOURCE_EXHAUSTED` | the answer's headers or trailers are beyond [`BalancedChannelBuilder::max_header_list_size`] |
/// | `INTERNAL` | the request's headers are beyond what the server takes (see [`BalancedChannelBuilder::max_request_header_list_size`]): `not sent …` |
/// | `INTERNAL` | `the request's stream panicked`; its own error otherwise, as it is where it is a [`Status`] |
/// | `INTERNAL` | the call was polled outside of a tokio runtime, or on one without timers |
/// | `CANCELLED`, `RESOURCE_EXHAUSTED`, `PERMISSION_DENIED`, `INTERNAL` | the server reset the stream, by gRPC's table of HTTP/2 error codes; `INTERNAL` also for what HTTP/2 cannot carry |
/// | by gRPC's table of HTTP statuses, `UNKNOWN` for 200 | an answer without a gRPC status, or of another content type than `application/grpc`, `application/grpc+…` and `application/grpc;…`: the text has the HTTP status, the content type, and the first 256 bytes of the body, for which it waits at most 1 s |
///
/// [`ServedBy`] in an answer's extensions tells the server of an answer. A status that a server sent instead of an answer (tonic
/// calls this `Trailers-Only`) has a [`CallError`] where a generated client made the call (its [`tonic::GrpcMethod`] stands in
/// the request's extensions). A status in trailers, which ends an answer that had begun, has no source: use [`ServedBy`]. Trailers
/// are passed on as the server sent them, and so are the headers to any other caller, for proxies.
///
/// # Connections
///
/// Each server of the set is connected in the background, and again whenever its connection is gone, with backoff as in gRPC's
/// connection-backoff document (100 ms, times 1.6, up to 10 s, ±20 %). At most 1 024 attempts are under way at once. Where more servers
/// have to be connected, one whose last attempt gave a connection never waits, one that was never tried waits at most 25 ms for others,
/// and those that keep failing come last; an attempt that was cut short for others has ten times as long the next time. A server is ready once its HTTP/2 SETTINGS have come,
/// so that one which accepts and says nothing never is. One that is removed gets no new call from then on, finishes those that
/// it has, and is disconnected. A server that says GOAWAY before it closes costs no call; tonic's
/// `max_connection_age_grace` cuts without one, which is like a crash. A connection has ids for 2^30 calls, and is replaced before
/// they are used up.
///
/// # Cancelled calls
///
/// A call that is dropped, or whose deadline passes, resets its stream. Servers end connections on which many streams are reset
/// that they have not looked at yet (h2, and so tonic: 20), and a server that stands still for a moment looks at none. So, of the
/// calls that a server has answered nothing on, at most 8 are reset before it has shown that it reads again: by an answer to a
/// later call, or by acknowledging SETTINGS that were sent after them. The others keep their streams until then, and count as in
/// flight. Calls on which an answer has begun are reset at once.
///
/// What remains is outside of the client's reach: h2 takes 100 empty frames of data without an end in a connection's life, and then ends
/// the connection with its calls (no gRPC server sends them on its own); some servers and proxies count every reset over time, whatever was
/// answered (Netty by default: 200 in 30 s), and then say GOAWAY.
///
/// A connection that was silent for [`BalancedChannelBuilder::idle_timeout`] (5 min) gets no call before it has answered a PING, because
/// NATs and load balancers forget idle connections and tell nobody: meanwhile calls go to other servers, or wait for 1 s at most
/// before a new connection takes its place. On a `current_thread` runtime that is driven during calls alone, a call that follows a
/// pause first lets the runtime read what came in the pause, so that it is not sent over a connection that has ended.
///
/// Cheap to clone; all clones share everything, and the last one that is dropped ends it. Calls in flight finish all the same.
#[derive(Clone)]
pub struct BalancedChannel(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    task: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// In a request's extensions: whether this call waits for a server whatever their state, until its deadline. What the
/// channel does without is [`BalancedChannelBuilder::wait_for_ready`].
///
/// ```
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(tonic_etcd::WaitForReady(true));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// In an answer's extensions: the server that it came from.
#[derive(Clone)]
pub struct ServedBy(Arc<Server>);

impl ServedBy {
    /// The server's address.
    pub fn address(&self) -> &Address {
        self.0.address()
    }
}

impl fmt::Debug for ServedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServedBy").field(self.address()).finish()
    }
}

impl BalancedChannel {
    /// All that can be set, with its defaults.
    pub fn builder() -> BalancedChannelBuilder {
        BalancedChannelBuilder::default()
    }
}

impl Service<Request<tonic::body::Body>> for BalancedChannel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: a call waits, and fails, where its deadline is known.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> ResponseFuture {
        ResponseFuture(Box::pin(call::call(self.0.clone(), request)))
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outlook = self.0.inner.outlook.borrow();
        f.debug_struct("BalancedChannel")
            .field("service", &outlook.directory.service)
            .field("connectivity", &outlook.connectivity)
            .field("ready", &outlook.ready)
            .finish_non_exhaustive()
    }
}

/// One call. Dropping it cancels the call.
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        runtime::here()?;
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
