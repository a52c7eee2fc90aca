//! HTTP/2 keep-alive that servers with ping enforcement forgive: pings only where calls wait for something, only after
//! silence, and seldom while the server answers nothing but pings. Whatever is read counts as a sign of life.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Shared;
use super::options::KeepAlive;
use super::watched::LastRead;

/// Servers forgive so many pings after each answer (Go, Java and C++: three before the fourth is too many) …
const FORGIVEN: u32 = 2;
/// … and one in five minutes without any.
const SELDOM: Duration = Duration::from_secs(5 * 60 + 10);

pub(super) struct Silence {
    options: KeepAlive,
    pings: PingPong,
    last_read: Arc<LastRead>,
    timer: Pin<Box<Sleep>>,
    /// When the ping was sent that nothing was read after.
    asked: Option<Instant>,
    /// Pings since an answer made progress; when the last was sent, and what had been read by then.
    sent: u32,
    last_sent: Option<Instant>,
    bytes: u64,
}

/// Between two pings, where one is asked for: etcd ends connections that are pinged more often than every 5 s.
const APART: Duration = Duration::from_millis(5_500);

/// The answer to a ping, which is no progress.
const PONG: u64 = 17;

impl Silence {
    pub(super) fn new(options: KeepAlive, pings: PingPong, last_read: Arc<LastRead>) -> Self {
        let timer = Box::pin(sleep_until(Instant::now() + options.interval));
        Self { options, pings, last_read, timer, asked: None, sent: 0, last_sent: None, bytes: 0 }
    }

    /// Ready, with the reason, when the server is taken for dead.
    pub(super) fn poll(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<String> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let (now, heard) = (Instant::now(), self.last_read.at());
            if self.asked.is_some_and(|asked| heard >= asked) {
                self.asked = None;
            }
            if self.asked.is_some() {
                let (silence, answer) = (self.options.interval.as_millis(), self.options.timeout.as_millis());
                let why = format!("keep-alive: silent for {silence} ms, and no answer to a ping in {answer} ms");
                return Poll::Ready(why);
            }
            let next = if now < heard + self.options.interval {
                heard + self.options.interval
            } else if shared.is_waited_for() && self.may_ping(shared, now) {
                self.send(now, cx);
                now + self.options.timeout
            } else {
                now + self.options.interval
            };
            self.timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Pings now, whatever was heard, unless a ping was sent a moment ago or its answer is awaited.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        let awaited = self.asked.is_some_and(|asked| self.last_read.at() < asked);
        if awaited || self.last_sent.is_some_and(|last| now.duration_since(last) < APART) {
            return;
        }
        self.send(now, cx);
        self.timer.as_mut().reset(now + self.options.timeout);
    }

    fn send(&mut self, now: Instant, cx: &mut Context<'_>) {
        // The answer itself counts as something read; taking it lets the next ping be sent. One that is still on its way
        // does as well.
        drop(self.pings.poll_pong(cx));
        drop(self.pings.send_ping(Ping::opaque()));
        (self.asked, self.last_sent) = (Some(now), Some(now));
        self.last_read.pings();
        (self.sent, self.bytes) = (self.sent + 1, self.last_read.bytes());
        // The connection writes it at its next poll.
        cx.waker().wake_by_ref();
    }

    fn may_ping(&mut self, shared: &Shared, now: Instant) -> bool {
        // Taken by a caller and come since: what is read late was sent before.
        let came = self.last_read.bytes() - self.bytes > PONG;
        if shared.progress.swap(false, Ordering::Relaxed) && came {
            self.sent = 0;
        }
        self.options.unthrottled
            || self.sent < FORGIVEN
            || self.last_sent.is_none_or(|last| now.duration_since(last) >= SELDOM)
    }
}
