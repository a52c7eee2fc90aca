//! The balanced channel: a set of servers as one service, picked in the caller's task.
//!
//! Knows `connection` and changes of instances, and never etcd: any tower discovery of instances feeds it.

mod builder;
mod call;
mod channel;
mod connectivity;
mod policy;
mod pool;
mod queue;
mod runtime;
mod status;
mod subchannel;
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

pub use crate::balance::builder::BalancedChannelBuilder;
pub use crate::balance::builder::timeouts::CallTimeout;
pub use crate::balance::call::response_body::ResponseBody;
pub use crate::balance::call::retry::RetryPolicy;
pub use crate::balance::connectivity::Connectivity;
pub(crate) use crate::balance::connectivity::Directory;
pub use crate::balance::policy::ready::ReadyServer;
pub use crate::balance::policy::{Call, Picker, Policy};
pub(crate) use crate::balance::pool::Update;
pub use crate::balance::status::call_error::CallError;
pub use crate::balance::subchannel::outlier::Ejection;
pub use crate::balance::subchannel::{ServerState, ServerStatus};
pub use crate::balance::view::ConnectivityStream;

use crate::balance::channel::Inner;
use crate::balance::subchannel::Server;

use crate::address::Address;

/// The recommended channel: every call goes to a server that is connected and, as far as anyone can know, alive.
///
/// It is what a generated client is built on, under tower layers and tonic interceptors too:
///
/// ```no_run
/// # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
/// # use tonic_etcd::{BalancedChannel, Resolver, RetryPolicy};
/// # async fn client() -> Result<(), Box<dyn std::error::Error>> {
/// let resolver = Resolver::connect_lazy(["http://127.0.0.1:2379"])?;
/// let greeters = resolver.resolve("greeter")?;
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
/// - It **waits** while the answer may still come: while the servers are being resolved, while one is being connected for the
///   first time or again after a connection that was well, and while all are at their limit of concurrent streams
///   (`SETTINGS_MAX_CONCURRENT_STREAMS`). It waits no longer than its deadline and [`BalancedChannelBuilder::wait_limit`]. All
///   waiting calls of a channel stand in one queue, first in, first out. A call whose turn has come and whose task does not poll
///   it lets the next one pass after 25 to 50 ms, and keeps its place.
/// - It **fails at once**, with `UNAVAILABLE` and a text that tells the servers' states and the last error, when no server is
///   registered or none can be connected, unless it is to wait for ready ([`WaitForReady`]).
/// - It goes **to another server** when it was provably never processed, always and within its deadline (gRFC A6's transparent
///   retry): h2 refused to send it, or the server reset it with `REFUSED_STREAM`, or said GOAWAY with a last stream id below its
///   own. Each ready server is tried once, then again with backoff. Where the GOAWAY is an error, this call may be the reason for
///   it: a second server is tried, and no third. What may have been processed is repeated only as [`RetryPolicy`] says.
/// - Its **deadline** is the earlier of what the call asks for (`grpc-timeout`, [`tonic::Request::set_timeout`]) and what the
///   channel gives ([`BalancedChannelBuilder::timeout`], or [`BalancedChannelBuilder::method_timeout`] for a method, or
///   [`CallTimeout`] for one call). It covers waiting, all attempts, and the whole of a streamed answer.
///
/// Dropping the future of a call, or the body of its answer, cancels the call.
///
/// # Errors
///
/// Always a [`Status`] of a call: `poll_ready` is always ready. Those that a server sent are passed on as they are. No text and no
/// metadata that the channel adds holds an address, so that a handler may pass a status on to its own caller. The status's source,
/// [`CallError`], names the server; [`BalancedChannelBuilder::addresses_in_statuses`] puts the addresses back.
/// Those that the channel makes:
///
/// | code | when |
/// |---|---|
/// | `UNAVAILABLE` | no server (the text says why), [`BalancedChannelBuilder::wait_limit`] is over, the connection was lost, nobody processed it |
/// | `DEADLINE_EXCEEDED` | the deadline passed: `waited …` or `not sent …` where no server had the call, `no answer …` where one had |
/// | `RESOURCE_EXHAUSTED` | the answer's headers or trailers are beyond [`BalancedChannelBuilder::max_header_list_size`] |
/// | `INTERNAL` | the request's headers are beyond what the server takes (see [`BalancedChannelBuilder::max_request_header_list_size`]): `not sent …` |
/// | `INTERNAL` | the request's own stream panicked: `the request's stream panicked` |
/// | its own, or `UNKNOWN` | the request's own stream failed: a [`Status`] is passed on as it is, any other error is `UNKNOWN` with its text, as in tonic |
/// | `INTERNAL` | the call was polled outside of a tokio runtime, or on one without timers |
/// | `CANCELLED`, `RESOURCE_EXHAUSTED`, `PERMISSION_DENIED`, `INTERNAL` | the server reset the stream, by gRPC's table of HTTP/2 error codes; `INTERNAL` also for what HTTP/2 cannot carry |
/// | by gRPC's table of HTTP statuses, `UNKNOWN` for 200 | an answer without `grpc-status` whose HTTP status is not 200, or whose content type is none of `application/grpc`, `application/grpc+…` and `application/grpc;…`: the text has the HTTP status, the content type, and the first 256 bytes of the body, for which it waits at most 1 s |
///
/// A server that resets a call with `CANCEL` of its own accord has mostly panicked in its handler: tonic's servers do that, and the
/// text says so.
///
/// [`ServedBy`] in an answer's extensions tells the server of an answer. A status that a server sent instead of an answer (tonic
/// calls this `Trailers-Only`) has a [`CallError`] where a generated client made the call (its [`tonic::GrpcMethod`] stands in
/// the request's extensions). A status in trailers, which ends an answer that had begun, has no source: use [`ServedBy`]. Trailers
/// are passed on as the server sent them, and so are the headers to any other caller, for proxies.
///
/// # Connections
///
/// Each server of the set is connected in the background, and again whenever its connection is gone, with backoff as in gRPC's
/// connection-backoff document and shorter times (100 ms, times 1.6, up to 10 s, ±20 %): etcd takes a dead server out within its
/// lease. A server is ready once its HTTP/2 SETTINGS have come, so that one which accepts and says nothing never is. A server that
/// is removed gets no new call from then on, finishes those that it has, and is disconnected.
///
/// At most 1 024 attempts to connect are under way at once. Where more servers are to be connected, they go in this order: servers
/// whose last attempt gave a connection, which never wait; servers that were never tried, which wait at most 25 ms for an attempt
/// that hangs; then those that have failed, the fewest failures in a row first. An attempt that hangs is cut short for a server
/// that comes before it, and begins again later. Among servers that have failed equally often each attempt may take ten times as
/// long as after one failure less, so that slow servers are connected too.
///
/// A server that says GOAWAY before it closes costs no call; tonic's `max_connection_age_grace` cuts without one, which is like a
/// crash. A connection has stream ids for 2^30 calls (RFC 9113, 5.1.1), and is replaced before they are used up.
///
/// # Idle connections
///
/// NATs and load balancers forget idle connections, and tell nobody. So a connection that was silent for
/// [`BalancedChannelBuilder::idle_timeout`] (5 min) gets no call before it has answered a PING. Meanwhile calls go to other servers,
/// or wait; where no answer comes within 1 s, a new connection takes its place.
///
/// On a `current_thread` runtime that is driven during calls alone (`block_on` around each call), a call that follows a pause first
/// lets the runtime read what came in the pause, so that it is not sent over a connection that has ended.
///
/// # Cancelled calls
///
/// A call that is dropped, or whose deadline passes, resets its stream. Servers end connections on which many streams are reset
/// that they have not accepted yet (h2, and so tonic: more than 20; CVE-2023-44487), and a server that stands still for a moment
/// accepts none. So, of the calls that a server has answered nothing on, at most 8 are reset before it has shown that it reads
/// again: by an answer to a later call, or by acknowledging SETTINGS that were sent after them. The others keep their streams until
/// then, mostly for a round trip or two, and count as in flight and against the server's limit of streams. Calls on which an answer
/// has begun are reset at once.
///
/// Two things remain outside of the client's reach. h2 takes 100 empty DATA frames without `END_STREAM` in a connection's life, and then
/// ends the connection with its calls (no gRPC server sends them on its own). Some servers and proxies count every reset over time,
/// whatever was answered (Netty by default: 200 in 30 s), and then say GOAWAY.
///
/// # Clones
///
/// A channel is cheap to clone. All clones share everything, and the last one that is dropped ends it; calls in flight finish all
/// the same.
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

/// In a request's extensions: whether this call waits for ready (gRPC's term), in place of
/// [`BalancedChannelBuilder::wait_for_ready`]. A call that does waits until its deadline, also while no server is registered or none
/// can be connected; one that does not fails at once then.
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
        ResponseFuture { call: Box::pin(call::call(self.0.clone(), request)), begun: false }
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A copy: nobody knows what the writer does.
        let outlook = self.0.inner.outlook.borrow().clone();
        f.debug_struct("BalancedChannel")
            .field("service", &outlook.directory.service)
            .field("connectivity", &outlook.connectivity)
            .field("ready", &outlook.ready)
            .finish_non_exhaustive()
    }
}

/// One call. Dropping it cancels the call.
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture {
    call: Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>,
    /// It was polled within a runtime.
    begun: bool,
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A task that has begun within a runtime stays there; what is polled in no task may leave it.
        if !self.begun || tokio::task::try_id().is_none() {
            runtime::here()?;
            self.begun = true;
        }
        self.call.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
