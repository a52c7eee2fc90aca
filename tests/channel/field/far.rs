//! A server that is 100 ms away.

use std::net::SocketAddr;
use std::time::Duration;

use greeter_proto::HelloRequest;
use greeter_proto::greeter_client::GreeterClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tonic::transport::Server;

use super::frozen::{NOBODY, Stock};
use crate::support::{builder, greet, over, ready};

/// So long each way.
const WAY: Duration = Duration::from_millis(50);

async fn carry(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf) {
    let (put, mut take) = tokio::sync::mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = take.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        let _ = put.send((tokio::time::Instant::now() + WAY, buffer[..size].to_vec()));
    }
}

async fn far(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            let (_, _) = (client.set_nodelay(true), server.set_nodelay(true));
            let ((a, b), (c, d)) = (client.into_split(), server.into_split());
            tokio::spawn(carry(a, d));
            tokio::spawn(carry(c, b));
        }
    });
    address
}

/// F31: one method hangs, and 100 callers give it 100 ms each. What they give up keeps its place for a further round trip or two,
/// in which the server shows that it has read it: so a third of the 400 streams that the server takes, or two. The other
/// method finds room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_hangs_takes_no_slots_from_another() {
    let server = Stock::with(Server::builder().max_concurrent_streams(400));
    let address = far(server.address).await;
    let channel = over(builder(), [&address]);
    ready(&channel, 1).await;
    let mut hanging = JoinSet::new();
    for i in 0..100 {
        let channel = channel.clone();
        hanging.spawn(async move {
            sleep(Duration::from_millis(i)).await;
            loop {
                let mut client = GreeterClient::new(channel.clone());
                let _ =
                    timeout(Duration::from_millis(100), client.say_hello(HelloRequest { name: NOBODY.into() })).await;
                tokio::task::yield_now().await; // also where calls fail at once, as the runtime ends
            }
        });
    }
    let mut full = 0;
    for _ in 0..7 {
        for _ in 0..50 {
            sleep(Duration::from_millis(20)).await;
            full += usize::from(channel.servers()[0].in_flight() >= 400);
        }
        greet(&channel).await.unwrap();
    }
    // On a busy machine the server may be late for a moment.
    assert!(full * 4 < 350, "100 callers take all slots in {full} of 350 looks");
}
