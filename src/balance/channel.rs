//! The channel that users hold, and the future of one call.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use tonic::Status;
use tower::Service;

use crate::balance::builder::BalancedChannelBuilder;
use crate::balance::call;
use crate::balance::call::response_body::ResponseBody;
use crate::balance::runtime;
use crate::balance::shared::ChannelHandle;

/// The recommended channel: it sends each call to a server that is connected and, as far as the client can know, alive.
///
/// Generated clients are built on it, under tower layers and tonic interceptors too. A clone is cheap. All clones share
/// connections, settings and state. The last clone that is dropped ends the channel; calls in flight finish all the same.
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
/// # The way of a call
///
/// 1. **Deadline.** It is set when the call is first polled (see [Deadlines](#deadlines)).
/// 2. **Pick.** The caller's task picks one of the connected servers by the channel's [`policy`](crate::policy). It takes no lock
///    and passes through no queue. A server at its limit of concurrent streams (`SETTINGS_MAX_CONCURRENT_STREAMS`) is passed over.
/// 3. **Wait.** A call that finds no server waits or fails (see [Waiting and failing at once](#waiting-and-failing-at-once)).
/// 4. **Attempt.** The request is sent over the picked server's connection.
/// 5. **Response or retry.** The response is passed on as it comes, or the call is sent to another server (see
///    [Retries](#retries)).
///
/// Dropping the future of a call, or the body of its response, cancels the call.
///
/// # When a server goes away
///
/// | what happens to the server | a call in flight on it | the next calls |
/// |---|---|---|
/// | its record is removed from the directory, or it is marked as draining | goes on to its end. The connection closes after the last of them | go to other servers at once |
/// | its process dies, or the connection is lost or reset | fails with `UNAVAILABLE`: it may have been processed. It is repeated on another server where [`RetryPolicy`](crate::RetryPolicy) declares its method | go to other servers at once. The server is connected again with backoff |
/// | it says GOAWAY and finishes its calls (a graceful shutdown, `max_connection_age`) | goes on to its end if the GOAWAY covers its stream. Otherwise it was never processed and goes to another server by itself | go to other servers, or to the server's next connection, which is made at once |
/// | it resets the stream with `REFUSED_STREAM` | was never processed, and goes to another server by itself | are not affected |
/// | it is frozen: nothing at all comes over the connection | waits for its deadline or for [`KeepAlive`](crate::KeepAlive), whichever is sooner. Keep-alive ends the connection after 20 s of silence and 10 s without an answer to its PING; the call then fails as if the connection were lost | may still be picked for it until then, but its unanswered calls count as its load, so that it gets few |
/// | it is slow, and other responses or PINGs still come | waits for its deadline. A slow call is no reason to end a connection | go to servers with less load first ([`LeastRequest`](crate::policy::LeastRequest)) |
/// | its calls fail | ends with the status that the server sent | get few of them, because failures count as load. [`BalancedChannelBuilder::outlier_detection`] leaves the server out for a while |
///
/// The same holds for streaming calls: a stream that has begun stays on its server to its end, and is not repeated.
///
/// While etcd cannot be reached, the last known servers stay, and nothing changes for calls.
///
/// # Waiting and failing at once
///
/// | the channel's servers | a call | a call that [waits for ready](crate::WaitForReady) |
/// |---|---|---|
/// | are not resolved yet | waits | waits |
/// | are being connected for the first time, or again after a good connection | waits | waits |
/// | are connected, and all at their limit of streams | waits | waits |
/// | are connected, and all ejected | is sent to one of them | is sent to one of them |
/// | none is registered, or all drain | fails at once with `UNAVAILABLE` | waits |
/// | none can be connected | fails at once with `UNAVAILABLE` | waits |
///
/// A call waits until its deadline, and at most for [`BalancedChannelBuilder::wait_limit`] (10 s by default); one that waits for
/// ready, until its deadline alone. The text of the status lists the servers' states and the last error.
///
/// Calls wait in one queue, first in, first out; new calls do not overtake them. A call that was woken and whose task does not poll
/// it lets the next one pass after 25 to 50 ms, and keeps its position.
///
/// # Deadlines
///
/// The deadline of a call is the earlier of two:
///
/// - the time that the call asks for (`grpc-timeout`, [`tonic::Request::set_timeout`]);
/// - the time that the channel gives it: [`CallTimeout`](crate::CallTimeout) in the request's extensions, or else
///   [`BalancedChannelBuilder::method_timeout`] of its method, of its service, or else [`BalancedChannelBuilder::timeout`].
///
/// None is set by default, as in gRPC. The deadline covers waiting, all attempts, the pauses between them, and the whole of a
/// streamed response. Each attempt tells its server how much of it is left. A call whose deadline passes ends with
/// `DEADLINE_EXCEEDED`.
///
/// # Retries
///
/// | what became of an attempt | the call is sent again | how often | setting |
/// |---|---|---|---|
/// | it was never processed: not sent, `REFUSED_STREAM`, or a GOAWAY whose last stream id is below its own | always (gRFC A6's transparent retry) | each ready server once, then again with backoff, until the deadline or `wait_limit` | none |
/// | the same, and the GOAWAY is an error: this call may be the reason for it | always | on one more server | none |
/// | it may have been processed, and failed with `UNAVAILABLE` (a lost connection is one) | if its method is declared as safe to repeat | 5 attempts in all, with backoff | [`RetryPolicy::repeatable`](crate::RetryPolicy::repeatable), [`max_attempts`](crate::RetryPolicy::max_attempts), [`backoff`](crate::RetryPolicy::backoff), [`budget`](crate::RetryPolicy::budget) |
/// | it failed with another code | if its method and the code are declared | the same | [`RetryPolicy::retryable_codes`](crate::RetryPolicy::retryable_codes) |
/// | its response has begun | never; a unary response of a declared method is held back until it is complete, so that this case is rare | | |
///
/// A request that is larger than [`BalancedChannelBuilder::replay_limit`] (256 KiB) cannot be sent again once more than that has
/// left.
///
/// # Errors
///
/// Each error is a [`Status`] of a call: `poll_ready` never fails. A status that a server sent is passed on as it is. The channel
/// adds no address to a text or to metadata, so that a handler may pass a status on to its own caller. The source of a status,
/// [`CallError`](crate::CallError), names the server; [`BalancedChannelBuilder::addresses_in_statuses`] puts addresses into the
/// status itself. The channel makes these statuses:
///
/// | code | when |
/// |---|---|
/// | `UNAVAILABLE` | no server takes the call, [`BalancedChannelBuilder::wait_limit`] is over, the connection was lost, or no server processed the call |
/// | `DEADLINE_EXCEEDED` | the deadline passed: `waited …` or `not sent …` where no server had the call, `no answer …` where one had |
/// | `RESOURCE_EXHAUSTED` | the headers or trailers of the response are larger than [`BalancedChannelBuilder::max_header_list_size`] |
/// | `INTERNAL` | the headers of the request are larger than the server takes ([`BalancedChannelBuilder::max_request_header_list_size`]): `not sent …` |
/// | `INTERNAL` | the request's own stream panicked: `the request's stream panicked` |
/// | its own, or `UNKNOWN` | the request's own stream failed: a [`Status`] is passed on as it is, any other error is `UNKNOWN` with its text, as in tonic |
/// | `INTERNAL` | the call was polled outside of a tokio runtime, or on one without timers |
/// | `CANCELLED`, `RESOURCE_EXHAUSTED`, `PERMISSION_DENIED`, `INTERNAL` | the server reset the stream (gRPC's table of HTTP/2 error codes); `INTERNAL` also for a request that HTTP/2 cannot carry |
/// | by gRPC's table of HTTP statuses, `UNKNOWN` for 200 | the response has no `grpc-status`, and its HTTP status is not 200 or its content type is none of `application/grpc`, `application/grpc+…` and `application/grpc;…`. The text has the HTTP status, the content type, and the first 256 bytes of the body, for which the call waits at most 1 s |
///
/// A server that resets a call with `CANCEL` of its own accord has mostly panicked in its handler: tonic's servers do that, and
/// the text says so.
///
/// [`ServedBy`](crate::ServedBy) in the extensions of a response names its server. A status that a server sent in place of a
/// response (`Trailers-Only` in gRPC's HTTP/2 protocol) has a [`CallError`](crate::CallError) where a generated client made the
/// call (its [`tonic::GrpcMethod`] is in the request's extensions). A status in trailers, at the end of a response that had begun,
/// has no source: use [`ServedBy`](crate::ServedBy). To any other caller, such as a proxy, headers and trailers are passed on as
/// the server sent them.
///
/// # Connections
///
/// The channel connects to each server in the background, with one connection each, and again whenever it is gone. A server is
/// ready once its HTTP/2 SETTINGS have come: a server that accepts a connection and sends nothing never is. The backoff is that
/// of gRPC's connection-backoff document with shorter times (100 ms, times 1.6, up to 10 s, ±20 %): etcd removes a dead server
/// within its lease, so that a refused connection is mostly a server that is just starting.
///
/// At most 1 024 attempts to connect are under way at once. Where more servers are to be connected, the order is: servers whose
/// last attempt succeeded, which never wait; servers that were never tried, which wait at most 25 ms for an attempt that hangs;
/// then those that failed, the fewest failures in a row first. An attempt that hangs is cut short for a server that comes before
/// it, and begins again later. Beside servers that failed no less often, each failure in a row gives an attempt ten times as long
/// (250 ms, 2.5 s, …), so that slow servers are connected too.
///
/// A server that says GOAWAY before it closes costs no call. tonic's `max_connection_age_grace` closes without one: that is like a
/// crash. A connection has stream ids for 2^30 calls (RFC 9113, 5.1.1), and is replaced before they are used up.
///
/// # Idle connections
///
/// NATs and load balancers forget idle connections without telling either end. A connection that was silent for
/// [`BalancedChannelBuilder::idle_timeout`] (5 min) gets no call before it has answered a PING. Meanwhile calls go to other
/// servers, or wait. If no answer comes within 1 s, a new connection replaces it.
///
/// On a `current_thread` runtime that is driven only during calls (`block_on` around each call), a call that follows a pause
/// first lets the runtime read its sockets, so that it is not sent over a connection that has ended meanwhile.
///
/// # Cancelled calls
///
/// A call that is dropped, or whose deadline passes, resets its stream. Servers end connections on which many streams are reset
/// before they were accepted (h2, and so tonic: more than 20; CVE-2023-44487), and a server that stands still for a moment accepts
/// none. Therefore, of the calls that a server has not answered at all, at most 8 are reset before it has shown that it reads
/// again: by a response to a later call, or by acknowledging SETTINGS that were sent after them. The others keep their streams
/// until then, mostly for one or two round trips. They count as in flight and against the server's limit of streams. Calls whose
/// response has begun are reset at once.
///
/// Two things remain outside of the client's control. h2 takes 100 empty DATA frames without `END_STREAM` in the life of a
/// connection, and then ends the connection with its calls (no gRPC server sends them on its own). Some servers and proxies count
/// every reset over time, whatever was answered (Netty by default: 200 in 30 s), and then say GOAWAY.
///
/// [`BalancedChannelBuilder::wait_limit`]: crate::BalancedChannelBuilder::wait_limit
/// [`BalancedChannelBuilder::timeout`]: crate::BalancedChannelBuilder::timeout
/// [`BalancedChannelBuilder::method_timeout`]: crate::BalancedChannelBuilder::method_timeout
/// [`BalancedChannelBuilder::replay_limit`]: crate::BalancedChannelBuilder::replay_limit
/// [`BalancedChannelBuilder::outlier_detection`]: crate::BalancedChannelBuilder::outlier_detection
/// [`BalancedChannelBuilder::idle_timeout`]: crate::BalancedChannelBuilder::idle_timeout
/// [`BalancedChannelBuilder::addresses_in_statuses`]: crate::BalancedChannelBuilder::addresses_in_statuses
/// [`BalancedChannelBuilder::max_header_list_size`]: crate::BalancedChannelBuilder::max_header_list_size
/// [`BalancedChannelBuilder::max_request_header_list_size`]: crate::BalancedChannelBuilder::max_request_header_list_size
#[derive(Clone)]
pub struct BalancedChannel(pub(super) Arc<ChannelHandle>);

impl BalancedChannel {
    /// Returns a builder with the default settings.
    pub fn builder() -> BalancedChannelBuilder {
        BalancedChannelBuilder::default()
    }
}

impl Service<Request<tonic::body::Body>> for BalancedChannel {
    type Response = Response<ResponseBody>;
    type Error = Status;
    type Future = ResponseFuture;

    /// Always ready: whether a call waits or fails depends on its own deadline and settings, which only `call` knows.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> ResponseFuture {
        ResponseFuture { call: Box::pin(call::call(self.0.clone(), request)), has_runtime: false }
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A copy: the writer is the user's code, and must not run under the watch's lock.
        let status = self.0.shared.status.borrow().clone();
        f.debug_struct("BalancedChannel")
            .field("service", &status.directory.service)
            .field("state", &status.state)
            .field("ready", &status.ready)
            .finish_non_exhaustive()
    }
}

/// The future of one call. Dropping it cancels the call.
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture {
    call: Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>,
    /// It was polled inside a runtime before.
    has_runtime: bool,
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Inside of a task the runtime stays the same, and one look is enough. A future that is polled by hand may leave it.
        if !self.has_runtime || tokio::task::try_id().is_none() {
            runtime::require_runtime()?;
            self.has_runtime = true;
        }
        self.call.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
