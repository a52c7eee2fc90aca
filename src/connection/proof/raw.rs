//! A server that writes its frames by hand.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::connection::proof::{Connection, Options};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const GOAWAY: u8 = 7;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// `:status 200`, by HPACK's table.
pub(super) const OK: &[u8] = &[0x88];

pub(super) struct Peer(DuplexStream);

#[derive(Debug)]
pub(super) struct Raw {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Peer {
    /// Both have greeted.
    pub(super) async fn greeted(options: &Options) -> (Connection, Self) {
        let (ours, theirs) = duplex(1 << 22);
        let mut peer = Self(theirs);
        peer.send(SETTINGS, 0, 0, &[]).await;
        peer.send(SETTINGS, ACK, 0, &[]).await;
        let connection =
            Connection::handshake(ours, options, options.connect_timeout, Arc::<tokio::sync::Notify>::default())
                .await
                .unwrap();
        peer.0.read_exact(&mut [0; 24]).await.unwrap();
        (connection, peer)
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = (payload.len() as u32).to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame).await.unwrap();
    }

    pub(super) async fn goaway(&mut self, last: u32, reason: h2::Reason, debug: &str) {
        let payload = [&last.to_be_bytes()[..], &u32::from(reason).to_be_bytes(), debug.as_bytes()].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, reason: h2::Reason) {
        self.send(RST_STREAM, 0, stream, &u32::from(reason).to_be_bytes()).await;
    }

    /// The head of an answer, and its end if the flag says so.
    pub(super) async fn answer(&mut self, stream: u32, flags: u8) {
        self.send(HEADERS, END_HEADERS | flags, stream, OK).await;
    }

    /// None at the end.
    pub(super) async fn next(&mut self) -> Option<Raw> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        self.0.read_exact(&mut vec![0; length]).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Raw { kind: head[3], flags: head[4], stream })
    }

    /// Waits for the next frame of this kind that is no acknowledgement.
    pub(super) async fn wait_for(&mut self, kind: u8) -> Raw {
        loop {
            let frame = self.next().await.expect("the connection is open");
            if frame.kind == kind && (kind != SETTINGS || frame.flags & ACK == 0) {
                return frame;
            }
        }
    }

    /// Sees so many requests.
    pub(super) async fn requests(&mut self, count: usize) {
        for _ in 0..count {
            self.wait_for(HEADERS).await;
        }
    }
}
