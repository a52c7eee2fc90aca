//! HTTP/2 keep-alive that servers with ping enforcement forgive: pings only with exchanges in flight, and only after
//! silence. Whatever is read counts as a sign of life.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::options::KeepAlive;

pub(super) struct Silence {
    options: KeepAlive,
    pings: PingPong,
    reads: Arc<AtomicU64>,
    /// Of the reads, when the timer was last set.
    heard: u64,
    timer: Pin<Box<Sleep>>,
    /// A ping is on its way since the timer was last set.
    asked: bool,
}

impl Silence {
    pub(super) fn new(options: KeepAlive, pings: PingPong, reads: Arc<AtomicU64>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + options.interval));
        Self { options, pings, reads, heard: 0, timer, asked: false }
    }

    /// Ready, with the reason, when the server is taken for dead.
    pub(super) fn poll(&mut self, in_flight: bool, cx: &mut Context<'_>) -> Poll<String> {
        // The answer itself counts as something read; taking it lets the next ping be sent.
        drop(self.pings.poll_pong(cx));
        while self.timer.as_mut().poll(cx).is_ready() {
            let heard = self.reads.load(Ordering::Relaxed);
            let silent = heard == self.heard;
            self.heard = heard;
            if silent && self.asked {
                let (silence, answer) = (self.options.interval.as_millis(), self.options.timeout.as_millis());
                let why = format!("keep-alive: silent for {silence} ms, and no answer to a ping in {answer} ms");
                return Poll::Ready(why);
            }
            self.asked = silent && in_flight && self.pings.send_ping(Ping::opaque()).is_ok();
            let wait = if self.asked { self.options.timeout } else { self.options.interval };
            self.timer.as_mut().reset(Instant::now() + wait);
            if self.asked {
                // The connection writes it at its next poll.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}
