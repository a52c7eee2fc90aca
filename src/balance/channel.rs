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
use crate::balance::route::Route;
use crate::balance::runtime;
use crate::balance::shared::ChannelHandle;

/// The recommended channel: it sends each call to a server that is connected and, as far as the client can know, alive.
///
/// Pass it to a generated client, as it is or wrapped in tower layers and tonic interceptors. A clone is cheap. All clones share
/// connections, settings and state. Dropping the last clone ends the channel; calls that were started, also those that wait for
/// a server, still finish.
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
/// # How a call proceeds
///
/// 1. **Deadline.** The time of the call counts from its first poll (see [Deadlines](#deadlines)).
/// 2. **Pick.** The channel's [`policy`](crate::policy) picks one of the connected servers, in the caller's task. If that server
///    is at its limit of concurrent streams (`SETTINGS_MAX_CONCURRENT_STREAMS`), or at the channel's own limit
///    ([`BalancedChannelBuilder::max_in_flight_per_server`]), another one gets the call.
/// 3. **Wait.** If no server takes the call, it waits or fails (see
///    [Waiting and failing at once](#waiting-and-failing-at-once)).
/// 4. **Attempt.** The request is sent over the picked server's connection.
/// 5. **Response or retry.** The response is passed on as it comes, or the call is retried (see [Retries](#retries)).
///
/// Dropping the future of a call, or the body of its response, cancels the call.
///
/// # Selection and policy
///
/// Which server gets a call is decided in two steps. The **selection** runs in the channel's background task, when servers, their
/// states or time change; it costs a call nothing. The [`policy`](crate::policy) then picks among the servers that it leaves, in the
/// caller's task. The steps of the selection, in this order:
///
/// | step | setting | what it does |
/// |---|---|---|
/// | filter | [`BalancedChannelBuilder::filter`] | leaves out instances, as long as they do not match |
/// | partition by route | [`BalancedChannelBuilder::route_key`], [`Route`](crate::Route), [`Split`](crate::Split) | divides the servers by what they carry: a call goes to one part |
/// | zones | [`BalancedChannelBuilder::zone`] | orders the servers of a part: those of the own zone come first |
/// | subset | [`BalancedChannelBuilder::subset`] | connects to some of them |
/// | weights | [`Instance::with_weight`](crate::Instance::with_weight), [`BalancedChannelBuilder::slow_start`] | gives each its share |
///
/// None is on by default: then all servers are connected, and calls go to all of them. [`BalancedChannel::servers`] lists every
/// server, with what the selection has decided of it: [`ServerStatus::selection`](crate::ServerStatus::selection),
/// [`route`](crate::ServerStatus::route), [`zone_distance`](crate::ServerStatus::zone_distance),
/// [`slow_start_factor`](crate::ServerStatus::slow_start_factor).
///
/// # When a server goes away
///
/// | what happens to the server | a call in flight on it | the next calls |
/// |---|---|---|
/// | its record is removed from the directory, or it is marked as draining | goes on to its end. The connection closes after the last such call | go to other servers at once. If most records are removed, the loss may be doubtful: see [`ServerState::Held`](crate::ServerState::Held) |
/// | its process dies, or the connection is lost or reset | fails with `UNAVAILABLE`: it may have been processed. It is retried on another server if [`RetryPolicy`](crate::RetryPolicy) declares its method | go to other servers at once. The server is connected again with backoff |
/// | it sends GOAWAY without an error and finishes its calls (a graceful shutdown, `max_connection_age`) | goes on to its end if the GOAWAY covers its stream. Otherwise it was never processed, and is retried without a declaration | go to other servers, or to the server's next connection, which is made at once |
/// | it sends GOAWAY with an error code | goes on if the GOAWAY covers its stream; when the server then closes the connection, the call fails as if the connection were lost. Otherwise it was never processed, and is retried without a declaration, at most once after such a GOAWAY: the call may be its cause | as in the row above |
/// | it resets the stream with `REFUSED_STREAM` | was never processed, and is retried without a declaration (see [Transparent retries](#transparent-retries)) | may go to it as before, but the refusal counts as load for a while ([`LeastRequest`](crate::policy::LeastRequest), [`PeakEwma`](crate::policy::PeakEwma)) |
/// | it is frozen: nothing at all comes over the connection | waits for its deadline or for [`KeepAlive`](crate::KeepAlive), whichever is sooner. Keep-alive usually closes the connection within 30 s of the last byte, or of the start of the call if that is later. In rare cases that takes 40 s, and up to about five and a half minutes if the streams of the connection were silent before. The call then fails as if the connection were lost | may still go to it until then; but its unanswered calls count as load, so few do ([`LeastRequest`](crate::policy::LeastRequest)). If its registrar is frozen too, none does once its lease has ended (15 s by default) |
/// | it is slow, and other responses or PINGs still come | waits for its deadline, or is sent to another server sooner ([`RetryPolicy::attempt_timeout`](crate::RetryPolicy::attempt_timeout), [`RetryPolicy::hedge_after`](crate::RetryPolicy::hedge_after)). A slow call is no reason to end a connection | go to servers with less load first ([`LeastRequest`](crate::policy::LeastRequest), [`PeakEwma`](crate::policy::PeakEwma)) |
/// | it says that it does not serve, and [`BalancedChannelBuilder::health_check`] or `healthCheckConfig` of a service config is set | goes on to its end | go to other servers until it serves again |
/// | its calls fail | ends with the status that the server sent | rarely go to it, because failures count as load (the same two policies). [`BalancedChannelBuilder::outlier_detection`] leaves the server out for a while |
///
/// The same holds for streaming calls: a stream whose response has begun stays on its server to its end, and is not retried.
///
/// These settings detect a frozen server sooner: shorter times of [`KeepAlive`](crate::KeepAlive) with
/// [`unthrottled`](crate::KeepAlive::unthrottled), a shorter time to live of its lease
/// ([`RegistrarBuilder::ttl`](crate::RegistrarBuilder::ttl)), and deadlines with
/// [`BalancedChannelBuilder::outlier_detection`], which counts a passed deadline as a failure.
///
/// While etcd cannot be reached, the last known servers stay, and nothing changes for calls. The channel does not show this;
/// [`Resolution::state`](crate::Resolution::state) of the same target does.
///
/// # When servers are overloaded
///
/// What becomes of a call depends on how a server limits its load:
///
/// | the server | a call | what shows it | what changes it |
/// |---|---|---|---|
/// | has a limit of streams (`SETTINGS_MAX_CONCURRENT_STREAMS`; `max_concurrent_streams` in tonic) | goes to another server, or waits here. The channel keeps to the limit | [`ChannelStats::waiting`](crate::ChannelStats::waiting); statuses with `waited …` and `not sent …` | [`wait_limit`](BalancedChannelBuilder::wait_limit), [`connections_per_server`](BalancedChannelBuilder::connections_per_server) |
/// | takes the call and lets it wait (`concurrency_limit_per_connection` in tonic) | is in flight there | the durations of calls; statuses with `no answer …` | [`max_in_flight_per_server`](BalancedChannelBuilder::max_in_flight_per_server), deadlines, [`attempt_timeout`](crate::RetryPolicy::attempt_timeout), [`hedge_after`](crate::RetryPolicy::hedge_after) |
/// | answers with a status (`load_shed` in tonic: `RESOURCE_EXHAUSTED`) | fails with that status at once, unless its method and the code are declared | calls and attempts with that status | [`retryable_codes`](crate::RetryPolicy::retryable_codes) |
/// | resets the stream with `REFUSED_STREAM`, as servers and proxies may that are at a limit; tonic does so only beyond its limit of streams | is sent again, to other servers first (see [Transparent retries](#transparent-retries)). If all refuse it, it ends with `UNAVAILABLE`, `not processed: …` | more attempts than calls, with `UNAVAILABLE`; transparent retries; [`ChannelStats::waiting`](crate::ChannelStats::waiting). The servers stay `ready`, and [`OutlierDetection`](crate::OutlierDetection) does not count refusals | the deadline, [`wait_limit`](BalancedChannelBuilder::wait_limit), [`budget`](crate::RetryPolicy::budget) |
///
/// The [metrics](crate::metrics#what-to-alert-on) page says what to alert on.
///
/// # Waiting and failing at once
///
/// | the channel's servers | a call | a call that [waits for ready](crate::WaitForReady) |
/// |---|---|---|
/// | are not resolved yet | waits | waits |
/// | none can be used, and at least one is in state [`Connecting`](crate::ServerState::Connecting) | waits | waits |
/// | some are connected, and all of those are at their limit of streams | waits, and asks for a further connection if [`BalancedChannelBuilder::connections_per_server`] allows one | the same |
/// | some are connected, and all of those are at [`BalancedChannelBuilder::max_in_flight_per_server`] | waits | waits |
/// | some are connected, and all of those were idle and have not answered a PING yet ([Idle connections](#idle-connections)) | waits | waits |
/// | some are connected, and all of those are ejected | is sent to one of them | is sent to one of them |
/// | some are connected, and the policy returns [`Pick::Wait`](crate::policy::Pick::Wait) | waits | waits |
/// | some are connected, and the policy returns [`Pick::Fail`](crate::policy::Pick::Fail) | fails at once with the policy's status | fails at once too |
/// | none is registered or [held](crate::ServerState::Held), all drain, or none matches the [filter](BalancedChannelBuilder::filter) | fails at once with `UNAVAILABLE` | waits |
/// | none can be connected, or those that are connected are [`Unhealthy`](crate::ServerState::Unhealthy) | fails at once with `UNAVAILABLE` | waits |
///
/// A call waits until its deadline, and for at most [`BalancedChannelBuilder::wait_limit`] (10 s by default) in all its waits
/// together. A call that waits for ready waits until its deadline only, and without a deadline for ever. The text of the status
/// lists how many servers are in which state, the limits that the ready ones are at, and the last error, without addresses.
///
/// A call with a [`Route`](crate::Route) sees the servers of its route alone in this table, and those without a route if it may go
/// there too.
///
/// Calls that find no server with room wait in one queue (one for each value that calls are routed by), first in, first out; new calls do not overtake them. If the task of a
/// woken call does not poll it within 25 to 50 ms, the next call gets the room, and the late call keeps its place in the queue.
/// Calls for which the policy returns [`Pick::Wait`](crate::policy::Pick::Wait) are not in this queue.
///
/// # Deadlines
///
/// The deadline of a call is the earliest of three:
///
/// - the time that the call asks for (`grpc-timeout`, [`tonic::Request::set_timeout`]);
/// - the time that the channel gives it: [`CallTimeout`](crate::CallTimeout) in the request's extensions, or else
///   [`MethodConfig::timeout`](crate::MethodConfig::timeout) of its method, of its service, or else [`BalancedChannelBuilder::timeout`];
/// - `timeout` of the [service config](BalancedChannelBuilder::service_config), which nothing in the code lifts.
///
/// None is set by default, as in gRPC. The deadline covers waiting, all attempts, the pauses between them, and the whole of a
/// streamed response. Each attempt sends the time that is left as `grpc-timeout`, from 100 ms
/// on rounded up by at most 5 %, so that the header's text repeats and costs one byte. A call whose deadline passes ends with
/// `DEADLINE_EXCEEDED`. A call that has failed ends with that failure, and before its deadline, if the pause before its retry would
/// last until the deadline.
///
/// # Retries
///
/// | what became of an attempt | the call is retried | how often | setting |
/// |---|---|---|---|
/// | it was never processed: not sent, `REFUSED_STREAM`, or a GOAWAY whose last stream id is below its own | without a declaration, like gRFC A6's transparent retry | up to four times at once, and then after a backoff each (see [Transparent retries](#transparent-retries)) | [`budget`](crate::RetryPolicy::budget) |
/// | the same, but the GOAWAY has an error code: the call may have caused it, and would end the next connection too | without a declaration | once | none |
/// | it may have been processed, and failed with `UNAVAILABLE` (a lost connection is one) | if its method is declared as safe to retry | 5 attempts in all, with backoff | [`RetryPolicy::repeatable`](crate::RetryPolicy::repeatable), [`max_attempts`](crate::RetryPolicy::max_attempts), [`backoff`](crate::RetryPolicy::backoff), [`budget`](crate::RetryPolicy::budget) |
/// | it has no response after [`RetryPolicy::attempt_timeout`](crate::RetryPolicy::attempt_timeout) (none by default) | if its method is declared, and another server has room. The attempt is given up | the same, without backoff | `attempt_timeout` |
/// | the same after [`RetryPolicy::hedge_after`](crate::RetryPolicy::hedge_after) (none by default) | the same, but the attempt goes on beside the new one (a hedge). The first response wins | the same, and one token of the budget for each | `hedge_after`, [`hedge_after_quantile`](crate::RetryPolicy::hedge_after_quantile) |
/// | it failed with another code | if its method and the code are declared | the same | [`RetryPolicy::retryable_codes`](crate::RetryPolicy::retryable_codes) |
/// | the caller has got the beginning of its response | never. A unary response of a declared method is held back until it is complete, so that it can still be retried ([`RetryPolicy::repeatable`](crate::RetryPolicy::repeatable) has the exceptions) | | |
///
/// ## Transparent retries
///
/// A call that no server has processed is sent again until a server takes it. It goes to a server that has not failed
/// it, of the last eight that have, as long as there is one with room. How soon depends on who has not processed the
/// attempt:
///
/// | retry of the call | after a refusal of a server (`REFUSED_STREAM`, GOAWAY) | after an attempt that was not sent |
/// |---|---|---|
/// | the first | at once, as gRFC A6 allows | at once |
/// | the second to the fourth | at once after the call's first refusal, and else while [`RetryPolicy::budget`](crate::RetryPolicy::budget) allows retries; otherwise after the backoff | at once |
/// | each further one | after the backoff | after the backoff |
///
/// The backoff is 100 ms, doubles up to 800 ms (5 s after a minute), and loses up to half of that to jitter. It also
/// comes before a call goes to a server again because all have refused it, but for the first time. So a call of 2 s
/// that all servers refuse makes about a dozen attempts, however many servers there are: a fleet that is overloaded or
/// drains is not flooded. It ends with `UNAVAILABLE` as soon as the next backoff would last until its deadline: up to
/// 0.8 s sooner than that, and up to 5 s sooner after a minute.
///
/// Each refusal of a call takes one token of the budget, which is 100 tokens without a
/// [`RetryPolicy`](crate::RetryPolicy) too, but the first one takes none: gRFC A6 lets that retry go at once and does
/// not throttle it. So one server that refuses everything takes nothing from the retries of calls that fail, as long as
/// others take its calls. All calls that the GOAWAY of one connection leaves out take one token together. An attempt
/// that was not sent takes none. An empty budget makes calls wait, and fails none of those that are sent again here:
/// their deadline does, or [`wait_limit`](BalancedChannelBuilder::wait_limit) (10 s by default), which counts these
/// backoffs as waits. Calls that wait for ready have no such limit: without a deadline they are sent again for ever.
///
/// A call in such a backoff counts as one that waits for a server ([`ChannelStats::waiting`](crate::ChannelStats::waiting)),
/// though servers are ready and have room.
///
/// A call that was refused passes over servers that have refused a call since they last took one, whoever made it, as
/// long as there is another one with room. If there are others and they are at their limits, it waits in the queue for
/// the room that they will have; once it has waited for as long as the backoff, it goes to any server. So where one
/// server of many takes calls, the calls of a busy channel find it with their second attempt. The first call of a quiet
/// channel learns who refuses at the backoff's pace, and may end before it has asked that one.
///
/// A call with a [`Route`](crate::Route) that may go to the default servers goes there without a backoff, once it would
/// have to wait for one.
///
/// ## Several attempts
///
/// A call with several attempts shares one deadline among them. Dropping it cancels each attempt. What attempt timeouts and hedges
/// have cost is told by [`ServerStatus::attempt_timeouts`](crate::ServerStatus::attempt_timeouts) and
/// [`ServerStatus::hedges`](crate::ServerStatus::hedges).
///
/// A call that has sent more of its request than [`BalancedChannelBuilder::replay_limit`] (256 KiB) is not retried. There is one
/// exception: if one message is all that was sent, and no server has processed it, its size does not matter.
///
/// # Errors
///
/// Each error is a [`Status`] of a call: `poll_ready` never fails. A status that a server sent is passed on as it is. By default
/// the channel adds no address to a text or to metadata, so that a handler may pass a status on to its own caller. The source of
/// a status, [`CallError`](crate::CallError), names the server; [`BalancedChannelBuilder::addresses_in_statuses`] puts addresses
/// into the status itself. A call that has no status of a server ends with one of these:
///
/// | code | when |
/// |---|---|
/// | `UNAVAILABLE` | no server takes the call, [`BalancedChannelBuilder::wait_limit`] is over, the connection was lost (`connection lost …`), or no server processed the call (`not processed …`) |
/// | `DEADLINE_EXCEEDED` | the deadline passed. The text has `waited …` or `not sent …` if no server had the call, and `no answer …` if one had it |
/// | `RESOURCE_EXHAUSTED` | the headers or trailers of the response are larger than [`BalancedChannelBuilder::max_header_list_size`] |
/// | `RESOURCE_EXHAUSTED` | a message is larger than [`MethodConfig::max_request_message_bytes`](crate::MethodConfig::max_request_message_bytes), [`MethodConfig::max_response_message_bytes`](crate::MethodConfig::max_response_message_bytes), or the same limits of a service config |
/// | `INTERNAL` | the headers of the request are larger than the server takes ([`BalancedChannelBuilder::max_request_header_list_size`]): `not sent …` |
/// | `INTERNAL` | the call's [`Route`](crate::Route) names a key that the channel does not route by, or a [strict header](BalancedChannelBuilder::strict_route_header) cannot be read |
/// | `INTERNAL` | the request's own stream panicked: `the request's stream panicked` |
/// | its own, or `UNKNOWN` | the request's own stream failed: a [`Status`] is passed on as it is, any other error is `UNKNOWN` with its text, as in tonic |
/// | `INTERNAL` | the call was polled outside of a tokio runtime, or on one without timers |
/// | `CANCELLED`, `RESOURCE_EXHAUSTED`, `PERMISSION_DENIED`, `INTERNAL` | the server reset the stream (gRPC's table of HTTP/2 error codes); `INTERNAL` also for a request that HTTP/2 cannot carry |
/// | by gRPC's table of HTTP statuses, `UNKNOWN` for 200 | the response has no `grpc-status`. In addition, its HTTP status is not 200, or its content type is none of `application/grpc`, `application/grpc+…` and `application/grpc;…`. The text has the HTTP status, the content type, and the first 256 bytes of the body, for which the call waits at most 1 s |
///
/// If a server resets a call with `CANCEL` before the deadline, its handler has usually panicked: tonic's servers reset the
/// stream then, and the text says so.
///
/// Which server had the call:
///
/// | the call | its server |
/// |---|---|
/// | has a response | [`ServedBy`](crate::ServedBy) in the response's extensions, if [`BalancedChannelBuilder::served_by`] or [`ReportServer`](crate::ReportServer) asks for it |
/// | failed with a status that the channel made | [`CallError`](crate::CallError), the status's source |
/// | failed with a status that the server sent in place of a response (`Trailers-Only` in gRPC's HTTP/2 protocol) | [`CallError`](crate::CallError), if a generated client made the call. The channel recognises such a call by the [`tonic::GrpcMethod`] in the request's extensions |
/// | failed with a status in the trailers of a response that had begun | the status has no source. Of a streamed response the caller has [`ServedBy`](crate::ServedBy). Of a unary call a generated client drops the response: a tower layer around the channel still sees it, or [`BalancedChannelBuilder::addresses_in_statuses`] puts the address into the metadata |
///
/// Callers without a generated client, such as proxies, get headers and trailers as the server sent them.
///
/// # Connections
///
/// The channel keeps one connection to each server, and makes further ones only if
/// [`BalancedChannelBuilder::connections_per_server`] allows that. It connects in the background, and again when the connection has
/// ended. A server is ready once its HTTP/2 SETTINGS have come: a server that accepts connections and sends nothing never becomes
/// ready. The backoff is that of gRPC's connection-backoff document with shorter times (100 ms, times 1.6, up to 10 s, ±20 %): etcd
/// removes a dead server when its lease ends, so a refused connection usually means a server that is just starting.
///
/// At most 1 024 attempts to connect run at once; only attempts to servers whose last attempt succeeded may exceed that. If more
/// servers are to be connected, they start in this order:
///
/// 1. servers whose last attempt succeeded. They never wait: each takes the place of a running attempt that may be aborted (see
///    below), or starts beyond the 1 024 if there is none;
/// 2. servers that were never tried;
/// 3. servers whose last attempts failed, in order of their failures in a row;
/// 4. further connections of servers that have one ([`BalancedChannelBuilder::connections_per_server`]). They never take the place
///    of an attempt for a first connection.
///
/// While servers wait, running attempts are aborted after some time, and are made again later. Let n be the number of failures in a
/// row of the server that waits. An attempt to a server with more failures than n is aborted after 25 ms, any other one after
/// 25 ms × 10ⁿ (25 ms, 250 ms, 2.5 s, …). An aborted attempt counts as a failure. So each further round gives the
/// attempts ten times as long, and slow servers get the time that they need.
///
/// A server that sends GOAWAY and then finishes its calls costs no call. When tonic's `max_connection_age_grace` is over, the
/// server closes the connection with the calls that are left: for those calls that is like a crash. A connection has stream ids
/// for 2^30 calls (RFC 9113, 5.1.1), and is replaced before they are used up.
///
/// # Idle connections
///
/// NATs and load balancers forget idle connections without telling either end. A connection that was silent for
/// [`BalancedChannelBuilder::idle_timeout`] (5 min) gets no call before it has answered a PING. Meanwhile calls go to other
/// servers, or wait. If nothing is read within 1 s, a new connection replaces it. gRPC's idle timeout closes connections; this
/// one only checks them.
///
/// On a `current_thread` runtime that is driven only during calls (`block_on` around each call), a call after a pause first lets
/// the runtime read its sockets. So the call is not sent over a connection that has ended meanwhile.
///
/// # Cancelled calls
///
/// A call that is dropped, or whose deadline passes, resets its stream. So does an attempt that is given up, or that loses against
/// a hedge. Servers end connections on which many streams are reset
/// before they were accepted (h2, and so tonic: more than 20; CVE-2023-26964), and a server that stands still for a moment accepts
/// none. Therefore the channel resets at most 8 calls without a response at a time. Further resets wait until the server shows
/// that it has read those calls: by a response to a later call, or by the acknowledgement of a SETTINGS frame that the channel sends
/// after them for this purpose. That is usually one or two round trips. Until its stream is reset, a cancelled call counts as in flight and against the server's limit of streams.
/// Calls whose response has begun are reset at once.
///
/// The channel cannot prevent two other ends of a connection:
///
/// - This client's h2 accepts 100 empty DATA frames without `END_STREAM` from a server in the life of a connection. After that it
///   ends the connection with its calls. No gRPC server sends such frames unless its user makes it do so.
/// - Some servers and proxies count all resets over time, also those of calls that they have answered (Netty by default: 200 in
///   30 s), and then send GOAWAY.
///
/// [`BalancedChannelBuilder::wait_limit`]: crate::BalancedChannelBuilder::wait_limit
/// [`BalancedChannelBuilder::connections_per_server`]: crate::BalancedChannelBuilder::connections_per_server
/// [`BalancedChannelBuilder::max_in_flight_per_server`]: crate::BalancedChannelBuilder::max_in_flight_per_server
/// [`BalancedChannelBuilder::timeout`]: crate::BalancedChannelBuilder::timeout
/// [`BalancedChannelBuilder::replay_limit`]: crate::BalancedChannelBuilder::replay_limit
/// [`BalancedChannelBuilder::outlier_detection`]: crate::BalancedChannelBuilder::outlier_detection
/// [`BalancedChannelBuilder::idle_timeout`]: crate::BalancedChannelBuilder::idle_timeout
/// [`BalancedChannelBuilder::served_by`]: crate::BalancedChannelBuilder::served_by
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

    /// Always ready. Whether a call waits or fails depends on its own deadline and settings, and only `call` knows those.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> ResponseFuture {
        // A route is looked at on any channel: one that knows no keys must not send the call just anywhere.
        let wanted = if self.0.shared.settings.has_routes() || request.extensions().get::<Route>().is_some() {
            call::routing::wanted(&self.0.shared.settings, &request)
        } else {
            Ok(None)
        };
        let call: BoxedCall = match wanted {
            Ok(None) => Box::pin(call::call(self.0.clone(), request)),
            Ok(Some(wanted)) => Box::pin(call::routing::routed_call(self.0.clone(), &wanted, request)),
            Err(misrouted) => Box::pin(call::routing::misrouted(&self.0, &misrouted, request)),
        };
        ResponseFuture { call, has_begun: false }
    }
}

impl fmt::Debug for BalancedChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A copy: the writer is the user's code, and must not run under the watch's lock.
        let status = self.0.shared.channel_status.borrow().clone();
        f.debug_struct("BalancedChannel")
            .field("service", &status.directory.service)
            .field("state", &status.state)
            .field("ready", &status.ready)
            .finish_non_exhaustive()
    }
}

/// One call.
type BoxedCall = Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, Status>> + Send>>;

/// The future of one call. Dropping it cancels the call.
#[must_use = "futures do nothing unless they are polled"]
pub struct ResponseFuture {
    call: BoxedCall,
    /// It was polled before.
    has_begun: bool,
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // The call itself looks for a runtime when it begins. Inside of a task the runtime stays the same. A future that is polled by
        // hand may leave it.
        if std::mem::replace(&mut self.has_begun, true) && tokio::task::try_id().is_none() {
            runtime::require_runtime()?;
        }
        self.call.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
