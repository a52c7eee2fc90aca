//! Any order of things, by seeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Frames until it errs, panics or ends.
struct Wild(fastrand::Rng);

impl Body for Wild {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        let n = self.0.u8(..40);
        match n {
            0 => Poll::Ready(None),
            1 => Poll::Ready(Some(Err("broken".into()))),
            2 => std::panic::resume_unwind(Box::new("on purpose")),
            3 => Poll::Ready(Some(Ok(Frame::trailers(http::HeaderMap::new())))),
            4..=6 => Poll::Pending,
            7..=20 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => {
                let size = if n > 35 { self.0.usize(..200_000) } else { self.0.usize(..100) };
                Poll::Ready(Some(Ok(Frame::data(vec![0; size].into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        false
    }
}

async fn peer(io: tokio::io::DuplexStream, seed: u64, acks: bool, nasty: bool, stop: Arc<AtomicBool>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut read, mut write) = tokio::io::split(io);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<(u8, u8, u32, Vec<u8>)>();
    let mut reader = tokio::task::JoinSet::new();
    reader.spawn(async move {
        if read.read_exact(&mut [0; 24]).await.is_err() {
            return;
        }
        loop {
            let mut head = [0; 9];
            if read.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            if read.read_exact(&mut payload).await.is_err() {
                return;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            if tell.send((head[3], head[4], stream, payload)).is_err() {
                return;
            }
        }
    });
    let first = frame(4, 0, 0, &[0, 3, 0, 0, 0, 30]);
    let mut first_ack = true;
    let _ = write.write_all(&first).await;
    let (mut open, mut top): (Vec<(u32, bool)>, u32) = (Vec::new(), 0);
    let mut gone = false; // who said GOAWAY reads over what comes later
    loop {
        tokio::select! {
            biased;
            got = told.recv() => {
                let Some((kind, flags, stream, payload)) = got else { return };
                let mut out = Vec::new();
                match kind {
                    1 if stream > top => { top = stream; open.push((stream, false)); }
                    3 => {
                        assert!(gone || stream <= top, "RST_STREAM on an idle stream {stream}, top {top}, seed {seed}");
                        if rng.bool() { open.retain(|(id, _)| *id != stream) }
                    }
                    0 => {
                        assert!(gone || stream <= top, "DATA on an idle stream, seed {seed}");
                        if !payload.is_empty() {
                            let by = (payload.len() as u32).to_be_bytes();
                            out = frame(8, 0, 0, &by);
                            if rng.bool() { out.extend(frame(8, 0, stream, &by)) }
                        }
                    }
                    4 if flags & 1 == 0 && (acks || std::mem::take(&mut first_ack)) => out = frame(4, 1, 0, &[]),
                    6 if flags & 1 == 0 => out = frame(6, 1, 0, &payload),
                    _ => {}
                }
                if write.write_all(&out).await.is_err() { return }
            }
            () = tokio::time::sleep(Duration::from_millis(rng.u64(0..4))) => {
                if stop.load(Ordering::Relaxed) { continue }
                let mut out = Vec::new();
                match rng.u8(..24) {
                    0..=2 => {
                        let limit = [0_u32, 1, 8, 30, 1000][rng.usize(..5)].to_be_bytes();
                        out = frame(4, 0, 0, &[&[0, 3][..], &limit].concat());
                    }
                    3 => {
                        let window = [0_u32, 1, 1000, 65535, 1 << 20][rng.usize(..5)].to_be_bytes();
                        out = frame(4, 0, 0, &[&[0, 4][..], &window].concat());
                    }
                    4 => out = frame(6, 0, 0, &[1; 8]),
                    5 => out = frame(6, 1, 0, &[3; 8]),
                    6 if nasty && rng.u8(..10) == 0 => {
                        let last = if rng.bool() { top } else { top.saturating_sub(8) };
                        gone = true;
                        out = frame(7, 0, 0, &[&last.to_be_bytes()[..], &u32::from(rng.u8(..12)).to_be_bytes()].concat());
                    }
                    7 if nasty && rng.u8(..40) == 0 => return,
                    _ if open.is_empty() => {}
                    n => {
                        let at = rng.usize(..open.len());
                        let (stream, headed) = open[at];
                        match n {
                            8 => out = frame(3, 0, stream, &u32::from(rng.u8(..14)).to_be_bytes()),
                            9 if !headed => out = frame(1, 4, stream, &[0x08, 3, b'1', b'0', b'3']),
                            10..=13 if !headed => { out = frame(1, 4, stream, &[0x88]); open[at].1 = true; }
                            14 if !headed => out = frame(1, 5, stream, &[0x88]),
                            10..=14 if headed => out = frame(0, 0, stream, &vec![0; rng.usize(..5000)]),
                            15 if headed => out = frame(1, 5, stream, &[0, 1, b'a', 1, b'b']),
                            16 if headed => out = frame(0, 1, stream, &[]),
                            _ => {}
                        }
                        if matches!(n, 8) || (n == 14 && !headed) || (matches!(n, 15 | 16) && headed) { open.swap_remove(at); }
                    }
                }
                if write.write_all(&out).await.is_err() { return }
            }
        }
    }
}

async fn run(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xabc);
    let (acks, nasty, size) = (rng.u8(..4) > 0, rng.bool(), [7, 64, 1 << 16, 1 << 22][rng.usize(..4)]);
    let (ours, theirs) = duplex(size);
    let stop = Arc::new(AtomicBool::new(false));
    let peer = tokio::spawn(peer(theirs, seed, acks, nasty, stop.clone()));
    let options = Options {
        keep_alive: rng.bool().then(Default::default),
        idle_timeout: rng.bool().then_some(Duration::from_millis(200)),
        ..Options::default()
    };
    let connection =
        Connection::handshake(ours, &options, Duration::from_secs(5), Arc::<tokio::sync::Notify>::default())
            .await
            .unwrap();
    let states = connection.states();
    let mut tasks = tokio::task::JoinSet::new();
    for i in 0..400_u64 {
        let Some(slot) = connection.reserve() else {
            connection.probe();
            tokio::time::sleep(Duration::from_millis(rng.u64(0..20))).await;
            continue;
        };
        let head = Request::post("http://server/service/method").body(()).unwrap();
        let body = Wild(fastrand::Rng::with_seed(seed * 1000 + i));
        let Ok(mut exchange) = connection.exchange(slot, head, body) else { break };
        let mut rng = fastrand::Rng::with_seed(seed * 1000 + i + 1);
        let call = async move {
            let Ok(response) = poll_fn(|cx| exchange.poll_head(cx)).await else { return };
            let mut answer = exchange.into_response_body(response.into_body(), |_, _| {}).0;
            if rng.u8(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(rng.u64(0..50))).await;
            }
            for _ in 0..rng.u32(..10) {
                match poll_fn(|cx| Pin::new(&mut answer).poll_frame(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
        };
        let time = Duration::from_millis(if i % 3 == 0 { 0 } else { i * 7 % 60 });
        tasks.spawn(async move {
            let _ = tokio::time::timeout(time, call).await;
        });
        if i % 5 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap_or_else(|error| panic!("seed {seed}: a call panicked: {error}"));
    }
    let why = states.borrow().close_reason().map(ToString::to_string);
    assert_ne!(why.as_deref(), Some("the connection's task has ended"), "seed {seed}: the driver panicked");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let closed = matches!(&*states.borrow(), ConnectionState::Closed(_));
    assert!(!acks || closed || connection.in_flight() == 0, "seed {seed}: {} slots are kept", connection.in_flight());
    stop.store(true, Ordering::Relaxed);
    peer.abort();
    if let Err(error) = peer.await {
        assert!(!error.is_panic(), "seed {seed}: {error}");
    }
    let mut states = states;
    let end =
        tokio::time::timeout(Duration::from_secs(60), states.wait_for(|s| matches!(s, ConnectionState::Closed(_))))
            .await;
    let end = end.unwrap_or_else(|_| panic!("seed {seed}: never closed")).unwrap().clone();
    assert_ne!(
        end.close_reason().map(ToString::to_string).as_deref(),
        Some("the connection's task has ended"),
        "seed {seed}"
    );
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(connection.in_flight(), 0, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn chaos() {
    let from: u64 = std::env::var("SEED").map_or(0, |seed| seed.parse().unwrap());
    let count: u64 = std::env::var("COUNT").map_or(5, |count| count.parse().unwrap());
    for seed in from..from + count {
        run(seed).await;
    }
}
