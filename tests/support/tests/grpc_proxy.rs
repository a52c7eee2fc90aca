//! etcd's own gRPC proxy in front of a real etcd: these tests fail where there is none.
#![allow(clippy::disallowed_types)] // real time is meant

mod grpc;

use std::net::TcpStream;

use grpc::{Client, contains};
use test_support::{Etcd, FrameProxy, GrpcProxy, Proxy};

#[tokio::test]
async fn calls_and_watches_pass_and_nothing_is_left_after_a_drop() {
    let etcd = Etcd::start();
    let proxy = GrpcProxy::to(etcd.address());
    assert_eq!(proxy.endpoint(), format!("http://{}", proxy.address()));
    let client = Client::connect(proxy.address()).await;
    let mut watches = [client.watch("a").await, client.watch("a").await];
    Client::connect(etcd.address()).await.put("a", "one").await;
    for watch in &mut watches {
        assert!(contains(&watch.next().await.unwrap().unwrap(), "one"));
    }
    client.put("a", "two").await;
    assert!(client.has("a", "two").await);
    assert_eq!(proxy.errors(), 0, "{}", proxy.log());
    let address = proxy.address();
    drop(proxy);
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn another_proxy_may_stand_between_it_and_etcd() {
    let etcd = Etcd::start();
    let tcp = Proxy::to(etcd.address());
    let frames = FrameProxy::to(tcp.address());
    let proxy = GrpcProxy::to(frames.address());
    Client::connect(proxy.address()).await.put("a", "one").await;
    assert_eq!(frames.streams("Put"), 1);
    assert!(tcp.connections() > 0);
    assert!(proxy.log().contains("started gRPC proxy"));
}
