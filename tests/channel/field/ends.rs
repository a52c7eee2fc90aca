//! The end of a connection over a connector of the user's that tells it to writes alone.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::time::timeout;
use tonic::Code;

use crate::peer::{Script, speak};
use crate::support::{PATIENCE, builder, changing, greet, greeted_by};

/// Once the peer is gone its writes fail, and its reads wait and are woken by nobody.
struct Deaf {
    io: DuplexStream,
    gone: Arc<AtomicBool>,
}

impl Deaf {
    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }
}

impl AsyncRead for Deaf {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_gone() { Poll::Pending } else { Pin::new(&mut self.io).poll_read(cx, buf) }
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_gone() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

/// F43: a peer that is gone is found out a second after a write failed, also where no read tells it.
#[tokio::test]
async fn the_end_comes_a_second_after_a_write_that_failed_where_no_read_tells_it() {
    let gone = Arc::new(AtomicBool::new(false));
    let connector = tower::service_fn({
        let gone = gone.clone();
        move |_: http::Uri| {
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(speak(theirs, Script::Greet, None, Arc::default()));
            // The next connection is a good one.
            let gone = if gone.load(Ordering::SeqCst) { Arc::default() } else { gone.clone() };
            async move { Ok::<_, io::Error>(Deaf { io: ours, gone }) }
        }
    });
    let (channel, set) = changing(builder().connector(connector).without_keep_alive());
    set.add("127.0.0.1:1".parse().unwrap());
    greeted_by(&channel).await;
    gone.store(true, Ordering::SeqCst);
    let lost = timeout(Duration::from_secs(10), greet(&channel)).await.expect("the end, after a second");
    assert_eq!(lost.unwrap_err().code(), Code::Unavailable);
    timeout(PATIENCE, greeted_by(&channel)).await.expect("a new connection");
}
