//! What is waited for at the end, and what is not.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::bench::streams_client::StreamsClient;
use greeter_proto::bench::streams_server::{Streams, StreamsServer};
use greeter_proto::bench::{Chunk, DownloadRequest, UploadReply};
use greeter_proto::greeter_client::GreeterClient;
use greeter_proto::greeter_server::GreeterServer;
use test_support::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_etcd::{BalancedChannel, Registrar, RegistrationOptions, Serve, ServeState};
use tonic_web::GrpcWebLayer;
use tower::service_fn;

use super::{Me, Served, greet, registrar, waiting};
use crate::support::{PATIENCE, World, until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
/// The beginning of a HEADERS frame that is to have 16 bytes.
const HALF_HEADERS: &[u8] = &[0, 0, 16, 1, 4, 0, 0, 0, 1, 0x82, 0x86];
/// A whole HEADERS frame whose head goes on in a further one.
const HALF_HEAD: &[u8] = &[0, 0, 2, 1, 0, 0, 0, 0, 1, 0x82, 0x86];
/// A few times the second that connections without a call are given after GOAWAY, for busy machines.
const SOON: Duration = Duration::from_secs(6);

/// A server that speaks HTTP/1.1 as well.
async fn with_http1(registrar: &Registrar, say: impl FnOnce(Serve) -> Serve) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, me) = (listener.local_addr().unwrap(), Me::default());
    let serve = say(registrar.service("s"));
    let control = serve.control();
    let server = Server::builder().accept_http1(true).layer(GrpcWebLayer::new());
    let router = { server }.add_service(GreeterServer::new(me.clone()));
    let task = tokio::spawn(serve.serve(router, listener, pending()));
    control.ready(PATIENCE).await.unwrap();
    Served { me, address, control, stop: None, task }
}

/// A connection on which this was said, once the server has taken it.
async fn said(address: SocketAddr, parts: &[&[u8]]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    for part in parts {
        stream.write_all(part).await.unwrap();
    }
    stream
}

/// A greeting as browsers send it.
fn http1(name: &str) -> Vec<u8> {
    let mut message = vec![0, 0, 0, 0, name.len() as u8 + 2, 10, name.len() as u8];
    message.extend(name.bytes());
    let mut request =
        b"POST /helloworld.Greeter/SayHello HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\n".to_vec();
    request.extend(format!("content-length: {}\r\n\r\n", message.len()).bytes());
    request.extend(message);
    request
}

/// Waits for the end of a connection.
async fn closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time"));
}

/// A client behind a network that loses everything from now on, once it has been answered.
async fn gone(address: SocketAddr) -> (Proxy, GreeterClient<Channel>) {
    let proxy = Proxy::to(address);
    let mut client = GreeterClient::connect(proxy.endpoint()).await.unwrap();
    greet(&mut client, "you").await.unwrap();
    (proxy, client)
}

/// How long the server takes to its end.
async fn ends(served: Served) -> Duration {
    let began = Instant::now();
    served.control.stop();
    served.end().await.unwrap();
    began.elapsed()
}

/// F23: who never spoke, said half of something, or has gone, is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_call_in_flight_is_not_waited_for() {
    let world = World::start().await;
    let serve = |serve: Serve| serve.propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let served = Served::ready(&registrar(&world), serve).await;
    let (proxy, _client) = gone(served.address).await;
    proxy.stall();
    let mut streams = Vec::new();
    for parts in [
        &[][..],
        &[&PREFACE[..9]],
        &[PREFACE],
        &[PREFACE, SETTINGS],
        &[PREFACE, SETTINGS, HALF_HEADERS],
        &[PREFACE, SETTINGS, HALF_HEAD],
        &[PREFACE, SETTINGS, &HALF_HEADERS[..5]],
    ] {
        streams.push(said(served.address, parts).await);
    }
    // All of that has arrived when a later one is answered.
    greet(&mut served.client().await, "you").await.unwrap();
    let took = ends(served).await;
    assert!(took < SOON, "{took:?}");
    for stream in &mut streams {
        closed(stream).await;
    }
}

/// A client that pings all the time, and answers no PING, has no call either.
#[tokio::test(flavor = "multi_thread")]
async fn who_only_pings_is_not_waited_for() {
    let world = World::start().await;
    let serve = |serve: Serve| serve.propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let served = Served::ready(&registrar(&world), serve).await;
    let mut stream = said(served.address, &[PREFACE, SETTINGS, PING]).await;
    let pings = tokio::spawn(async move {
        let mut read = [0; 1024];
        while stream.write_all(PING).await.is_ok() {
            match timeout(Duration::from_millis(50), stream.read(&mut read)).await {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => sleep(Duration::from_millis(50)).await,
                Err(_) => {}
            }
        }
    });
    greet(&mut served.client().await, "you").await.unwrap();
    let took = ends(served).await;
    assert!(took < SOON, "{took:?}");
    timeout(PATIENCE, pings).await.expect("closed in time").unwrap();
}

/// F71: half a request of HTTP/1.1, a connection that waits for the next one, and half of that one are not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_is_not_waited_for() {
    let world = World::start().await;
    let served =
        with_http1(&registrar(&world), |serve| serve.propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2))
            .await;
    let (whole, half) = (http1("you"), &http1("you")[..40]);
    let mut streams = Vec::new();
    for parts in [&[][..], &[half], &[&PREFACE[..20]], &[b"\r\n\r\n", half], &[&whole], &[&whole, half]] {
        let mut stream = said(served.address, parts).await;
        if parts.iter().any(|part| *part == whole) {
            let mut answer = Vec::new();
            while !String::from_utf8_lossy(&answer).contains("grpc-status:0") {
                assert_ne!(timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap().unwrap(), 0);
            }
        }
        streams.push(stream);
    }
    greet(&mut served.client().await, "you").await.unwrap();
    let took = ends(served).await;
    assert!(took < SOON, "{took:?}");
    for stream in &mut streams {
        closed(stream).await;
    }
}

/// F23: a call in flight keeps the whole drain, whether its client answers or not, and whatever it speaks.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_keeps_the_whole_drain() {
    let world = World::start().await;
    let drain = Duration::from_secs(3);
    let (http2, browser) = tokio::join!(
        async {
            let served =
                Served::ready(&registrar(&world), |serve| serve.propagation_delay(Duration::ZERO).drain_timeout(drain))
                    .await;
            let (proxy, mut client) = gone(served.address).await;
            let call = tokio::spawn(async move { greet(&mut client, "wait").await });
            until("the call", async || (served.me.begun() == 2).then_some(())).await;
            proxy.stall();
            let (me, took) = (served.me.clone(), ends(served).await);
            call.abort();
            (me, took)
        },
        async {
            let served = with_http1(&registrar(&world), |serve| {
                serve
                    .registration(RegistrationOptions::new().key("http1"))
                    .propagation_delay(Duration::ZERO)
                    .drain_timeout(drain)
            })
            .await;
            // Its head counts, not what follows.
            let whole = http1("wait");
            let _stream = said(served.address, &[&whole[..whole.len() - 1]]).await;
            let _silent = said(served.address, &[]).await;
            greet(&mut served.client().await, "you").await.unwrap();
            (served.me.clone(), ends(served).await)
        }
    );
    for (me, took) in [http2, browser] {
        assert!(took >= drain, "{took:?}");
        until("the handler's end", async || (me.begun() == me.ended()).then_some(())).await;
    }
}

/// F23: a client that has gone is waited for until its call has ended, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn the_busy_one_ends_by_itself() {
    let world = World::start().await;
    let served =
        Served::ready(&registrar(&world), |serve| serve.propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2))
            .await;
    let (proxy, mut client) = gone(served.address).await;
    let lost = tokio::spawn(async move { greet(&mut client, "wait").await });
    until("the call", async || (served.me.begun() == 2).then_some(())).await;
    proxy.stall();
    let call = waiting(&served).await;
    let mut silent = said(served.address, &[]).await;
    served.control.stop();
    closed(&mut silent).await;
    assert!(matches!(served.control.state(), ServeState::Draining { .. }), "both calls are still on their way");
    assert_eq!(served.me.ended(), 1);
    served.me.answers.add_permits(2);
    assert_eq!(call.await.unwrap().unwrap(), "at last");
    let answered = Instant::now();
    served.end().await.unwrap();
    assert!(answered.elapsed() < SOON);
    lost.abort();
}

/// F23: however calls have ended, none is taken for one in flight.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_have_ended_in_any_way_are_not_waited_for() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, me) = (listener.local_addr().unwrap(), Me::default());
    let serve = registrar(&world).service("s").propagation_delay(Duration::ZERO).drain_timeout(PATIENCE * 2);
    let control = serve.control();
    let builder = Server::builder().http2_max_header_list_size(1 << 20).max_concurrent_streams(16);
    let builder = builder.http2_max_pending_accept_reset_streams(Some(1 << 10));
    let router = { builder }.add_service(GreeterServer::new(me.clone()));
    let task = tokio::spawn(serve.serve(router, listener, pending()));
    control.ready(PATIENCE).await.unwrap();
    let served = Served { me, address, control, stop: None, task };
    let (proxy, client) = gone(served.address).await;
    let mut calls = Vec::new();
    for n in 0..64 {
        let mut client = client.clone().max_decoding_message_size(4 << 20);
        calls.push(tokio::spawn(async move {
            let large = n % 8 == 7;
            let name = match n % 8 {
                0 => "wait",
                1 => "panic",
                2 | 3 => "you",
                _ => &"x".repeat(n << 14),
            };
            let mut request = Request::new(HelloRequest { name: name.into() });
            if large {
                // A head of several frames.
                request.metadata_mut().insert("x-large", "y".repeat(100_000).parse().unwrap());
            }
            if n % 16 == 0 {
                request.set_timeout(Duration::from_millis(50));
            }
            drop(timeout(Duration::from_millis(200), client.say_hello(request)).await);
        }));
    }
    for call in calls {
        call.await.unwrap();
    }
    until("the calls' ends", async || (served.me.begun() == served.me.ended()).then_some(())).await;
    greet(&mut client.clone(), "you").await.unwrap();
    proxy.stall();
    let took = ends(served).await;
    assert!(took < SOON, "{took:?}");
}

/// Downloads that send nothing and never end.
struct Endless;

#[tonic::async_trait]
impl Streams for Endless {
    type DownloadStream = tokio_stream::Pending<Result<Chunk, Status>>;

    async fn download(&self, _: Request<DownloadRequest>) -> Result<Response<Self::DownloadStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }

    async fn upload(&self, _: Request<Streaming<Chunk>>) -> Result<Response<UploadReply>, Status> {
        Err(Status::unimplemented("no uploads"))
    }
}

/// F23: any stream of connections will do, and a stream of answers is a call in flight.
#[tokio::test(flavor = "multi_thread")]
async fn connections_of_ones_own_end_as_others_do() {
    let world = World::start().await;
    for (busy, drain) in [(false, PATIENCE * 2), (true, Duration::from_secs(2))] {
        let (accept, incoming) = unbounded_channel::<io::Result<DuplexStream>>();
        let serve =
            registrar(&world).service("s").advertise("h:1").propagation_delay(Duration::ZERO).drain_timeout(drain);
        let control = serve.control();
        let router = Server::builder().add_service(StreamsServer::new(Endless));
        let task = tokio::spawn(serve.serve_with_incoming(router, UnboundedReceiverStream::new(incoming), pending()));
        control.ready(PATIENCE).await.unwrap();
        let (mut silent, theirs) = duplex(64);
        accept.send(Ok(theirs)).unwrap();
        let dial = accept.clone();
        let connector = service_fn(move |_| {
            let (ours, theirs) = duplex(64 * 1024);
            let dialled = dial.send(Ok(theirs));
            async move { dialled.map(|()| ours).map_err(|_| io::Error::other("nobody listens")) }
        });
        let resolution = world.resolver().resolve("s").unwrap();
        let channel = BalancedChannel::builder().connector(connector).build(&resolution).unwrap();
        channel.wait_until_ready(PATIENCE).await.unwrap();
        let mut client = StreamsClient::new(channel);
        let answer = if busy { Some(client.download(DownloadRequest { size: 1 }).await.unwrap()) } else { None };
        let began = Instant::now();
        control.stop();
        drop(timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.expect("the silent one ends"));
        task.await.unwrap().unwrap();
        assert_eq!(began.elapsed() >= drain, busy);
        drop(answer);
    }
}
