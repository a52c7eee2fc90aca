//! The machine that assigns watches to streams. PURE: the clock is an argument.
//!
//! A stream takes [`WATCHES_PER_STREAM`] watches before another one is opened. Watch streams take
//! at most half of the streams that a connection admits, so that requests and keep-alives always
//! have room. A watch that etcd does not create is tried on other streams, ever more slowly. That
//! one watch is refused, or not answered, says nothing about the others.
//!
//! ```text
//! watch:   due ──▶ on a stream ──▶ created
//!           ▲          │ unanswered (1 s, 2 s, … 60 s), displaced, token refused (once)
//!           └──────────┘
//! stream:  open ──▶ closed to new watches ──▶ closed when it is empty (5 s; at once where closed to new)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::etcd::watch::stream::WatchId;

/// Watches on a stream before another stream is opened. 1 000 services take eight streams.
const WATCHES_PER_STREAM: usize = 128;
/// Watch streams where it is not known how many streams the connection admits: half of the 100 that
/// RFC 9113 recommends as a minimum.
const DEFAULT_STREAMS: usize = 50;
/// The delay after the first creation that was not answered, and the longest one. It doubles each
/// time.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A stream without a watch is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names a stream. Never used again by one hub.
pub(super) type StreamId = u64;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream, with `other_member` at another member than the one in use.
    Open { stream: StreamId, other_member: bool },
    /// Create this watch on this stream.
    Attach { watch: WatchId, stream: StreamId },
    /// Close this stream.
    Close { stream: StreamId },
    /// Nothing to do before this time.
    Wait { until: Duration },
}

/// The machine.
///
/// Invariants: a watch in `watches` is either on a stream of `open` or in `due`, never both and
/// never neither; a stream's `watches` are exactly those whose place names it.
#[derive(Debug, Default)]
pub(super) struct StreamPlan {
    /// The watches that are wanted.
    watches: BTreeMap<WatchId, WatchPlace>,
    /// The streams that are open.
    open: BTreeMap<StreamId, OpenStream>,
    /// Watches without a stream, by the time at which they get one.
    due: BTreeSet<(Duration, WatchId)>,
    /// The id of the last stream.
    next: StreamId,
    /// How many streams the connection admits, if known.
    stream_limit: Option<usize>,
    /// Actions that follow from an earlier one.
    actions: Vec<Action>,
}

/// The place of a watch.
#[derive(Debug, Default)]
struct WatchPlace {
    /// The stream that it is on; `None` while it is due.
    stream: Option<StreamId>,
    /// The stream that did not answer its creation.
    avoids: Option<StreamId>,
    /// How often in a row its creation was not answered.
    unanswered: u32,
    /// Whether it was tried again with a new token.
    is_renewed: bool,
}

/// An open stream.
#[derive(Debug)]
struct OpenStream {
    /// The watches on it.
    watches: BTreeSet<WatchId>,
    /// Whether it gets no further watch.
    is_closed_to_new: bool,
    /// When it was opened at another member than the one in use, if it was.
    elsewhere_since: Option<Duration>,
    /// When it is closed, while no watch is on it.
    idle: Duration,
}

impl StreamPlan {
    /// Whether there is neither a watch nor a stream.
    pub(super) fn is_idle(&self) -> bool {
        self.watches.is_empty() && self.open.is_empty()
    }

    /// Takes how many streams the connection admits.
    pub(super) fn set_stream_limit(&mut self, streams: Option<usize>) {
        self.stream_limit = streams;
    }

    /// A watch is wanted.
    pub(super) fn add(&mut self, now: Duration, watch: WatchId) {
        self.watches.insert(watch, WatchPlace::default());
        self.due.insert((now, watch));
    }

    /// A watch is not wanted any more, or has ended. Gives the stream that it was on.
    pub(super) fn remove(&mut self, now: Duration, watch: WatchId) -> Option<StreamId> {
        self.due.retain(|(_, due)| *due != watch);
        let stream = self.watches.remove(&watch)?.stream?;
        self.detach(now, watch, stream);
        Some(stream)
    }

    /// Takes a watch from its stream, which is closed later if it is then empty.
    fn detach(&mut self, now: Duration, watch: WatchId, stream: StreamId) {
        if let Some(stream) = self.open.get_mut(&stream)
            && stream.watches.remove(&watch)
            && stream.watches.is_empty()
        {
            stream.idle = now + if stream.is_closed_to_new { Duration::ZERO } else { IDLE_TIMEOUT };
        }
    }

    /// etcd has created the watch.
    pub(super) fn created(&mut self, watch: WatchId) {
        if let Some(watch) = self.watches.get_mut(&watch) {
            (watch.avoids, watch.unanswered, watch.is_renewed) = (None, 0, false);
        }
    }

    /// The creation was not answered in time. Gives the delay after which it is tried again, on
    /// another stream.
    pub(super) fn unanswered(&mut self, now: Duration, watch: WatchId) -> Duration {
        let Some(known) = self.watches.get_mut(&watch).filter(|watch| watch.stream.is_some()) else {
            return Duration::ZERO;
        };
        let wait = RETRY_DELAY.0.saturating_mul(1 << known.unanswered.min(16)).min(RETRY_DELAY.1);
        known.unanswered = known.unanswered.saturating_add(1);
        let stream = known.stream.take();
        known.avoids = stream;
        self.due.insert((now + wait, watch));
        if let Some(stream) = stream {
            self.detach(now, watch, stream);
        }
        wait
    }

    /// The watch cannot be created on its stream, which gets no further watch. It is tried on
    /// another one immediately.
    pub(super) fn displaced(&mut self, now: Duration, watch: WatchId) {
        let Some(known) = self.watches.get_mut(&watch) else { return };
        let Some(stream) = known.stream.take() else { return };
        self.due.insert((now, watch));
        self.close_to_new(now, stream);
        self.detach(now, watch, stream);
    }

    /// The creation was refused because of the stream's token. The stream gets no further watch.
    /// Whether the watch is tried on another stream, which is done once.
    pub(super) fn token_refused(&mut self, now: Duration, watch: WatchId) -> bool {
        let Some(known) = self.watches.get_mut(&watch) else { return false };
        let Some(stream) = known.stream else { return false };
        self.close_to_new(now, stream);
        let Some(known) = self.watches.get_mut(&watch) else { return false };
        if std::mem::replace(&mut known.is_renewed, true) {
            return false;
        }
        known.stream = None;
        self.due.insert((now, watch));
        self.detach(now, watch, stream);
        true
    }

    /// This stream gets no further watch. It keeps those that it has.
    pub(super) fn close_to_new(&mut self, now: Duration, stream: StreamId) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.is_closed_to_new = true;
            stream.idle = now;
        }
    }

    /// The stream has ended. Gives the watches that were on it, which have ended too.
    pub(super) fn ended(&mut self, stream: StreamId) -> BTreeSet<WatchId> {
        let watches = self.open.remove(&stream).map(|stream| stream.watches).unwrap_or_default();
        self.watches.retain(|watch, _| !watches.contains(watch));
        watches
    }

    /// What to do next.
    pub(super) fn action(&mut self, now: Duration) -> Action {
        if let Some(action) = self.actions.pop() {
            return action;
        }
        if let Some(&(at, watch)) = self.due.first()
            && now >= at
        {
            self.due.remove(&(at, watch));
            return self.assign(now, watch);
        }
        let idle = |(_, stream): &(&StreamId, &OpenStream)| stream.watches.is_empty();
        let closes = self.open.iter().filter(idle).min_by_key(|(_, stream)| stream.idle);
        let closes = closes.map(|(stream, known)| (*stream, known.idle));
        if let Some((stream, at)) = closes
            && now >= at
        {
            self.open.remove(&stream);
            return Action::Close { stream };
        }
        let due = self.due.first().map(|(at, _)| *at);
        let until = due.into_iter().chain(closes.map(|(_, at)| at)).min().unwrap_or(Duration::MAX);
        Action::Wait { until }
    }

    /// Assigns a watch: to the first stream with room, or to a new stream, or to the stream with
    /// the fewest watches where no more streams are allowed. One stream at another member is always
    /// allowed.
    fn assign(&mut self, now: Duration, watch: WatchId) -> Action {
        let avoids = self.watches.get(&watch).and_then(|watch| watch.avoids);
        // A member that does not create a watch on two streams may never do so: every second time
        // another member is tried.
        let other_member =
            self.watches.get(&watch).is_some_and(|watch| watch.unanswered >= 2 && watch.unanswered % 2 == 0);
        // Later another member may be in use: perhaps that one.
        let is_elsewhere =
            |stream: &OpenStream| stream.elsewhere_since.is_some_and(|since| now < since + RETRY_DELAY.1);
        let takes = |(id, stream): &(&StreamId, &OpenStream)| {
            !stream.is_closed_to_new && Some(**id) != avoids && (!other_member || is_elsewhere(stream))
        };
        let with_room = self.open.iter().filter(takes).find(|(_, stream)| stream.watches.len() < WATCHES_PER_STREAM);
        let budget = self.stream_limit.map_or(DEFAULT_STREAMS, |stream_limit| (stream_limit / 2).max(1));
        let is_first_there = other_member && !self.open.values().any(is_elsewhere);
        let chosen = match with_room {
            Some((stream, _)) => Some(*stream),
            None if self.open.len() < budget || is_first_there => None,
            None => {
                let fewest = self.open.iter().filter(takes).min_by_key(|(_, stream)| stream.watches.len());
                let avoided = avoids.filter(|id| self.open.get(id).is_some_and(|stream| !stream.is_closed_to_new));
                fewest.map(|(stream, _)| *stream).or(avoided)
            }
        };
        let stream = chosen.unwrap_or_else(|| {
            self.next += 1;
            let stream = OpenStream {
                watches: BTreeSet::new(),
                is_closed_to_new: false,
                elsewhere_since: other_member.then_some(now),
                idle: Duration::MAX,
            };
            self.open.insert(self.next, stream);
            self.next
        });
        if let (Some(known), Some(on)) = (self.watches.get_mut(&watch), self.open.get_mut(&stream)) {
            known.stream = Some(stream);
            on.watches.insert(watch);
        }
        let attach = Action::Attach { watch, stream };
        if chosen.is_some() {
            return attach;
        }
        self.actions.push(attach);
        Action::Open { stream, other_member }
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
#[path = "streams_tests.rs"]
pub(crate) mod tests;
