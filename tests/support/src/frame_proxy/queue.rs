//! One direction of a stream: what has come, and may have to wait before it goes on.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::cutter::PREFIX;
use super::rule::Direction;
use super::state::{Stream, Verdict};

/// What goes one way; `H` is the head of a request or of an answer.
#[derive(Debug)]
pub(super) enum Item<H> {
    Head {
        head: H,
        end: bool,
        /// A head that a rule drops goes on with the first message that passes.
        dropped: bool,
    },
    Message(Bytes),
    End(Option<HeaderMap>),
    Reset(Reason),
}

/// What a message waits for: the rules' end, and for a delayed one its time, whichever comes first.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) until: Option<Instant>,
    pub(super) released: oneshot::Receiver<()>,
}

impl Gate {
    async fn open(&mut self) {
        match self.until {
            None => drop((&mut self.released).await),
            Some(until) => tokio::select! {
                () = sleep_until(until) => {}
                _ = &mut self.released => {}
            },
        }
    }
}

pub(super) fn queue<H>(stream: &Arc<Stream>, direction: Direction) -> (Inlet<H>, Outlet<H>) {
    let (sender, coming) = mpsc::unbounded_channel();
    let (inlet, outlet) = (Arc::clone(stream), Arc::clone(stream));
    let outlet = Outlet { stream: outlet, direction, coming, waiting: VecDeque::new() };
    (Inlet { stream: inlet, direction, sender }, outlet)
}

#[derive(Debug)]
pub(super) struct Inlet<H> {
    stream: Arc<Stream>,
    direction: Direction,
    sender: mpsc::UnboundedSender<(Item<H>, Option<Gate>)>,
}

impl<H> Inlet<H> {
    pub(super) fn put(&self, item: Item<H>) {
        let bytes = match &item {
            Item::Message(message) => Some(message.get(PREFIX..).unwrap_or_default()),
            _ => None,
        };
        let (item, gate) = match (self.stream.judge(self.direction, bytes), item) {
            (Verdict::Drop, Item::Head { head, end: false, .. }) => {
                (Item::Head { head, end: false, dropped: true }, None)
            }
            (Verdict::Drop | Verdict::Wait(Gate { until: None, .. }), reset @ Item::Reset(_)) => (reset, None),
            (Verdict::Drop, _) => return,
            (Verdict::Wait(gate), item) => (item, Some(gate)),
            (Verdict::Pass, item) => (item, None),
        };
        let _ = self.sender.send((item, gate)); // the stream may have ended
    }
}

#[derive(Debug)]
pub(super) struct Outlet<H> {
    stream: Arc<Stream>,
    direction: Direction,
    coming: mpsc::UnboundedReceiver<(Item<H>, Option<Gate>)>,
    waiting: VecDeque<(Item<H>, Option<Gate>)>,
}

impl<H> Outlet<H> {
    /// The next item that may go on. Cancel safe: what has not been returned is still there.
    pub(super) async fn next(&mut self) -> Item<H> {
        loop {
            tokio::select! {
                biased;
                Some((item, gate)) = self.coming.recv() => self.line_up(item, gate),
                Some((item, gate)) = first_open(&mut self.waiting) => {
                    if let (Item::Message(message), Some(_)) = (&item, gate) {
                        self.stream.goes_on(self.direction, &message.slice(PREFIX.min(message.len())..));
                    }
                    return item;
                }
                else => std::future::pending().await,
            }
        }
    }

    /// A reset does not wait for what is held: nobody will read that any more.
    fn line_up(&mut self, item: Item<H>, gate: Option<Gate>) {
        let held = |(_, gate): &(Item<H>, Option<Gate>)| gate.as_ref().is_some_and(|gate| gate.until.is_none());
        if let (Item::Reset(_), Some(first_held)) = (&item, self.waiting.iter().position(held)) {
            self.waiting.truncate(first_held);
        }
        self.waiting.push_back((item, gate));
    }
}

async fn first_open<H>(waiting: &mut VecDeque<(Item<H>, Option<Gate>)>) -> Option<(Item<H>, Option<Gate>)> {
    if let Some(gate) = &mut waiting.front_mut()?.1 {
        gate.open().await;
    }
    waiting.pop_front()
}
