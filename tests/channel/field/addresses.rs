//! Where addresses of servers are to be found, and where not.

use std::time::Duration;

use greeter_proto::testing::test_service_client::TestServiceClient;
use greeter_proto::testing::{EchoStatus, ResponseParameters, SimpleRequest, StreamingOutputCallRequest};
use tokio::net::TcpListener;
use tonic::service::InterceptorLayer;
use tonic::{Code, Request, Status};
use tonic_etcd::{BalancedChannel, BalancedChannelBuilder, CallError, Instance, RetryPolicy, ServedBy, WaitForReady};
use tower::ServiceBuilder;
use tower::timeout::TimeoutLayer;

use super::recorded::{Stock, rich};
use crate::peer::{Part, Peer, Script};
use crate::support::{SAY_HELLO, builder, changing, greet, over, server_of, told};

/// The message has what gRPC escapes, and the address of a third server, which is the server's business.
const SAID: &str = "ünder 100 % load, ask 10.9.8.7:65";

fn asks() -> EchoStatus {
    EchoStatus { code: 5, message: SAID.to_owned() }
}

/// Nothing that travels with a status has the address.
fn assert_silent(status: &Status, address: &str) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "?"));
    for text in [status.message(), &status.to_string(), &format!("{status:?}"), &format!("{:?}", status.metadata())] {
        assert!(!text.contains(host) && !text.contains(port), "{text}");
    }
    assert!(status.metadata().get("x-served-by-address").is_none());
}

/// What the server said, as it said it.
fn assert_rich(status: &Status) {
    let sent = rich(5, SAID);
    assert_eq!((status.code(), status.message(), status.details()), (sent.code(), sent.message(), sent.details()));
    let metadata = status.metadata();
    let texts: Vec<_> = metadata.get_all("x-text").iter().collect();
    assert_eq!(texts, ["some", "more"]);
    assert_eq!(metadata.get_bin("x-data-bin").unwrap().to_bytes().unwrap(), &[0, 255][..]);
}

/// The answer is held back until it is whole.
fn twice() -> BalancedChannelBuilder {
    builder().retry(RetryPolicy::new().repeatable(SAY_HELLO).max_attempts(2))
}

/// F51: statuses of the channel's own, for every way in which a server fails a call.
#[tokio::test]
async fn texts_and_metadata_of_failed_calls_hold_no_address_and_their_source_does() {
    let scripts = [
        Script::Break,
        Script::BreakAfter(Part::Head),
        Script::BreakAfter(Part::Message),
        Script::Http(503),
        Script::Reset(h2::Reason::INTERNAL_ERROR),
        Script::Reset(h2::Reason::CANCEL),
        Script::Silence,
    ];
    for script in scripts {
        for make in [builder as fn() -> BalancedChannelBuilder, twice] {
            let peer = Peer::start(script.clone()).await;
            let timeout = Duration::from_millis(if matches!(script, Script::Silence) { 200 } else { 20_000 });
            let channel = over(make().timeout(timeout), [&peer.address]);
            let status = greet(&channel).await.unwrap_err();
            assert_silent(&status, &peer.address.to_string());
            let text = told(&status);
            assert!(text.contains(&peer.address.to_string()), "{text}");
            assert!(!status.message().is_empty() && !status.message().starts_with(':'), "{status}");
        }
    }
}

/// F51: statuses that a server sent, at once and after messages. Those in trailers have no source: the answer tells the server.
#[tokio::test]
async fn statuses_of_servers_are_passed_on_as_they_are_and_name_their_server() {
    let stock = Stock::start();
    let channel = over(builder(), [&stock.address]);
    let mut client = TestServiceClient::new(channel.clone());
    let status =
        client.unary_call(SimpleRequest { response_status: Some(asks()), ..Default::default() }).await.unwrap_err();
    assert_rich(&status);
    assert_silent(&status, &stock.address.to_string());
    assert_eq!(server_of(&status), stock.address.to_string());
    assert!(told(&status).contains(&stock.address.to_string()));
    assert!(CallError::find(&status).unwrap().is_from_server());

    let answers = client.streaming_output_call(StreamingOutputCallRequest {
        response_parameters: vec![ResponseParameters::default(); 2],
        response_status: Some(asks()),
        ..Default::default()
    });
    let answers = answers.await.unwrap();
    let by = answers.extensions().get::<ServedBy>().unwrap().address().to_string();
    assert_eq!(by, stock.address.to_string());
    let mut answers = answers.into_inner();
    for _ in 0..2 {
        answers.message().await.unwrap().unwrap();
    }
    let status = answers.message().await.unwrap_err();
    assert_rich(&status);
    assert_silent(&status, &stock.address.to_string());
    assert!(CallError::find(&status).is_none());
}

/// F51: the same beneath interceptors and layers, which box errors.
#[tokio::test]
async fn the_source_outlives_layers() {
    let stock = Stock::start();
    let service = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(20)))
        .layer(InterceptorLayer::new(Ok::<Request<()>, Status>))
        .service(over(builder(), [&stock.address]));
    let mut client = TestServiceClient::new(service);
    let status =
        client.unary_call(SimpleRequest { response_status: Some(asks()), ..Default::default() }).await.unwrap_err();
    assert_rich(&status);
    assert_eq!(server_of(&status), stock.address.to_string());
    let wrapped = std::io::Error::other(status);
    assert!(CallError::find(&wrapped).is_some(), "{wrapped}");
}

/// F51: who is no generated client gets the frames of the server.
#[tokio::test]
async fn a_proxy_gets_headers_as_the_server_sent_them() {
    let peer = Peer::start(Script::Status(5, vec![("x-text", "some")])).await;
    let request = http::Request::post("http://x/helloworld.Greeter/SayHello").body(tonic::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(over(builder(), [&peer.address]), request).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "5");
    assert_eq!(answer.headers()["x-text"], "some");
    assert!(answer.headers().get("x-served-by-address").is_none());
}

/// F51: no server had the call.
#[tokio::test]
async fn the_reason_why_there_is_no_server_holds_no_address() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let ip = closed.to_string();
    let nameless = "no-such-host.invalid:50051".to_owned();
    let socket = "unix:/nowhere/at/all.sock".to_owned();
    for address in [ip, nameless, socket] {
        let make = |builder: BalancedChannelBuilder| -> BalancedChannel {
            let (channel, set) = changing(builder);
            set.put("it", Instance::new(address.as_str()).unwrap());
            channel
        };
        let status = greet(&make(builder())).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_silent(&status, &address);
        assert!(status.message().contains("last error: "), "{status}");
        assert!(told(&status).contains(&format!("last error: {address}: ")), "{}", told(&status));
        assert!(CallError::find(&status).unwrap().server().is_none());

        let channel = make(builder().timeout(Duration::from_millis(200)));
        let mut request = Request::new(greeter_proto::HelloRequest::default());
        request.extensions_mut().insert(WaitForReady(true));
        let mut client = greeter_proto::greeter_client::GreeterClient::new(channel);
        let status = client.say_hello(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_silent(&status, &address);
        assert!(status.message().starts_with("waited "), "{status}");
    }
}

/// F51: a connector of the user's says what it likes.
#[tokio::test]
async fn errors_of_connectors_hold_no_address_either() {
    let refuse = |uri: http::Uri| async move {
        Err::<tokio::io::DuplexStream, _>(std::io::Error::other(format!("{uri} by 10.7.7.7:1, [fe80::7]:2 and db-7:3")))
    };
    let (channel, set) = changing(builder().connector(tower::service_fn(refuse)));
    set.put("it", Instance::new("away-7:1").unwrap());
    let status = greet(&channel).await.unwrap_err();
    for part in ["away-7", "10.7.7.7", "fe80", "db-7"] {
        assert!(!format!("{status:?} {status}").contains(part), "{status}");
        assert!(told(&status).contains(part), "{}", told(&status));
    }
}

/// F51: the option.
#[tokio::test]
async fn addresses_come_back_where_they_are_asked_for() {
    let stock = Stock::start();
    let address = stock.address.to_string();
    let channel = over(builder().addresses_in_statuses(true), [&stock.address]);
    let mut client = TestServiceClient::new(channel);
    let status =
        client.unary_call(SimpleRequest { response_status: Some(asks()), ..Default::default() }).await.unwrap_err();
    assert_rich(&status);
    assert_eq!(status.metadata().get("x-served-by-address").unwrap(), &address);
    assert_eq!(server_of(&status), address);

    let breaking = Peer::start(Script::Break).await;
    let address = breaking.address.to_string();
    let status = greet(&over(builder().addresses_in_statuses(true), [&breaking.address])).await.unwrap_err();
    assert!(status.message().starts_with(&format!("{address}: connection lost")), "{status}");
    assert_eq!(status.metadata().get("x-served-by-address").unwrap(), &address);
    assert_eq!(server_of(&status), address);

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let status = greet(&over(builder().addresses_in_statuses(true), [&closed])).await.unwrap_err();
    assert!(status.message().contains(&format!("last error: {closed}: ")), "{status}");
}

/// F51: reading a status must not end the caller's task.
#[tokio::test]
async fn details_that_are_no_base64_are_left_out() {
    let peer = Peer::start(Script::Status(5, vec![("grpc-status-details-bin", "*no*base64*")])).await;
    let status = greet(&over(builder(), [&peer.address])).await.unwrap_err();
    assert_eq!((status.code(), status.message(), status.details()), (Code::NotFound, "as told", &[][..]));
}
