//! A way to a server on which the PINGs of its clients are counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const PREFACE: usize = 24;
const PING: u8 = 6;

pub(super) struct Tap {
    pub(super) address: SocketAddr,
    pings: Arc<AtomicUsize>,
}

impl Tap {
    pub(super) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = Self { address: listener.local_addr().unwrap(), pings: Arc::default() };
        let pings = tap.pings.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let ((client, mut to_client), (mut from_server, server)) = (client.into_split(), server.into_split());
                tokio::spawn(async move {
                    drop(tokio::io::copy(&mut from_server, &mut to_client).await);
                    drop(to_client.shutdown().await);
                });
                tokio::spawn(count(client, server, pings.clone()));
            }
        });
        tap
    }

    /// PINGs that are no acknowledgements.
    pub(super) fn pings(&self) -> usize {
        self.pings.load(Ordering::SeqCst)
    }
}

async fn count(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, pings: Arc<AtomicUsize>) -> std::io::Result<()> {
    let mut bytes = vec![0; PREFACE];
    from.read_exact(&mut bytes).await?;
    loop {
        to.write_all(&bytes).await?;
        bytes = vec![0; 9];
        from.read_exact(&mut bytes).await?;
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        if bytes[3] == PING && bytes[4] == 0 {
            pings.fetch_add(1, Ordering::SeqCst);
        }
        bytes.resize(9 + length, 0);
        from.read_exact(&mut bytes[9..]).await?;
    }
}
