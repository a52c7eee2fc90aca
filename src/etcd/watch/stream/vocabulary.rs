//! What the machine of a stream and its task say to each other. PURE.

use std::time::Duration;

/// Names a watch, whatever stream it is on. Never used again within one
/// [`Etcd`](crate::etcd::Etcd).
pub(crate) type WatchId = u64;

/// A request to be sent on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Create this watch with this id.
    Create { watch: WatchId, id: i64 },
    /// Cancel the watch of this id.
    Cancel(i64),
    /// Ask for progress.
    Progress,
    /// Create a second watch of this one's range, for the sake of its answer.
    Probe { watch: WatchId, id: i64 },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send this request.
    Send(Request),
    /// Ping the connection, to tell its death from that of the stream.
    Ping,
    /// The creation of this watch, sent at `since`, was not answered in time. It is canceled here.
    Unanswered { watch: WatchId, since: Duration },
    /// This watch cannot be created on this stream any more, because an earlier creation was not
    /// answered.
    Displaced(WatchId),
    /// The stream is dead: it was asked at this time and has not answered.
    Dead { asked: Duration },
    /// Replace this stream: creations were answered with ids that are not ours.
    Restart,
    /// Nothing to do before this time.
    Wait { until: Duration },
}

/// The part of a message that the machine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageHeader {
    /// The id of the watch; −1 for the stream.
    pub(crate) id: i64,
    /// Whether it answers a creation.
    pub(crate) created: bool,
    /// Whether it ends a watch.
    pub(crate) canceled: bool,
}

/// The watch that a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// This watch.
    Watch(WatchId),
    /// None: it answers a request of the stream itself, or the watch is gone.
    Nobody,
}
