//! One server of a channel, as all its calls and its supervisor know it.

pub(super) mod cost;
#[cfg(test)]
mod exhaustion_tests;
pub(super) mod outlier;
pub(super) mod reconnect;
pub(super) mod supervisor;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::address::Address;
use crate::balance::subchannel::cost::{Cost, Estimate};

/// What a channel knows of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerState {
    /// The first connection, or the next after one that has ended, is being made. Calls may wait for it.
    Connecting,
    /// Connected: the server's SETTINGS have come. Calls go to it.
    Ready,
    /// The last attempt to connect failed, or more than three connections in a row have ended within 500 ms and without an OK
    /// call. It goes on trying. The first refusal after a connection that was well counts as [`ServerState::Connecting`]: the
    /// server may restart.
    TransientFailure,
    /// Connected, and left out for a while because its calls failed ([`Ejection`](crate::balance::Ejection)).
    Ejected,
}

pub(crate) struct Server {
    address: Address,
    /// Where the clock of all servers of the channel begins.
    epoch: Instant,
    link: Mutex<Link>,
    pub(crate) cost: Cost,
    /// Calls that ended with another code than OK.
    failures: AtomicU64,
    pub(crate) record: Record,
    /// Counts its ejections and its returns: odd while it is ejected.
    term: AtomicU32,
    /// It is back from an ejection, and has not proven yet that it is well.
    on_probation: AtomicBool,
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
pub(crate) enum CallResult {
    Success,
    Failure,
}

impl CallResult {
    /// Every code but OK speaks against the server, as gRFC A50 has it; how much is a question of what its peers do.
    pub(crate) fn of(code: Code) -> Self {
        if code == Code::Ok { Self::Success } else { Self::Failure }
    }
}

impl Server {
    pub(crate) fn new(address: Address, epoch: Instant) -> Self {
        Self {
            address,
            epoch,
            link: Mutex::new(Link { state: LinkState::Connecting, since: Instant::now(), error: None }),
            cost: Cost::default(),
            failures: AtomicU64::new(0),
            record: Record::default(),
            term: AtomicU32::new(0),
            on_probation: AtomicBool::new(false),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// How many places bad calls go on holding in its load.
    #[inline]
    pub(crate) fn kept(&self) -> u64 {
        self.cost.kept(|| self.epoch.elapsed())
    }

    /// The estimate of its latency.
    pub(crate) fn estimate(&self) -> Estimate {
        self.cost.estimate(self.epoch.elapsed())
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
        self.term() % 2 == 1
    }

    pub(crate) fn set_ejected(&self, ejected: bool) {
        if ejected != self.is_ejected() {
            self.term.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_on_probation(&self) -> bool {
        self.on_probation.load(Ordering::Relaxed)
    }

    pub(crate) fn set_on_probation(&self, on_probation: bool) {
        self.on_probation.store(on_probation, Ordering::Relaxed);
    }

    /// What a call notes when it begins, for [`Server::judge`].
    #[inline]
    pub(crate) fn term(&self) -> u32 {
        self.term.load(Ordering::Relaxed)
    }

    /// Counts the end of a call that began in this term; gives how many failed in a row.
    pub(crate) fn judge(&self, verdict: CallResult, term: u32) -> u32 {
        if verdict == CallResult::Failure {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        // What comes while it is ejected, or is left from before, says nothing of how it is once it is back.
        if self.term() != term || term % 2 == 1 {
            return 0;
        }
        match verdict {
            CallResult::Success => {
                self.record.successes.fetch_add(1, Ordering::Relaxed);
                if self.record.in_a_row.load(Ordering::Relaxed) != 0 {
                    self.record.in_a_row.store(0, Ordering::Relaxed);
                }
                0
            }
            CallResult::Failure => {
                self.record.failures.fetch_add(1, Ordering::Relaxed);
                self.record.in_a_row.fetch_add(1, Ordering::Relaxed) + 1
            }
        }
    }

    /// Calls that have ended, and failed ones among them.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let failures = self.failures.load(Ordering::Relaxed);
        (self.succeeded() + failures, failures)
    }

    /// Calls that have ended well.
    pub(crate) fn succeeded(&self) -> u64 {
        self.cost.ok_calls()
    }
}

/// One server of a channel, as it was when it was asked for.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    pub(crate) address: Address,
    pub(crate) state: ServerState,
    pub(crate) state_age: Duration,
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

    /// How long it has been connecting, connected or failing. Ejections do not begin it anew.
    pub fn state_age(&self) -> Duration {
        self.state_age
    }

    /// Calls from their start to the end of their answers, and calls that were given up and whose streams are yet to be reset
    /// (see [`BalancedChannel`](crate::balance::BalancedChannel#cancelled-calls)).
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The estimate of its latency (peak EWMA), from a call's start to the head of an answer that says nothing bad; none before the
    /// first.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Attempts that have ended with a status or a failure. Not those that the server did not process, that their callers gave
    /// up, or whose own requests failed.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Those of [`ServerStatus::calls`] that ended with another code than OK: lost connections, resets and passed deadlines among
    /// them.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    /// What last went wrong with its connection, also after it came right again.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }
}
