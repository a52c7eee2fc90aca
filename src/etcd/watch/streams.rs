//! Which watch is on which stream. PURE: the clock is an argument.
//!
//! Watches share streams: a stream takes a number of them before another is opened, and watch streams take at most half of
//! the streams that a connection stream_limit, so that requests and keep-alives always find room. A watch whose creation is not
//! answered is tried on another stream, ever more slowly; what is refused, or not answered, says nothing about other watches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::etcd::watch::stream::WatchId;

/// Watches on a stream before another is opened.
const WATCHES_PER_STREAM: usize = 128;
/// Watch streams where it is not known how many streams a connection stream_limit.
const DEFAULT_STREAMS: usize = 50;
/// After a creation that was not answered, the first time; each time it is twice as long, up to the second.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A stream without a watch is closed after so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Names a stream.
pub(super) type StreamId = u64;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Open a stream; at another member than the one in use, where that does not create a watch.
    Open {
        stream: StreamId,
        elsewhere: bool,
    },
    Attach {
        watch: WatchId,
        stream: StreamId,
    },
    Close {
        stream: StreamId,
    },
    /// Nothing to do before that time.
    Wait {
        until: Duration,
    },
}

#[derive(Debug, Default)]
pub(super) struct StreamPlan {
    watches: BTreeMap<WatchId, WatchPlace>,
    open: BTreeMap<StreamId, OpenStream>,
    /// Watches without a stream, by when they are to have one.
    due: BTreeSet<(Duration, WatchId)>,
    next: StreamId,
    /// How many streams the connection stream_limit.
    stream_limit: Option<usize>,
    /// StreamPlan that are to be opened or closed.
    actions: Vec<Action>,
}

#[derive(Debug, Default)]
struct WatchPlace {
    stream: Option<StreamId>,
    /// The stream that did not answer its creation.
    avoids: Option<StreamId>,
    /// How often in a row its creation was not answered.
    unanswered: u32,
    /// A new token was tried for it.
    is_renewed: bool,
}

#[derive(Debug)]
struct OpenStream {
    watches: BTreeSet<WatchId>,
    is_closed_to_new: bool,
    /// When it is closed, while no watch is on it.
    idle: Duration,
}

impl StreamPlan {
    /// Whether there is neither a watch nor a stream.
    pub(super) fn is_idle(&self) -> bool {
        self.watches.is_empty() && self.open.is_empty()
    }

    /// A connection stream_limit so many streams.
    pub(super) fn set_stream_limit(&mut self, streams: Option<usize>) {
        self.stream_limit = streams;
    }

    /// This watch is wanted.
    pub(super) fn add(&mut self, now: Duration, watch: WatchId) {
        self.watches.insert(watch, WatchPlace::default());
        self.due.insert((now, watch));
    }

    /// Nobody wants this watch any more, or it has ended. The stream that it is on.
    pub(super) fn remove(&mut self, now: Duration, watch: WatchId) -> Option<StreamId> {
        self.due.retain(|(_, due)| *due != watch);
        let stream = self.watches.remove(&watch)?.stream?;
        self.detach(now, watch, stream);
        Some(stream)
    }

    fn detach(&mut self, now: Duration, watch: WatchId, stream: StreamId) {
        if let Some(stream) = self.open.get_mut(&stream)
            && stream.watches.remove(&watch)
            && stream.watches.is_empty()
        {
            stream.idle = now + if stream.is_closed_to_new { Duration::ZERO } else { IDLE_TIMEOUT };
        }
    }

    /// The watch exists at etcd.
    pub(super) fn created(&mut self, watch: WatchId) {
        if let Some(watch) = self.watches.get_mut(&watch) {
            (watch.avoids, watch.unanswered, watch.is_renewed) = (None, 0, false);
        }
    }

    /// The creation was not answered in time. How long until it is tried again.
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

    /// The watch cannot be created on its stream, which takes no new ones: it is tried on another.
    pub(super) fn displaced(&mut self, now: Duration, watch: WatchId) {
        let Some(known) = self.watches.get_mut(&watch) else { return };
        let Some(stream) = known.stream.take() else { return };
        self.due.insert((now, watch));
        self.close_to_new(now, stream);
        self.detach(now, watch, stream);
    }

    /// The creation was refused over the token of its stream, which takes no new watches from now on. Whether the watch is
    /// tried on another stream, which is done once.
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

    /// This stream is to get no new watches, and keeps those that it has.
    pub(super) fn close_to_new(&mut self, now: Duration, stream: StreamId) {
        if let Some(stream) = self.open.get_mut(&stream) {
            stream.is_closed_to_new = true;
            stream.idle = now;
        }
    }

    /// The stream has ended, and with it its watches: whoever wants one asks for it anew. The watches that were on it.
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
            return self.assign(watch);
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

    /// Puts a watch on the first stream that has room, on a new one, or on the one with the fewest watches.
    fn assign(&mut self, watch: WatchId) -> Action {
        let avoids = self.watches.get(&watch).and_then(|watch| watch.avoids);
        let takes = |(id, stream): &(&StreamId, &OpenStream)| !stream.is_closed_to_new && Some(**id) != avoids;
        // A member that does not create a watch on two streams may create it nowhere: every other time another member is tried.
        let elsewhere =
            self.watches.get(&watch).is_some_and(|watch| watch.unanswered >= 2 && watch.unanswered % 2 == 0);
        let takes = |known: &(&StreamId, &OpenStream)| !elsewhere && takes(known);
        let with_room = self.open.iter().filter(takes).find(|(_, stream)| stream.watches.len() < WATCHES_PER_STREAM);
        let budget = self.stream_limit.map_or(DEFAULT_STREAMS, |stream_limit| (stream_limit / 2).max(1));
        let chosen = match with_room {
            Some((stream, _)) => Some(*stream),
            None if self.open.len() < budget || elsewhere => None,
            None => {
                let fewest = self.open.iter().filter(takes).min_by_key(|(_, stream)| stream.watches.len());
                let avoided = avoids.filter(|id| self.open.get(id).is_some_and(|stream| !stream.is_closed_to_new));
                fewest.map(|(stream, _)| *stream).or(avoided)
            }
        };
        let stream = chosen.unwrap_or_else(|| {
            self.next += 1;
            let stream = OpenStream { watches: BTreeSet::new(), is_closed_to_new: false, idle: Duration::MAX };
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
        Action::Open { stream, elsewhere }
    }
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
