//! A connection that was silent for long takes no further exchange until it has proven that it is alive: NATs and load
//! balancers forget idle connections, and tell nobody.

use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::Shared;
use crate::connection::driver::pings::{Activity, PingTimeout, Pings};

/// How long the answer to the PING may take. Calls wait for it.
const PROOF: Duration = Duration::from_secs(1);
/// When no timer is needed.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct Idle {
    after: Duration,
    state: IdleState,
    proof: PingTimeout,
}

#[derive(Clone, Copy, PartialEq)]
enum IdleState {
    /// Something was read within the idle timeout.
    Active,
    /// Silent for the idle timeout, after so many bytes were read in all. No call has asked for it yet.
    Unproven(u64),
    /// A PING was sent; nothing was read after so many bytes.
    Probing(u64),
    /// Left for a new connection.
    Replaced,
}

impl Idle {
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, state: IdleState::Active, proof: PingTimeout::new(PROOF) }
    }

    /// Whether the connection takes no exchange until something is read.
    pub(crate) fn is_unproven(&self) -> bool {
        self.state != IdleState::Active
    }

    /// To be called after each poll of the connection. Returns whether something was read, so that it is active again.
    pub(crate) fn see(&mut self, pings: &Pings, shared: &Shared) -> bool {
        let (IdleState::Unproven(bytes) | IdleState::Probing(bytes)) = self.state else { return false };
        if pings.bytes() == bytes {
            return false;
        }
        self.state = IdleState::Active;
        shared.unproven.store(false, Ordering::Relaxed);
        true
    }

    /// When to look next.
    ///
    /// # Errors
    /// The reason, when the PING was not answered in time.
    pub(crate) fn look(&mut self, now: Instant, pings: &mut Pings, shared: &Shared) -> Result<Instant, String> {
        match self.state {
            IdleState::Active if now < pings.heard() + self.after => Ok(pings.heard() + self.after),
            IdleState::Active => {
                self.state = IdleState::Unproven(pings.bytes());
                // In this order: whoever finds no room finds that there is something to prove.
                shared.unproven.store(true, Ordering::Release);
                shared.limit.store(0, Ordering::Release);
                Ok(now + FAR)
            }
            IdleState::Probing(_) => match pings.awaited().map(|ping| self.proof.until(now, ping)) {
                Some(Some(next)) => Ok(next),
                Some(None) => {
                    self.state = IdleState::Replaced;
                    Err(format!("{}, and no answer to a ping in {} ms", self.silence(), PROOF.as_millis()))
                }
                // Just read: the next poll of the connection sees it.
                None => Ok(now + PROOF),
            },
            IdleState::Unproven(_) | IdleState::Replaced => Ok(now + FAR),
        }
    }

    /// A call asks for the connection: sends a PING, unless one is awaited already.
    ///
    /// # Errors
    /// The reason, when servers would take a further PING for one too many.
    pub(crate) fn prove(
        &mut self,
        now: Instant,
        pings: &mut Pings,
        shared: &Shared,
        is_free: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let IdleState::Unproven(bytes) = self.state else { return Ok(()) };
        if pings.awaited().is_none() {
            let activity =
                if shared.in_flight.load(Ordering::Relaxed) > 0 { Activity::InFlight } else { Activity::Idle };
            if !pings.may_send(shared, now, activity) && !is_free {
                self.state = IdleState::Replaced;
                return Err(format!("{}, and pinged as often as servers permit", self.silence()));
            }
            pings.send(now, cx);
        }
        self.state = IdleState::Probing(bytes);
        Ok(())
    }

    fn silence(&self) -> String {
        format!("idle: silent for {} ms", self.after.as_millis())
    }
}
