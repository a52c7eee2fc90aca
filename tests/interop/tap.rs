//! A way to a server on which the pings of its clients are counted, and its GOAWAYs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    connections: Arc<Mutex<Vec<Seen>>>,
}

/// Of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// When each ping of the client passed.
    pub(crate) pings: Vec<Instant>,
    /// The code of the server's GOAWAY and what it added.
    pub(crate) go_away: Option<(u32, String)>,
}

enum Frame {
    Ping,
    GoAway(u32, String),
    Other,
}

impl Tap {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let tap = Self { address: listener.local_addr().unwrap(), connections: Arc::default() };
        tokio::spawn(tap.clone().accept(listener, server));
        tap
    }

    /// Each connection so far, in the order in which they came.
    pub(crate) fn connections(&self) -> Vec<Seen> {
        self.connections.lock().unwrap().clone()
    }

    async fn accept(self, listener: TcpListener, server: SocketAddr) {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else { continue };
            let number = {
                let mut connections = self.connections.lock().unwrap();
                connections.push(Seen::default());
                connections.len() - 1
            };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(self.clone().pass(number, Frames::of(Side::Client), from_client, to_server));
            tokio::spawn(self.clone().pass(number, Frames::of(Side::Server), from_server, to_client));
        }
    }

    /// Passes on what one side says, to its end, and then ends the other's.
    async fn pass(
        self,
        number: usize,
        mut frames: Frames,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            for frame in frames.seen(&buffer[..read]) {
                let seen = &mut self.connections.lock().unwrap()[number];
                match frame {
                    Frame::Ping => seen.pings.push(Instant::now()),
                    Frame::GoAway(code, said) => seen.go_away = Some((code, said)),
                    Frame::Other => {}
                }
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }
}

/// The length of what a client says before its first frame.
const PREFACE: usize = 24;

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Client,
    Server,
}

/// HTTP/2's frames, out of bytes as they come.
struct Frames {
    side: Side,
    skip: usize,
    held: Vec<u8>,
}

impl Frames {
    fn of(side: Side) -> Self {
        Self { side, skip: if side == Side::Client { PREFACE } else { 0 }, held: Vec::new() }
    }

    fn seen(&mut self, bytes: &[u8]) -> Vec<Frame> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.held.extend_from_slice(&bytes[skipped..]);
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The next whole frame, if it is here.
    fn next(&mut self) -> Option<Frame> {
        const ACK: u8 = 1;
        let [a, b, c, kind, flags, _, _, _, _, rest @ ..] = &self.held[..] else { return None };
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        let frame = match (self.side, kind, payload) {
            (Side::Client, 6, _) if flags & ACK == 0 => Frame::Ping,
            (Side::Server, 7, [_, _, _, _, a, b, c, d, said @ ..]) => {
                Frame::GoAway(u32::from_be_bytes([*a, *b, *c, *d]), String::from_utf8_lossy(said).into())
            }
            _ => Frame::Other,
        };
        self.held.drain(..9 + length);
        Some(frame)
    }
}
