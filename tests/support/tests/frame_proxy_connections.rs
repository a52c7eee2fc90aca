//! What a frame proxy passes on of streams and connections that end, between a client and a scripted server.
#![allow(clippy::disallowed_types)] // real time is meant

mod grpc;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use grpc::{Client, framed, wait, within};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};
use test_support::{FrameProxy, Rule};
use tokio::net::{TcpListener, TcpStream};

type Server = Connection<TcpStream, Bytes>;

/// A client, and the server's end of its connection through the proxy.
async fn pair() -> (FrameProxy, Client, Server) {
    pair_with(&Builder::new()).await
}

async fn pair_with(settings: &Builder) -> (FrameProxy, Client, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FrameProxy::to(listener.local_addr().unwrap());
    let (client, server) = tokio::join!(Client::connect(proxy.address()), async {
        settings.handshake(listener.accept().await.unwrap().0).await.unwrap()
    });
    (proxy, client, server)
}

async fn next(server: &mut Server) -> (Request<RecvStream>, SendResponse<Bytes>) {
    within("a request", server.accept()).await.expect("a connection").unwrap()
}

/// Goes on reading and writing.
fn drive(mut server: Server) {
    tokio::spawn(async move { while server.accept().await.is_some() {} });
}

fn head() -> Response<()> {
    Response::builder().header("content-type", "application/grpc").body(()).unwrap()
}

#[tokio::test]
async fn the_head_comes_before_there_is_a_message_and_trailers_come_whole() {
    let (_proxy, client, mut server) = pair().await;
    let mut call = client.call("/s/Stream", b"ask").await;
    let (request, mut respond) = next(&mut server).await;
    assert_eq!(request.uri().to_string(), "http://etcd/s/Stream");
    assert_eq!(request.headers()["te"], "trailers");
    let mut sink = respond.send_response(head(), false).unwrap();
    drive(server);
    assert_eq!(call.head().await.unwrap()["content-type"], "application/grpc");
    sink.send_data(framed(b"answer"), false).unwrap();
    assert_eq!(call.next().await.unwrap().unwrap()[..], *b"answer");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "7".parse().unwrap());
    sink.send_trailers(trailers).unwrap();
    assert_eq!(call.status().await.unwrap(), "7");
}

#[tokio::test]
async fn resets_of_the_server_keep_their_reason() {
    let (proxy, client, mut server) = pair().await;
    let mut before = client.call("/s/Before", b"").await;
    next(&mut server).await.1.send_reset(Reason::REFUSED_STREAM);
    let mut midway = client.call("/s/Midway", b"").await;
    let mut sink = next(&mut server).await.1.send_response(head(), false).unwrap();
    sink.send_data(framed(b"one"), false).unwrap();
    drive(server);
    assert_eq!(before.next().await.unwrap_err().reason(), Some(Reason::REFUSED_STREAM));
    assert!(midway.next().await.unwrap().is_some());
    proxy.rule(Rule::hold().responses());
    sink.send_data(framed(b"held"), false).unwrap();
    assert!(midway.is_silent().await);
    sink.send_reset(Reason::ENHANCE_YOUR_CALM);
    assert_eq!(midway.next().await.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    wait("no stream is left", || proxy.open_streams("Before") + proxy.open_streams("Midway") == 0).await;
}

#[tokio::test]
async fn resets_of_the_client_reach_the_server_even_where_all_is_dropped() {
    let (proxy, client, mut server) = pair().await;
    let mut call = client.call("/s/Call", b"").await;
    let (_request, mut respond) = next(&mut server).await;
    drive(server);
    proxy.rule(Rule::drop_all());
    call.sink.send_reset(Reason::CANCEL);
    let reason = within("the reset", poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test]
async fn a_delayed_request_is_not_overtaken_by_its_reset() {
    let (proxy, client, mut server) = pair().await;
    proxy.rule(Rule::delay(Duration::from_millis(100)));
    let mut call = client.call("/s/Call", b"ask").await;
    wait("it is there", || proxy.open_streams("Call") == 1).await;
    call.sink.send_reset(Reason::CANCEL);
    let (_request, mut respond) = next(&mut server).await;
    drive(server);
    let reason = within("the reset", poll_fn(|cx| respond.poll_reset(cx))).await.unwrap();
    assert_eq!(reason, Reason::CANCEL);
}

#[tokio::test]
async fn a_server_that_leaves_takes_no_new_streams_and_ends_the_old() {
    let (_proxy, client, mut server) = pair().await;
    let mut call = client.call("/s/Call", b"").await;
    let mut sink = next(&mut server).await.1.send_response(head(), false).unwrap();
    server.graceful_shutdown();
    drive(server);
    let left = async {
        while client.send.clone().ready().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within("GOAWAY", left).await;
    sink.send_data(framed(b"last"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sink.send_trailers(trailers).unwrap();
    assert_eq!(call.next().await.unwrap().unwrap()[..], *b"last");
    assert_eq!(call.status().await.unwrap(), "0");
    within("the end", client.connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_breaks_off_says_why() {
    let (_proxy, client, mut server) = pair().await;
    let mut call = client.call("/s/Call", b"").await;
    let _stream = next(&mut server).await;
    server.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    drive(server);
    assert!(call.next().await.is_err());
    let end = within("the end", client.connection).await.unwrap();
    assert_eq!(end.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_client_that_goes_takes_the_servers_connection_with_it() {
    let (proxy, client, mut server) = pair().await;
    let _call = client.call("/s/Call", b"").await;
    let _stream = next(&mut server).await;
    client.connection.abort();
    let end = within("the end of the connection", server.accept()).await;
    assert!(end.is_none_or(|end| end.is_err()));
    wait("it is forgotten", || proxy.open_connections() + proxy.open_streams("Call") == 0).await;
}

#[tokio::test]
async fn the_servers_limit_of_streams_is_the_clients() {
    let (_proxy, client, server) = pair_with(Builder::new().max_concurrent_streams(3)).await;
    drive(server);
    wait("the server's limit", || client.send.current_max_send_streams() == 3).await;
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let (_proxy, client, mut server) = pair().await;
    let large = vec![7; 8 << 20];
    let mut call = client.call("/s/Call", &large).await;
    let (request, mut respond) = next(&mut server).await;
    drive(server);
    let (mut body, mut length) = (request.into_body(), 0);
    while let Some(data) = within("the request", body.data()).await {
        length += data.as_ref().unwrap().len();
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    assert_eq!(length, large.len() + 5);
    respond.send_response(head(), false).unwrap().send_data(framed(&large), true).unwrap();
    assert_eq!(call.next().await.unwrap().unwrap().len(), large.len());
}

#[tokio::test]
async fn no_server_and_a_proxy_that_is_dropped_close_the_connection() {
    let gone: SocketAddr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let proxy = FrameProxy::to(gone);
    let client = Client::connect(proxy.address()).await;
    let _ = within("the end of the connection", client.connection).await;
    wait("it is counted", || (proxy.connections(), proxy.open_connections()) == (1, 0)).await;

    let (proxy, client, mut server) = pair().await;
    proxy.rule(Rule::hold());
    let mut call = client.call("/s/Call", b"").await;
    wait("it is held", || proxy.open_streams("Call") == 1).await;
    let address = proxy.address();
    drop(proxy);
    assert!(call.next().await.is_err());
    assert!(within("the server's end", server.accept()).await.is_none_or(|end| end.is_err()));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_client_that_goes_while_the_server_is_silent_is_forgotten() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap(); // the system accepts, and nobody reads
    let proxy = FrameProxy::to(silent.local_addr().unwrap());
    let client = Client::connect(proxy.address()).await;
    wait("it is there", || proxy.open_connections() == 1).await;
    client.connection.abort();
    drop(client.send);
    wait("it is forgotten", || proxy.open_connections() == 0).await;
}
