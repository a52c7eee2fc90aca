//! The machine of one watch stream: which watch has which id, which creations are answered, and
//! whether the stream lives. PURE: the clock is an argument, the time since any fixed start, the
//! same for every call.
//!
//! **Ids.** The machine chooses the ids of watches and never uses one again on the stream. They
//! start so high that a peer which counts ids itself, as grpc-proxy does, never reaches them. So
//! the answer to a creation shows whether the peer takes our ids. If it does not, one creation is
//! made at a time, and none after one that was not answered.
//!
//! **Liveness.** Any message proves the stream. After [`QUIET_LIMIT`] without one, the stream is
//! asked for progress. A peer that does not answer that, as grpc-proxy, is asked to create and
//! cancel a second watch of a watched range, which every peer answers.
//!
//! ```text
//! Heard ── 5 s quiet ──▶ Asked(Stream) ── 1.5 s ──▶ Asked(Connection) ──▶ Asked(Probe) ── 3 s in all ──▶ dead
//!   ▲                        │                             │                    │
//!   └──── any message ◀──────┴─────────────────────────────┴────────────────────┘
//! ```

mod vocabulary;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(crate) use self::vocabulary::WatchId;
pub(super) use self::vocabulary::{Action, MessageHeader, Recipient, Request};

/// The time without a message after which the stream is asked for progress. etcd answers within
/// milliseconds.
pub(super) const QUIET_LIMIT: Duration = Duration::from_secs(5);
/// How long that answer may take before the connection is pinged and the stream is asked in another
/// way.
const SECOND_STEP_AFTER: Duration = Duration::from_millis(1_500);
/// How long any answer may take. Then the stream is dead.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the creation of a watch may take.
pub(super) const CREATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Creations that are sent and not answered at a time.
const MAX_PENDING: usize = 64;

/// The first id. A peer that counts from 0 or 1 does not reach it.
const FIRST_ID: i64 = 1 << 32;

/// The machine.
///
/// Invariants: an id is in one of `pending`, `live` and `cancels` at most, and never again after it
/// was canceled; `pending` is in the order in which creations were sent.
#[derive(Debug)]
pub(super) struct StreamMachine {
    /// The next id.
    next: i64,
    /// Watches to be created, in order.
    waiting: VecDeque<WatchId>,
    /// Creations that were sent and not answered, in order.
    pending: VecDeque<Pending>,
    /// Watches that exist, by their ids.
    live: BTreeMap<i64, WatchId>,
    /// Ids to be canceled.
    cancels: VecDeque<i64>,
    /// What is known of the peer.
    traits: PeerTraits,
    /// The time of the last action.
    now: Duration,
    /// When the last message arrived.
    heard: Duration,
    /// What was asked since then.
    liveness: Liveness,
    /// Whether creations were answered in a way that does not tell which. The stream must be
    /// replaced.
    is_ambiguous: bool,
}

/// A creation that was sent and not answered.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// The watch; `None` for a probe, or for a watch that nobody wants any more.
    watch: Option<WatchId>,
    /// The id that was chosen for it.
    id: i64,
    /// When it was sent.
    since: Duration,
    /// Whether the connection was pinged for it, to tell a dead connection from a creation that is
    /// not answered.
    is_late: bool,
    /// Whether it was not answered in time. It is kept while its answer could be taken for
    /// another's.
    is_given_up: bool,
    /// Whether a later creation was answered before it.
    is_overtaken: bool,
}

/// Whether the peer takes the ids that are chosen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdChoice {
    /// No creation was answered yet.
    Unknown,
    /// It takes them.
    Ours,
    /// It chooses ids itself.
    Theirs,
}

/// Whether the stream lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    /// A message has arrived, and nothing was asked since.
    Heard,
    /// The stream was asked for a sign of life at this time.
    Asked { at: Duration, step: LivenessStep },
}

/// What was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LivenessStep {
    /// The stream, for progress.
    Stream,
    /// The connection, by a PING.
    Connection,
    /// The stream, by the creation of a second watch.
    Probe,
}

/// What is known of the member at the other side, or of a proxy in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerTraits {
    /// Whether it takes our ids.
    ids: IdChoice,
    /// Whether it answers requests for progress.
    progress: ProgressSupport,
}

impl PeerTraits {
    /// Nothing is known.
    pub(super) const UNKNOWN: Self = Self { ids: IdChoice::Unknown, progress: ProgressSupport::Unknown };
}

/// Whether the peer answers requests for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgressSupport {
    /// It was not asked yet.
    Unknown,
    /// It answers.
    Answered,
    /// It has answered something that was asked later, and not the request for progress.
    Never,
}

impl StreamMachine {
    /// A stream without watches, to a peer of which this is known.
    pub(super) fn new(now: Duration, traits: PeerTraits) -> Self {
        Self {
            next: FIRST_ID,
            waiting: VecDeque::new(),
            pending: VecDeque::new(),
            live: BTreeMap::new(),
            cancels: VecDeque::new(),
            traits,
            now,
            heard: now,
            liveness: Liveness::Heard,
            is_ambiguous: false,
        }
    }

    /// When the last message arrived.
    pub(super) fn heard(&self) -> Duration {
        self.heard
    }

    /// What is known of the peer now.
    pub(super) fn traits(&self) -> PeerTraits {
        self.traits
    }

    /// Whether one creation is made at a time, because its answer cannot be told from another's.
    pub(super) fn is_careful(&self) -> bool {
        self.traits.ids == IdChoice::Theirs
    }

    /// A watch is to be created.
    pub(super) fn attach(&mut self, watch: WatchId) {
        self.waiting.push_back(watch);
    }

    /// Nobody wants this watch any more. It is canceled, or not created.
    pub(super) fn detach(&mut self, watch: WatchId) {
        self.waiting.retain(|waiting| *waiting != watch);
        if let Some((&id, _)) = self.live.iter().find(|(_, live)| **live == watch) {
            self.live.remove(&id);
            self.cancels.push_back(id);
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.watch == Some(watch)) {
            pending.watch = None;
            // An id of the peer's is not known yet: it is canceled when it is.
            if self.traits.ids != IdChoice::Theirs {
                self.cancels.push_back(pending.id);
            }
        }
    }

    /// What to do next.
    pub(super) fn action(&mut self, now: Duration) -> Action {
        self.now = now;
        if self.is_ambiguous {
            return Action::Restart;
        }
        if let Some(id) = self.cancels.pop_front() {
            return Action::Send(Request::Cancel(id));
        }
        let open = self.pending.iter().filter(|pending| !pending.is_given_up).count();
        let room = match self.traits.ids {
            IdChoice::Unknown | IdChoice::Ours => open < MAX_PENDING,
            IdChoice::Theirs => self.pending.is_empty(),
        };
        if room && let Some(watch) = self.waiting.pop_front() {
            let id = self.add_pending(Some(watch), now);
            return Action::Send(Request::Create { watch, id });
        }
        let is_stuck =
            self.traits.ids == IdChoice::Theirs && self.pending.front().is_some_and(|first| first.is_given_up);
        if is_stuck && let Some(watch) = self.waiting.pop_front() {
            return Action::Displaced(watch);
        }
        let has_ended = |pending: &Pending| !pending.is_given_up && now >= pending.since + CREATION_TIMEOUT;
        if let Some(place) = self.pending.iter().position(has_ended) {
            return self.give_up(now, place);
        }
        let late = |pending: &&mut Pending| {
            !pending.is_late && !pending.is_given_up && now + SECOND_STEP_AFTER >= pending.since + CREATION_TIMEOUT
        };
        if let Some(pending) = self.pending.iter_mut().find(late) {
            pending.is_late = true;
            return Action::Ping;
        }
        let next = |pending: &Pending| {
            let dead = pending.since + CREATION_TIMEOUT;
            if pending.is_late { dead } else { dead.saturating_sub(SECOND_STEP_AFTER) }
        };
        let open = self.pending.iter().filter(|pending| !pending.is_given_up);
        let mut wake = open.map(next).min().unwrap_or(Duration::MAX);
        // Creations have a time limit of their own. Only watches that exist need a live stream.
        if !self.live.is_empty() {
            match self.check_liveness(now) {
                Action::Wait { until } => wake = wake.min(until),
                action => return action,
            }
        }
        Action::Wait { until: wake }
    }

    /// A creation was not answered in time. Where ids are ours, a late answer is recognised by its
    /// id, so that the creation can be forgotten. Otherwise it is kept, because the next answer may
    /// be its.
    fn give_up(&mut self, now: Duration, place: usize) -> Action {
        let pending = &mut self.pending[place];
        let (watch, since, id) = (pending.watch.take(), pending.since, pending.id);
        pending.is_given_up = true;
        if self.traits.ids != IdChoice::Theirs {
            self.cancels.push_back(id);
        }
        if self.traits.ids == IdChoice::Ours {
            self.pending.remove(place);
        }
        match watch {
            Some(watch) => Action::Unanswered { watch, since },
            None => self.action(now),
        }
    }

    /// What to ask for to learn whether the stream lives. See the diagram above.
    fn check_liveness(&mut self, now: Duration) -> Action {
        let never = self.traits.progress == ProgressSupport::Never;
        match self.liveness {
            Liveness::Heard if now < self.heard + QUIET_LIMIT => Action::Wait { until: self.heard + QUIET_LIMIT },
            // Its answer proves as much as a probe's, and it has a time limit of its own.
            Liveness::Heard if never && self.is_busy() => Action::Wait { until: Duration::MAX },
            Liveness::Heard => {
                self.liveness = Liveness::Asked { at: now, step: LivenessStep::Stream };
                if never { self.probe(now + SECOND_STEP_AFTER) } else { Action::Send(Request::Progress) }
            }
            Liveness::Asked { at, .. } if now >= at + LIVENESS_TIMEOUT => Action::Dead { asked: at },
            Liveness::Asked { at, step: LivenessStep::Stream } if now >= at + SECOND_STEP_AFTER => {
                self.liveness = Liveness::Asked { at, step: LivenessStep::Connection };
                Action::Ping
            }
            Liveness::Asked { at, step: LivenessStep::Stream } => Action::Wait { until: at + SECOND_STEP_AFTER },
            Liveness::Asked { at, step: LivenessStep::Connection } if !never => {
                self.liveness = Liveness::Asked { at, step: LivenessStep::Probe };
                self.probe(at + LIVENESS_TIMEOUT)
            }
            Liveness::Asked { at, .. } => Action::Wait { until: at + LIVENESS_TIMEOUT },
        }
    }

    /// Creates a second watch of a watched range. Not where creations are made one at a time and
    /// one is pending: its answer proves as much.
    fn probe(&mut self, until: Duration) -> Action {
        let is_busy = self.is_busy();
        let Some(&watch) = self.live.values().next().filter(|_| !is_busy) else { return Action::Wait { until } };
        let id = self.add_pending(None, self.now);
        Action::Send(Request::Probe { watch, id })
    }

    /// Whether creations are made one at a time, and the answer to one is awaited. One that was given up may never be
    /// answered: beside it, only probes are sent, whose answers need not be told from its.
    fn is_busy(&self) -> bool {
        self.traits.ids == IdChoice::Theirs && self.pending.iter().any(|pending| !pending.is_given_up)
    }

    /// Notes a creation that is sent now. Gives its id.
    fn add_pending(&mut self, watch: Option<WatchId>, now: Duration) -> i64 {
        let id = self.next;
        self.next += 1;
        self.pending.push_back(Pending {
            watch,
            id,
            since: now,
            is_late: false,
            is_given_up: false,
            is_overtaken: false,
        });
        id
    }

    /// Takes the header of a message. Gives the watch that the message is for.
    pub(super) fn on(&mut self, now: Duration, message: MessageHeader) -> Recipient {
        self.heard = now;
        if message.id < 0 && !message.created && !message.canceled {
            self.traits.progress = ProgressSupport::Answered;
        }
        let liveness = std::mem::replace(&mut self.liveness, Liveness::Heard);
        let is_probed = matches!(liveness, Liveness::Asked { step: LivenessStep::Probe, .. });
        if is_probed && message.created && self.traits.progress == ProgressSupport::Unknown {
            // The later question was answered, and the request for progress was not.
            self.traits.progress = ProgressSupport::Never;
        }
        if message.created || (message.canceled && self.pending.iter().any(|pending| pending.id == message.id)) {
            return self.created(message);
        }
        let Some(&watch) = self.live.get(&message.id) else { return Recipient::Nobody };
        if message.canceled {
            // A canceled watch is canceled again: one that was compacted keeps its id at etcd, and
            // keeps the stream from answering requests for progress.
            self.live.remove(&message.id);
            self.cancels.push_back(message.id);
        }
        Recipient::Watch(watch)
    }

    /// Takes the answer to a creation: finds the pending creation that it answers.
    fn created(&mut self, message: MessageHeader) -> Recipient {
        let own = self.pending.iter().position(|pending| pending.id == message.id);
        let place = match own {
            // A refusal without an id. etcd answers creations in their order, so that it is the
            // first one that was not overtaken.
            None if message.canceled && message.id < 0 => self.pending.iter().position(|pending| !pending.is_overtaken),
            Some(own) => {
                self.traits.ids = IdChoice::Ours;
                Some(own)
            }
            // The late answer to a creation that was given up.
            None if message.id >= FIRST_ID => None,
            None => {
                // The peer has changed, or is not known yet. Among several pending creations the
                // answered one cannot be told.
                let is_wanted = self.pending.iter().any(|pending| pending.watch.is_some());
                self.is_ambiguous |= (is_wanted && self.pending.len() > 1) || self.live.contains_key(&message.id);
                self.traits.ids = IdChoice::Theirs;
                (!self.pending.is_empty()).then_some(0)
            }
        };
        let pending = place.and_then(|place| {
            self.pending.iter_mut().take(place).for_each(|earlier| earlier.is_overtaken = true);
            self.pending.remove(place)
        });
        let Some(watch) = pending.and_then(|pending| pending.watch) else {
            if !message.canceled {
                self.cancels.push_back(message.id);
            }
            return Recipient::Nobody;
        };
        if !message.canceled {
            self.live.insert(message.id, watch);
        }
        Recipient::Watch(watch)
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests;
