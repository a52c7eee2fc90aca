//! One server of a channel, as all its calls and its supervisor know it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::latency::Latency;
use crate::address::Address;

/// A failed call weighs as much as so many calls in flight, and half of it a quarter of a second later: a server that
/// fails at once must not look idle and draw the traffic.
const PENALTY: u32 = 4;
const MOST_PENALTY: u32 = 64;
const PENALTY_HALVES_MS: u64 = 250;

/// What a channel knows of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// The first connection, or one after a connection that was well, is being made.
    Connecting,
    /// Connected: the server's SETTINGS have come. Calls go to it.
    Ready,
    /// The last attempt to connect failed. It goes on trying.
    TransientFailure,
    /// Connected, and left out for a while because its calls failed.
    Ejected,
}

pub(crate) struct Server {
    address: Address,
    /// Where the clock of this struct begins.
    epoch: Instant,
    link: Mutex<Link>,
    pub(crate) latency: Latency,
    calls: AtomicU64,
    failures: AtomicU64,
    pub(crate) record: Record,
    penalty: AtomicU32,
    penalised_ms: AtomicU64,
    ejected: AtomicBool,
    /// Calls that wait for the head of an answer.
    awaiting: AtomicU32,
}

/// Counts a call until the head of its answer has come, or it is given up.
pub(crate) struct Awaiting<'a>(&'a AtomicU32);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How its connection is.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    pub(crate) since: Instant,
    /// What last went wrong.
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    Connecting,
    Ready,
    Failing,
}

/// What outlier ejection judges by.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) successes: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Failures since the last success.
    pub(crate) in_a_row: AtomicU32,
}

/// How a call ended, for whoever judges its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    Failure,
}

impl Verdict {
    /// Codes that speak against the server, and not against what was asked of it.
    pub(crate) fn of(code: Code) -> Self {
        match code {
            Code::Unknown | Code::DeadlineExceeded | Code::Internal | Code::Unavailable | Code::DataLoss => {
                Self::Failure
            }
            _ => Self::Success,
        }
    }
}

impl Server {
    pub(crate) fn new(address: Address) -> Self {
        let now = Instant::now();
        Self {
            address,
            epoch: now,
            link: Mutex::new(Link { state: LinkState::Connecting, since: now, error: None }),
            latency: Latency::default(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            record: Record::default(),
            penalty: AtomicU32::new(0),
            penalised_ms: AtomicU64::new(0),
            ejected: AtomicBool::new(false),
            awaiting: AtomicU32::new(0),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(crate) fn awaiting(&self) -> Awaiting<'_> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        Awaiting(&self.awaiting)
    }

    /// The estimate of its latency in nanoseconds; 0 before its first answer. It fades, so that a server which was slow is
    /// asked again, but not while calls wait for it: one that answers nothing must not look fast.
    pub(crate) fn estimate(&self) -> f64 {
        if self.awaiting.load(Ordering::Relaxed) > 0 {
            return self.latency.average().map_or(0.0, |average| average.as_nanos() as f64);
        }
        self.latency.estimate(self.epoch.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self) -> Link {
        self.lock().clone()
    }

    /// Without what went wrong, which would be copied.
    pub(crate) fn link_state(&self) -> LinkState {
        self.lock().state
    }

    pub(crate) fn set_link(&self, state: LinkState, error: Option<String>) {
        let mut link = self.lock();
        if link.state != state {
            link.since = Instant::now();
        }
        link.state = state;
        link.error = error.or_else(|| link.error.take());
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ejected(&self, ejected: bool) {
        self.ejected.store(ejected, Ordering::Relaxed);
    }

    /// Counts the end of a call; gives how many failed in a row.
    pub(crate) fn judge(&self, verdict: Verdict) -> u32 {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match verdict {
            Verdict::Success => {
                self.record.successes.fetch_add(1, Ordering::Relaxed);
                if self.record.in_a_row.load(Ordering::Relaxed) != 0 {
                    self.record.in_a_row.store(0, Ordering::Relaxed);
                }
                0
            }
            Verdict::Failure => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.record.failures.fetch_add(1, Ordering::Relaxed);
                self.penalise();
                self.record.in_a_row.fetch_add(1, Ordering::Relaxed) + 1
            }
        }
    }

    /// Calls that have ended, and failed ones among them.
    pub(crate) fn counted(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// A call failed, or was refused.
    pub(crate) fn penalise(&self) {
        let penalty = (self.penalty() + PENALTY).min(MOST_PENALTY);
        self.penalised_ms.store(self.now_ms(), Ordering::Relaxed);
        self.penalty.store(penalty, Ordering::Relaxed);
    }

    /// What lately failed calls weigh. Looks at the clock only where there were any.
    pub(crate) fn penalty(&self) -> u32 {
        let penalty = self.penalty.load(Ordering::Relaxed);
        if penalty == 0 {
            return 0;
        }
        let halvings = self.now_ms().saturating_sub(self.penalised_ms.load(Ordering::Relaxed)) / PENALTY_HALVES_MS;
        let left = penalty.checked_shr(u32::try_from(halvings).unwrap_or(u32::MAX)).unwrap_or(0);
        if left == 0 {
            self.penalty.store(0, Ordering::Relaxed);
        }
        left
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// One server of a channel, as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub(crate) address: Address,
    pub(crate) state: ServerState,
    pub(crate) since: Instant,
    pub(crate) in_flight: usize,
    pub(crate) latency: Option<Duration>,
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    pub(crate) last_error: Option<String>,
}

impl ServerStatus {
    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether calls go to it.
    pub fn state(&self) -> ServerState {
        self.state
    }

    /// Since when its connection is as it is.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Calls from their start to the end of their answers.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The estimate of its latency, from a call's start to the head of its answer; none before the first answer.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Calls that have ended.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Calls that ended in a way that speaks against the server: a lost connection, or one of the codes `UNKNOWN`,
    /// `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE` and `DATA_LOSS`.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// What last went wrong with its connection, also after it came right again.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
