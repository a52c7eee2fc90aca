//! A server that writes its frames by hand, in parts of 16 KiB whatever it may send, as Go's does: for headers that h2's
//! server takes too long to write, in a build for tests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PART: usize = 1 << 14;

/// A string as HPACK writes it.
#[derive(Clone)]
pub(crate) enum Text {
    Plain(Vec<u8>),
    /// So many times eight `a`, in Huffman's code: 5 bits each.
    As(usize),
}

/// How it answers all streams but the first of a connection. That one is echoed.
#[derive(Clone)]
pub(crate) struct Answer {
    /// The headers end the answer; else they follow a message.
    pub(crate) alone: bool,
    pub(crate) fields: Vec<(&'static str, Text)>,
}

pub(crate) struct LargeHeads {
    pub(crate) address: SocketAddr,
    firsts: Arc<AtomicUsize>,
    others: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl LargeHeads {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::with(answer, true).await
    }

    /// The same, where the first stream of a connection is answered only if it is echoed.
    pub(crate) async fn with(answer: Answer, echoes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (firsts, others) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (firsts.clone(), others.clone());
        let serve = async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (answer, (firsts, others)) = (answer.clone(), counts.clone());
                tokio::spawn(async move { speak(tcp, &answer, echoes, &firsts, &others).await });
            }
        };
        Self { address, firsts, others, task: tokio::spawn(serve).abort_handle() }
    }

    /// Streams that were the first of their connection.
    pub(crate) fn firsts(&self) -> usize {
        self.firsts.load(SeqCst)
    }

    /// Streams that were answered with large headers.
    pub(crate) fn others(&self) -> usize {
        self.others.load(SeqCst)
    }
}

impl Drop for LargeHeads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(
    mut tcp: TcpStream,
    answer: &Answer,
    echoes: bool,
    firsts: &AtomicUsize,
    others: &AtomicUsize,
) -> std::io::Result<()> {
    tcp.read_exact(&mut [0; 24]).await?;
    tcp.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let mut begun = false;
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let stream = u32::from_be_bytes(stream);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        tcp.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags == 0 => tcp.write_all(&frame(SETTINGS, 1, 0, &[])).await?,
            HEADERS if stream == 1 => drop(firsts.fetch_add(1, SeqCst)),
            DATA if stream == 1 && (payload.is_empty() || !echoes) => {}
            DATA if stream == 1 => {
                if !std::mem::replace(&mut begun, true) {
                    tcp.write_all(&frame(HEADERS, END_HEADERS, 1, &opening())).await?;
                }
                tcp.write_all(&frame(DATA, 0, 1, &payload)).await?;
            }
            HEADERS => {
                others.fetch_add(1, SeqCst);
                let mut block = if answer.alone { opening() } else { Vec::new() };
                for (name, value) in &answer.fields {
                    field(&mut block, name, value);
                }
                if !answer.alone {
                    tcp.write_all(&frame(HEADERS, END_HEADERS, stream, &opening())).await?;
                    tcp.write_all(&frame(DATA, 0, stream, &[0; 5])).await?;
                }
                write_block(&mut tcp, stream, &block).await?;
            }
            _ => {}
        }
    }
}

/// `:status: 200` and gRPC's content type.
fn opening() -> Vec<u8> {
    let mut block = vec![0x88];
    field(&mut block, "content-type", &Text::Plain(b"application/grpc".to_vec()));
    block
}

async fn write_block(tcp: &mut TcpStream, stream: u32, block: &[u8]) -> std::io::Result<()> {
    let count = block.len().div_ceil(PART);
    for (index, part) in block.chunks(PART).enumerate() {
        let ends = if index + 1 == count { END_HEADERS } else { 0 };
        let (kind, flags) = if index == 0 { (HEADERS, ends | END_STREAM) } else { (CONTINUATION, ends) };
        tcp.write_all(&frame(kind, flags, stream, part)).await?;
    }
    Ok(())
}

/// A literal that is not indexed, with a name of its own (RFC 7541, 6.2.2).
fn field(block: &mut Vec<u8>, name: &str, value: &Text) {
    block.push(0);
    integer(block, 0, name.len());
    block.extend_from_slice(name.as_bytes());
    match value {
        Text::Plain(text) => {
            integer(block, 0, text.len());
            block.extend_from_slice(text);
        }
        Text::As(eights) => {
            integer(block, 0x80, 5 * eights);
            block.extend([0x18, 0xc6, 0x31, 0x8c, 0x63].iter().cycle().take(5 * eights));
        }
    }
}

/// With 7 bits in the first byte, beside a flag (RFC 7541, 5.1).
fn integer(block: &mut Vec<u8>, flag: u8, number: usize) {
    if number < 127 {
        return block.push(flag | number as u8);
    }
    block.push(flag | 127);
    let mut rest = number - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
