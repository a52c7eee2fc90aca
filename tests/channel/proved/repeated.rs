//! What a caller is told of a call that a server had, and that found no second one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tonic::{Request, Status};
use tonic_etcd::{CallError, WaitForReady};

use crate::peer::{Peer, Script};
use crate::support::{over, ready, repeating, until};

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
