//! A call's deadline while it runs: a timer only once there is something to wait for.

use std::task::{Context, Poll};

use tonic::{Code, Status};

use crate::address::Address;
use crate::balance::call::deadline::Deadline;
use crate::balance::runtime::timer::Timer;
use crate::balance::status;

pub(crate) struct DeadlineTimer {
    pub(crate) deadline: Option<Deadline>,
    timer: Timer,
    /// There can be no timer here.
    broken: Option<Status>,
}

impl DeadlineTimer {
    pub(crate) fn new(deadline: Option<Deadline>) -> Self {
        Self { deadline, timer: Timer::default(), broken: None }
    }

    /// Whether the deadline has come; if not, wakes the task when it comes.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = &self.deadline else { return false };
        match self.timer.poll(deadline.at, cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(status)) => {
                self.broken = Some(status);
                true // nothing would wake the caller in time
            }
        }
    }

    /// Without a timer.
    pub(crate) fn has_passed(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline.has_passed())
    }

    /// What a caller is told whose time is up while a server has the call.
    pub(crate) fn exceeded(&self, address: &Address) -> Status {
        if let Some(status) = &self.broken {
            return status.clone();
        }
        let given = self.deadline.map_or(0, |deadline| deadline.given.as_millis());
        status::named(Code::DeadlineExceeded, format!("{address}: no answer within {given} ms"), address)
    }
}
