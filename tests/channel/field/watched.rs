//! Calls whose polls are counted, and servers that are down.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;
use tonic::{Request, Status};
use tonic_etcd::{BalancedChannel, WaitForReady};

/// A call in a task of its own.
pub(crate) struct Watched {
    polls: Arc<AtomicUsize>,
    pub(crate) task: JoinHandle<Result<(), Status>>,
}

impl Watched {
    pub(crate) fn greet(channel: &BalancedChannel, for_ready: bool) -> Self {
        let channel = channel.clone();
        Self::spawn(async move {
            let mut request = Request::new(HelloRequest { name: "world".into() });
            request.extensions_mut().insert(WaitForReady(for_ready));
            GreeterClient::new(channel).say_hello(request).await.map(|_| ())
        })
    }

    fn spawn(call: impl Future<Output = Result<(), Status>> + Send + 'static) -> Self {
        let polls = Arc::<AtomicUsize>::default();
        let counted = polls.clone();
        let task = tokio::spawn(async move {
            let mut call = pin!(call);
            std::future::poll_fn(|cx| {
                counted.fetch_add(1, Ordering::SeqCst);
                call.as_mut().poll(cx)
            })
            .await
        });
        Self { polls, task }
    }

    pub(crate) fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }
}

/// So many calls, each of which has begun to wait before the next begins.
pub(crate) async fn waiting(channel: &BalancedChannel, count: usize, for_ready: bool) -> Vec<Watched> {
    let mut calls = Vec::new();
    for _ in 0..count {
        let call = Watched::greet(channel, for_ready);
        while call.polls() == 0 {
            tokio::task::yield_now().await;
        }
        calls.push(call);
    }
    calls
}

pub(crate) fn polls(calls: &[Watched]) -> usize {
    calls.iter().map(Watched::polls).sum()
}

pub(crate) fn finished(calls: &[Watched]) -> usize {
    calls.iter().filter(|call| call.task.is_finished()).count()
}

/// An address that refuses connections for as long as the socket is held: it is bound, and does not listen.
pub(crate) fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}
