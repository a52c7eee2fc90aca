//! One watch stream: which watch has which id, which creations are answered, and whether the stream lives. PURE.
//!
//! IdChoice are chosen, and never used again on the stream. They begin so high that whoever counts ids himself, as grpc-proxy does,
//! never comes to one of them: an answer to a creation then shows whose id it bears. Where it is another's, one creation is
//! made at a time, and none after one that was not answered. The clock is an argument: the time since any fixed start, the
//! same for every call.
//!
//! Any message proves the stream. After a silence it is asked for progress; where it does not answer that, as behind
//! grpc-proxy, a second watch of a range is created and canceled, which everything that speaks etcd answers. So much as a
//! message is enough: what is on the way is not lost.

mod vocabulary;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub(crate) use self::vocabulary::WatchId;
pub(super) use self::vocabulary::{Action, MessageHeader, Recipient, Request};

/// Silence after which the stream is asked for a sign of liveness, which etcd gives within milliseconds.
pub(super) const QUIET_LIMIT: Duration = Duration::from_secs(5);
/// How long that sign may take before the stream is asked otherwise, and its connection as well.
const SECOND_STEP_AFTER: Duration = Duration::from_millis(1_500);
/// How long it may take at all; then the stream is taken for dead.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the creation of a watch may take.
pub(super) const CREATION_TIMEOUT: Duration = Duration::from_secs(5);
/// Creations that are asked for at a time.
const MAX_PENDING: usize = 64;

/// The first id: who counts from 0 or 1 does not come so far.
const FIRST_ID: i64 = 1 << 32;

#[derive(Debug)]
pub(super) struct StreamMachine {
    next: i64,
    /// To be created, in order.
    waiting: VecDeque<WatchId>,
    /// Asked for and not answered, in order.
    pending: VecDeque<Pending>,
    live: BTreeMap<i64, WatchId>,
    cancels: VecDeque<i64>,
    traits: PeerTraits,
    now: Duration,
    heard: Duration,
    liveness: Liveness,
    /// Creations were answered in a way that does not tell which.
    is_ambiguous: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    /// None where it is a probe, or where nobody wants the watch any more.
    watch: Option<WatchId>,
    id: i64,
    since: Duration,
    /// The connection was asked, to tell its death from a creation that is not answered.
    is_late: bool,
    /// Not answered in time. It is kept where its answer could be taken for another's.
    is_given_up: bool,
    /// A later creation was answered before it.
    is_overtaken: bool,
}

/// Whether the other side takes the ids that are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdChoice {
    Unknown,
    Ours,
    Theirs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    Heard,
    /// Asked for a sign of liveness, since that time.
    Asked {
        at: Duration,
        step: LivenessStep,
    },
}

/// What was asked last after a silence: the stream; then its connection; then, where the stream never answered a request for
/// progress, the stream once more by a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LivenessStep {
    Stream,
    Connection,
    Probe,
}

/// What is known of the member at the other side, or of the proxy before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerTraits {
    ids: IdChoice,
    progress: ProgressSupport,
}

impl PeerTraits {
    pub(super) const UNKNOWN: Self = Self { ids: IdChoice::Unknown, progress: ProgressSupport::Unknown };
}

/// Whether requests for progress are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProgressSupport {
    Unknown,
    Answered,
    Never,
}

impl StreamMachine {
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

    /// When anything was last heard.
    pub(super) fn heard(&self) -> Duration {
        self.heard
    }

    pub(super) fn traits(&self) -> PeerTraits {
        self.traits
    }

    /// Whether one creation is made at a time, because its answer cannot be told from another's.
    pub(super) fn is_careful(&self) -> bool {
        self.traits.ids == IdChoice::Theirs
    }

    /// This watch is to be on the stream.
    pub(super) fn attach(&mut self, watch: WatchId) {
        self.waiting.push_back(watch);
    }

    /// Nobody wants this watch any more.
    pub(super) fn detach(&mut self, watch: WatchId) {
        self.waiting.retain(|waiting| *waiting != watch);
        if let Some((&id, _)) = self.live.iter().find(|(_, live)| **live == watch) {
            self.live.remove(&id);
            self.cancels.push_back(id);
        }
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.watch == Some(watch)) {
            pending.watch = None;
            // An id that is not ours is not known yet: it is canceled once it is.
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
            return Action::Send(Request::Cancel { id });
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
            return Action::Displaced { watch };
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
        // What is not created yet is waited for on its own account.
        if !self.live.is_empty() {
            match self.check_liveness(now) {
                Action::Wait { until } => wake = wake.min(until),
                action => return action,
            }
        }
        Action::Wait { until: wake }
    }

    /// A creation was not answered in time. Where ids are ours its answer is known when it comes.
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

    /// Whether the stream lives, where a watch is on it.
    fn check_liveness(&mut self, now: Duration) -> Action {
        let never = self.traits.progress == ProgressSupport::Never;
        match self.liveness {
            Liveness::Heard if now < self.heard + QUIET_LIMIT => Action::Wait { until: self.heard + QUIET_LIMIT },
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

    /// Asks for a second watch of a range that is watched. Where one creation is made at a time and one is on its way, that
    /// is as good.
    fn probe(&mut self, until: Duration) -> Action {
        let is_busy = self.traits.ids == IdChoice::Theirs && !self.pending.is_empty();
        let Some(&watch) = self.live.values().next().filter(|_| !is_busy) else { return Action::Wait { until } };
        let id = self.add_pending(None, self.now);
        Action::Send(Request::Probe { watch, id })
    }

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

    /// Takes a message; whom it is for.
    pub(super) fn on(&mut self, now: Duration, message: MessageHeader) -> Recipient {
        self.heard = now;
        if message.id < 0 && !message.created && !message.canceled {
            self.traits.progress = ProgressSupport::Answered;
        }
        let liveness = std::mem::replace(&mut self.liveness, Liveness::Heard);
        let is_probed = matches!(liveness, Liveness::Asked { step: LivenessStep::Probe, .. });
        if is_probed && message.created && self.traits.progress == ProgressSupport::Unknown {
            // What was asked later was answered, and the request for progress was not.
            self.traits.progress = ProgressSupport::Never;
        }
        if message.created || (message.canceled && self.pending.iter().any(|pending| pending.id == message.id)) {
            return self.created(message);
        }
        let Some(&watch) = self.live.get(&message.id) else { return Recipient::Nobody };
        if message.canceled {
            // One that was compacted keeps its id, and the whole stream from answering requests for progress.
            self.live.remove(&message.id);
            self.cancels.push_back(message.id);
        }
        Recipient::Watch(watch)
    }

    fn created(&mut self, message: MessageHeader) -> Recipient {
        let own = self.pending.iter().position(|pending| pending.id == message.id);
        let place = match own {
            // Refused, without an id: etcd answers creations in their order.
            None if message.canceled && message.id < 0 => self.pending.iter().position(|pending| !pending.is_overtaken),
            Some(own) => {
                self.traits.ids = IdChoice::Ours;
                Some(own)
            }
            // The answer to a creation that was given up.
            None if message.id >= FIRST_ID => None,
            None => {
                // It is no longer who it was, or is not known yet; among several it cannot be told which is answered.
                self.is_ambiguous |= self.pending.len() > 1 || self.live.contains_key(&message.id);
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

#[cfg(test)]
mod tests;
