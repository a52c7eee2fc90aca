//! A peer that writes its frames by hand, for what h2's own server never sends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// Takes a request, says GOAWAY with the last stream that it has processed, and closes once it is let go. Counts the
/// requests that it saw.
pub(crate) async fn goaway_at_first_call(last_processed: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    goaway_with(last_processed, 0).await
}

/// The same with this error code.
pub(crate) async fn goaway_with(last_processed: u32, code: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    goaway(last_processed, code, None).await
}

/// Says GOAWAY with this error code once it is told to, after a request has come.
pub(crate) async fn goaway_once_told(told: Arc<Notify>, code: u32) -> (SocketAddr, Arc<AtomicUsize>) {
    goaway(0, code, Some(told)).await
}

async fn goaway(last_processed: u32, code: u32, told: Option<Arc<Notify>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(speak(tcp, last_processed, code, told.clone(), counted.clone()));
        }
    });
    (address, calls)
}

async fn speak(
    mut tcp: TcpStream,
    last_processed: u32,
    code: u32,
    told: Option<Arc<Notify>>,
    calls: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    tcp.read_exact(&mut [0; PREFACE]).await?;
    tcp.write_all(&frame(SETTINGS, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        tcp.read_exact(&mut vec![0; length]).await?;
        if head[3] == SETTINGS && head[4] == 0 {
            tcp.write_all(&frame(SETTINGS, 1, &[])).await?;
        }
        if head[3] == HEADERS {
            calls.fetch_add(1, Ordering::SeqCst);
            if let Some(told) = &told {
                told.notified().await;
            }
            let payload = [last_processed.to_be_bytes(), code.to_be_bytes()].concat();
            tcp.write_all(&frame(GOAWAY, 0, &payload)).await?;
            tcp.shutdown().await?;
        }
    }
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
}
