//! What a caller is told of a repeatable call that a server had, and that no other server could take.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::{Code, Request, Status};
use tonic_etcd::{CallError, WaitForReady};

use crate::peer::{Part, Peer, Script};
use crate::support::{SAY_HELLO, over, ready, repeating, server_of, until};

async fn lost(for_ready: bool) -> (Status, String) {
    let peer = Peer::start(Script::Silence).await;
    let channel = over(repeating(), [&peer.address]);
    ready(&channel, 1).await;
    let mut greeter = GreeterClient::new(channel.clone());
    let mut request = Request::new(HelloRequest { name: "world".into() });
    request.set_timeout(Duration::from_secs(1));
    request.extensions_mut().insert(WaitForReady(for_ready));
    let call = tokio::spawn(async move { greeter.say_hello(request).await });
    until("the call to be there", || peer.seen.calls() == 1).await;
    let address = peer.address.to_string();
    drop(peer); // the server is killed, and processed the call or not
    (call.await.unwrap().unwrap_err(), address)
}

/// The channel's docs: `waited …` where no server had the call. `CallError::server`: none where no server had it.
#[tokio::test]
async fn a_call_that_a_server_had_is_not_told_as_one_that_waited() {
    for for_ready in [true, false] {
        let (status, address) = lost(for_ready).await;
        assert!(!status.message().starts_with("waited"), "for ready: {for_ready}: {status:?}");
        let server = CallError::find(&status).and_then(CallError::server).map(ToString::to_string);
        assert_eq!(server, Some(address), "for ready: {for_ready}: a server had the call: {status:?}");
    }
}

/// F45: the server had the call and has said why it did not do it; the pause that it asked for ends with the call's time.
#[tokio::test]
async fn a_call_that_a_server_had_is_not_told_as_not_sent() {
    let script = Arc::new(Mutex::new(Script::Silence));
    let peer = Peer::start(Script::Now(script.clone())).await;
    let channel = over(repeating(), [&peer.address]);
    ready(&channel, 1).await;
    let mut told = Vec::new();
    for pushback in ["196", "197", "198", "199"].repeat(6) {
        *script.lock().unwrap() = Script::Status(14, vec![("grpc-retry-pushback-ms", pushback)]);
        let mut request = Request::new(HelloRequest { name: "world".into() });
        request.set_timeout(Duration::from_millis(200));
        let before = peer.seen.calls();
        let status = GreeterClient::new(channel.clone()).say_hello(request).await.unwrap_err();
        assert!(peer.seen.calls() > before);
        told.extend((status.message() != "as told").then(|| format!("{:?}: {}", status.code(), status.message())));
    }
    assert!(!told.iter().any(|text| text.contains("not sent")), "{} of 24: {told:?}", told.len());
}

/// A server had the call, and refuses the second attempt until the time is up: the refusal says nothing of the first attempt.
#[tokio::test]
async fn a_refusal_does_not_hide_what_a_server_has_said() {
    for (first, code, text) in [
        (Script::Status(14, vec![]), Code::Unavailable, "as told"),
        (
            Script::Http(503),
            Code::Unavailable,
            "answered HTTP 503 Service Unavailable without a gRPC status, no content type",
        ),
        (Script::BreakAfter(Part::Message), Code::Unavailable, "it is unknown whether the call was processed"),
    ] {
        let script = Arc::new(Mutex::new(first));
        let peer = Peer::start(Script::Now(script.clone())).await;
        let channel = over(repeating().wait_limit(Duration::from_millis(500)), [&peer.address]);
        ready(&channel, 1).await;
        let mut greeter = GreeterClient::new(channel.clone());
        let call = tokio::spawn(async move { greeter.say_hello(HelloRequest { name: "world".into() }).await });
        until("the first attempt", || peer.seen.calls() == 1).await;
        *script.lock().unwrap() = Script::Reset(h2::Reason::REFUSED_STREAM);
        let status = call.await.unwrap().unwrap_err();
        assert!(peer.seen.calls() > 1, "it was repeated");
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(text), "{status:?}");
        assert_eq!(server_of(&status), peer.address.to_string());
    }
}

/// Callers that are no generated clients get the headers of the last server that had the call.
#[tokio::test]
async fn a_proxy_gets_what_a_server_has_said() {
    let script = Arc::new(Mutex::new(Script::Status(14, vec![("x-text", "some")])));
    let peer = Peer::start(Script::Now(script.clone())).await;
    let channel = over(repeating().wait_limit(Duration::from_millis(500)), [&peer.address]);
    ready(&channel, 1).await;
    let request = http::Request::post(format!("http://x{SAY_HELLO}")).header("grpc-timeout", "60S");
    let request = request.body(tonic::body::Body::empty()).unwrap();
    let call = tokio::spawn(tower::ServiceExt::oneshot(channel, request));
    until("the first attempt", || peer.seen.calls() > 0).await;
    *script.lock().unwrap() = Script::Reset(h2::Reason::REFUSED_STREAM);
    let answer = call.await.unwrap().unwrap();
    assert_eq!(
        (&answer.headers()["grpc-status"], &answer.headers()["x-text"]),
        (&"14".parse().unwrap(), &"some".parse().unwrap())
    );
}
