//! Servers that do not serve, or never said so, and whose connections are lost silently.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tonic_etcd::{BalancedChannelBuilder, KeepAlive, ServerState};

use super::peer::{Answer, NOT_SERVING, Peer, SERVING};
use super::{checking, is, only};
use crate::support::{greet, over};

/// A way to a server that can lose its connections silently, as a host that loses its power or a firewall that forgets them does:
/// nothing comes through, and nobody is told. New connections work.
struct Silent {
    address: SocketAddr,
    lost: watch::Sender<u32>,
}

impl Silent {
    async fn to(server: SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let lost = watch::Sender::new(0);
        let told = lost.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let mut told = told.subscribe();
                tokio::spawn(async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = told.changed() => std::future::pending().await, // both sockets stay open
                    }
                });
            }
        });
        Self { address, lost }
    }

    fn lose(&self) {
        self.lost.send_modify(|count| *count += 1);
    }
}

/// Whether a call that waits for ready gets through within 10 s after the connection was lost, and the server is well again.
async fn comes_back(before: Answer, set: impl Fn(BalancedChannelBuilder) -> BalancedChannelBuilder) -> bool {
    let peer = Peer::start(before).await;
    let way = Silent::to(peer.address).await;
    let keep_alive = KeepAlive::new(Duration::from_millis(100), Duration::from_millis(200));
    let builder = checking().connect_timeout(Duration::from_millis(300)).keep_alive(keep_alive.unthrottled());
    let channel = over(set(builder).wait_for_ready(true), [&way.address]);
    is(&channel, ServerState::Unhealthy).await;
    way.lose();
    peer.says(SERVING);
    let call = timeout(Duration::from_secs(10), greet(&channel)).await;
    eprintln!("{before:?}: {call:?}, {:?}, {} connections", only(&channel), peer.seen.connections());
    call.is_ok_and(|result| result.is_ok())
}

/// A server says that it does not serve, and its host goes. It comes back at the same address, and serves. Calls wait for it, and
/// keep-alive is on: gRPC's would send its PINGs, for which the open `Watch` is a stream as any other.
#[tokio::test]
async fn an_unhealthy_server_whose_connection_is_lost_silently_is_connected_again() {
    assert!(comes_back(Answer::Says(NOT_SERVING), |builder| builder.keep_alive_while_idle(true)).await, "while idle");
    assert!(comes_back(Answer::Says(NOT_SERVING), |builder| builder).await);
}

/// The same for a server that was frozen before its first answer.
#[tokio::test]
async fn a_server_that_never_answered_its_check_is_connected_again_once_its_connection_is_lost() {
    assert!(comes_back(Answer::Silence, |builder| builder.keep_alive_while_idle(true)).await, "while idle");
    assert!(comes_back(Answer::Silence, |builder| builder).await);
}
