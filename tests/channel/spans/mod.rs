//! Spans of calls and of their attempts (gRFC A72): names, fields, parents, and with what they end.

mod odd;
mod record;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use http_body::{Body, Frame};
use tonic::{Code, Request, Status};
use tonic_etcd::{BalancedChannel, ResponseBody, RetryPolicy, Route};
use tower::{Service as _, ServiceExt as _};
use tracing::{Instrument as _, debug_span};

use self::record::{Recorder, Span};
use crate::attempts::{NEVER, SOON, Servers, repeating, unavailable};
use crate::peer::{Part, Script};
use crate::support::{SAY_HELLO, builder, greet, until};

const OK: (&str, &str) = ("OK", "OK");
const CANCELLED: (&str, &str) = ("CANCELLED", "ERROR");
const UNAVAILABLE: (&str, &str) = ("UNAVAILABLE", "ERROR");

/// Status, earlier attempts, and whether it is a transparent retry.
fn told(attempt: &Span) -> ((&str, &str), &str, &str) {
    (attempt.status(), attempt.field("previous-rpc-attempts"), attempt.field("transparent-retry"))
}

/// A greeting, up to the head of its response.
async fn head_of_greeting(channel: &BalancedChannel) -> http::Response<ResponseBody> {
    let message = String::from("\0\0\0\0\x03\x0a\x01x");
    send(channel, message).await.unwrap()
}

async fn send<B>(channel: &BalancedChannel, body: B) -> Result<http::Response<ResponseBody>, Status>
where
    B: Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
{
    let request = http::Request::post(SAY_HELLO).header("content-type", "application/grpc");
    channel.clone().ready().await?.call(request.body(tonic::body::Body::new(body)).unwrap()).await
}

/// A request that fails.
struct Failing;

impl Body for Failing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(Some(Err(Status::aborted("no more"))))
    }
}

#[tokio::test]
async fn a_call_has_a_span_within_its_callers_and_its_attempt_one_within_that() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).instrument(debug_span!("caller")).await.unwrap();
    let spans = recorder.spans();
    assert_eq!(
        spans.iter().map(|span| (span.name, span.parent)).collect::<Vec<_>>(),
        [("caller", None), ("call", Some(0)), ("attempt", Some(1)),]
    );
    assert!(spans.iter().all(|span| span.is_closed), "{spans:#?}");
    let fields = |span: &Span| span.fields.0.clone().into_iter().collect::<Vec<_>>();
    assert_eq!(
        fields(&spans[1]),
        [
            ("grpc.status", "OK".to_owned()),
            ("otel.kind", "client".into()),
            ("otel.name", "Sent.helloworld.Greeter.SayHello".into()),
            ("otel.status_code", "OK".into()),
            ("service", "greeter".into()),
        ]
    );
    assert_eq!(
        fields(&spans[2]),
        [
            ("attempt", "1".to_owned()),
            ("grpc.status", "OK".into()),
            ("otel.kind", "client".into()),
            ("otel.name", "Attempt.helloworld.Greeter.SayHello".into()),
            ("otel.status_code", "OK".into()),
            ("previous-rpc-attempts", "0".into()),
            ("server", servers.name(0)),
            ("transparent-retry", "false".into()),
        ]
    );
}

#[tokio::test]
async fn a_failed_call_has_the_status_that_its_caller_gets() {
    let servers = Servers::start([Script::Status(Code::NotFound as i32, vec![])]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap_err();
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), call.field("otel.status_description")), (("NOT_FOUND", "ERROR"), "as told"));
    assert_eq!(told(&attempts[0]), (("NOT_FOUND", "ERROR"), "0", "false"));
    assert!(call.is_closed && attempts[0].is_closed);
}

#[tokio::test]
async fn a_response_that_breaks_off_ends_both() {
    let servers = Servers::start([Script::BreakAfter(Part::Message)]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let status = greet(&channel).await.unwrap_err();
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), call.field("otel.status_description")), (UNAVAILABLE, status.message()));
    assert_eq!(told(&attempts[0]), (UNAVAILABLE, "0", "false"));
}

#[tokio::test]
async fn a_retry_tells_how_many_went_before() {
    let servers = Servers::start([unavailable(), Script::Greet]).await;
    let channel = servers.channel(repeating()).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap();
    let (call, attempts) = recorder.call();
    assert_eq!(call.status(), OK);
    assert_eq!(call.events, ["call failed, repeating it"]);
    let all: Vec<_> = attempts.iter().map(told).collect();
    assert_eq!(all, [(UNAVAILABLE, "0", "false"), (OK, "1", "false")]);
    let servers_told: Vec<_> = attempts.iter().map(|attempt| attempt.field("server").to_owned()).collect();
    assert_eq!(servers_told, [servers.name(0), servers.name(1)]);
    assert!(call.is_closed && attempts.iter().all(|attempt| attempt.is_closed));
}

#[tokio::test]
async fn a_transparent_retry_is_told_apart() {
    let refused = Script::Reset(h2::Reason::REFUSED_STREAM);
    let servers = Servers::start([refused, unavailable(), Script::Greet]).await;
    let channel = servers.channel(repeating()).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap();
    let (call, attempts) = recorder.call();
    assert_eq!(call.events, ["call not processed, trying another server", "call failed, repeating it"]);
    let all: Vec<_> = attempts.iter().map(told).collect();
    assert_eq!(all, [(UNAVAILABLE, "0", "false"), (UNAVAILABLE, "0", "true"), (OK, "1", "false")]);
    assert_eq!(attempts.iter().map(|attempt| attempt.field("attempt")).collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[tokio::test]
async fn the_attempts_of_a_hedged_call_are_siblings_and_the_losers_are_cancelled() {
    let refused = Script::Reset(h2::Reason::REFUSED_STREAM);
    let servers = Servers::start([Script::Silence, refused, Script::Greet]).await;
    // Two attempts at once, and no third, however long the second takes.
    let channel = servers.channel(repeating().hedge_after(SOON).max_attempts(2)).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap();
    let (call, attempts) = recorder.call();
    assert_eq!(call.status(), OK);
    let all: Vec<_> = attempts.iter().map(told).collect();
    assert_eq!(all, [(CANCELLED, "0", "false"), (UNAVAILABLE, "1", "false"), (OK, "1", "true")]);
    assert!(call.is_closed && attempts.iter().all(|attempt| attempt.is_closed));
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_cancelled() {
    let servers = Servers::start([Script::Silence, Script::Greet]).await;
    let channel = servers.channel(repeating().attempt_timeout(SOON)).await;
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap();
    let (call, attempts) = recorder.call();
    assert_eq!(call.events, ["attempt timed out, trying another server"]);
    let all: Vec<_> = attempts.iter().map(told).collect();
    assert_eq!(all, [(CANCELLED, "0", "false"), (OK, "1", "false")]);
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_as_cancelled() {
    for policy in [RetryPolicy::new(), repeating().hedge_after(NEVER)] {
        let servers = Servers::start([Script::Silence]).await;
        let channel = servers.channel(policy).await;
        let (recorder, _guard) = Recorder::begin();
        tokio::select! {
            biased;
            _ = greet(&channel) => panic!("it is silent"),
            () = until("the call to arrive", || servers.calls() == [1]) => {}
        }
        let (call, attempts) = recorder.call();
        assert_eq!((call.status(), attempts[0].status()), (CANCELLED, CANCELLED));
        assert!(call.is_closed && attempts[0].is_closed);
    }
}

#[tokio::test]
async fn a_deadline_ends_both() {
    let servers = Servers::start([Script::Silence]).await;
    let channel = servers.channel_of(builder().timeout(Duration::from_millis(500))).await; // enough to be sent
    let (recorder, _guard) = Recorder::begin();
    greet(&channel).await.unwrap_err();
    let (call, attempts) = recorder.call();
    let exceeded = ("DEADLINE_EXCEEDED", "ERROR");
    assert_eq!((call.status(), attempts[0].status()), (exceeded, exceeded));
}

#[tokio::test]
async fn spans_end_with_the_response_and_not_with_its_head() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let response = head_of_greeting(&channel).await;
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), attempts[0].status()), (("", ""), ("", "")));
    assert!(!call.is_closed && !attempts[0].is_closed);
    let mut body = response.into_body();
    let mut next = async || std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    while !next().await.is_trailers() {}
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), attempts[0].status()), (OK, OK));
    assert!(call.is_closed && attempts[0].is_closed, "before the body is dropped");
}

#[tokio::test]
async fn a_response_that_is_dropped_ends_them_as_cancelled() {
    let servers = Servers::start([Script::HeadOnly]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let response = head_of_greeting(&channel).await;
    assert!(recorder.spans().iter().all(|span| !span.is_closed));
    drop(response);
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), attempts[0].status()), (CANCELLED, CANCELLED));
    assert!(call.is_closed && attempts[0].is_closed);
}

#[tokio::test]
async fn a_response_that_was_held_back_ends_with_its_status_even_if_nobody_reads_it() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(repeating()).await;
    let (recorder, _guard) = Recorder::begin();
    let response = head_of_greeting(&channel).await;
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), attempts[0].status()), (("", ""), OK), "the attempt is over, the call is not");
    drop(response);
    assert_eq!(recorder.call().0.status(), OK);
}

#[tokio::test]
async fn a_call_without_a_server_has_no_attempt() {
    let servers = Servers::start([]).await;
    let channel = servers.channel_of(builder().wait_limit(Duration::ZERO)).await;
    let (recorder, _guard) = Recorder::begin();
    let status = greet(&channel).await.unwrap_err();
    let (call, attempts) = recorder.call();
    assert_eq!((call.status(), call.field("otel.status_description")), (UNAVAILABLE, status.message()));
    assert!(call.is_closed && attempts.is_empty());
}

#[tokio::test]
async fn a_call_whose_route_is_a_mistake_has_a_span() {
    let servers = Servers::start([Script::Greet]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let mut request = Request::new(HelloRequest::default());
    request.extensions_mut().insert(Route::to("version", "v2"));
    GreeterClient::new(channel).say_hello(request).await.unwrap_err();
    let (call, attempts) = recorder.call();
    assert_eq!(call.status(), ("INTERNAL", "ERROR"));
    assert!(call.is_closed && attempts.is_empty());
}

#[tokio::test]
async fn the_failure_of_a_request_is_its_own_status() {
    let servers = Servers::start([Script::HeadOnly]).await;
    let channel = servers.channel(RetryPolicy::new()).await;
    let (recorder, _guard) = Recorder::begin();
    let status = send(&channel, Failing).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted);
    let (call, attempts) = recorder.call();
    let aborted = ("ABORTED", "ERROR");
    assert_eq!((call.status(), attempts[0].status()), (aborted, aborted));
}
