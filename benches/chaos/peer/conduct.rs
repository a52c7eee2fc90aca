//! How a peer behaves, and the switch that changes it.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tonic::Code;

/// What a peer does with a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conduct {
    /// How long a good answer takes.
    pub(crate) delay: Duration,
    /// What becomes of some calls in its place, at once.
    pub(crate) fault: Option<Fault>,
    /// Of how many calls, in percent.
    pub(crate) percent: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No answer ever comes.
    Silence,
    Status(Code),
    /// The handler panics; of a stream, after the head of its answer.
    Panic,
}

impl Conduct {
    pub(crate) fn well(delay: Duration) -> Self {
        Self { delay, fault: None, percent: 0 }
    }

    /// Every call meets the fault.
    pub(crate) fn but(self, fault: Fault) -> Self {
        self.but_some(fault, 100)
    }

    pub(crate) fn but_some(self, fault: Fault, percent: u32) -> Self {
        Self { fault: Some(fault), percent, ..self }
    }

    /// What becomes of the next call.
    pub(crate) fn next_fault(self) -> Option<Fault> {
        self.fault.filter(|_| self.percent >= 100 || fastrand::u32(..100) < self.percent)
    }
}

/// Holds a peer's conduct.
#[derive(Debug)]
pub(crate) struct Switch(RwLock<Conduct>);

impl Switch {
    pub(crate) fn new(conduct: Conduct) -> Self {
        Self(RwLock::new(conduct))
    }

    pub(crate) fn get(&self) -> Conduct {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, conduct: Conduct) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = conduct;
    }
}
