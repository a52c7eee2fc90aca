//! What a stream's machine and its task say to each other. PURE.

use std::time::Duration;

/// Names a watch, whatever stream it is on.
pub(crate) type WatchId = u64;

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Create {
        watch: WatchId,
        id: i64,
    },
    Cancel {
        id: i64,
    },
    Progress,
    /// A second watch of this one's range, for the sake of its answer.
    Probe {
        watch: WatchId,
        id: i64,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send(Request),
    /// Ask the connection for a sign of liveness, to tell its death from that of the stream.
    Ping,
    /// This creation was not answered in time: it is canceled here.
    Unanswered {
        watch: WatchId,
        since: Duration,
    },
    /// This watch cannot be created on the stream any more, because a creation before it was not answered.
    Displaced {
        watch: WatchId,
    },
    /// The stream is dead: it was asked at that time, and says nothing.
    Dead {
        asked: Duration,
    },
    /// Another stream is needed in place of this one, on which ids are not chosen.
    Restart,
    /// Nothing to do before that time.
    Wait {
        until: Duration,
    },
}

/// What a message says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageHeader {
    pub(crate) id: i64,
    pub(crate) created: bool,
    pub(crate) canceled: bool,
}

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recipient {
    /// This watch.
    Watch(WatchId),
    /// Nobody: an answer to what was asked of the stream, or of a watch that is gone.
    Nobody,
}
