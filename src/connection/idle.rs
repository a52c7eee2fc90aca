//! A connection that was silent for long takes no further exchange until it has proven that it is alive: NATs and load
//! balancers forget idle connections, and tell nobody.

use std::sync::atomic::Ordering;
use std::task::Context;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::pings::{Allowance, Occasion, Pings};

/// How long the proof may take: calls wait for it.
const PROOF: Duration = Duration::from_secs(1);
/// Nothing to look at by itself.
const FAR: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Idle {
    after: Duration,
    standing: Standing,
    proof: Allowance,
}

#[derive(Clone, Copy, PartialEq)]
enum Standing {
    /// Something was read a while ago at most.
    Known,
    /// So much had been read when it had been silent for too long; nobody has wanted it since.
    Unproven(u64),
    /// A PING is out.
    Proving(u64),
    /// Another connection takes its place.
    Replaced,
}

impl Idle {
    pub(super) fn new(after: Duration) -> Self {
        Self { after, standing: Standing::Known, proof: Allowance::new(PROOF) }
    }

    /// Whether it takes no exchange for now.
    pub(super) fn is_unproven(&self) -> bool {
        self.standing != Standing::Known
    }

    /// After each poll of the connection; whether it has been proven by that.
    pub(super) fn see(&mut self, pings: &Pings, shared: &Shared) -> bool {
        let (Standing::Unproven(bytes) | Standing::Proving(bytes)) = self.standing else { return false };
        if pings.bytes() == bytes {
            return false;
        }
        self.standing = Standing::Known;
        shared.unproven.store(false, Ordering::Relaxed);
        true
    }

    /// When to look next.
    ///
    /// # Errors
    /// The reason, when there is no proof.
    pub(super) fn look(&mut self, now: Instant, pings: &mut Pings, shared: &Shared) -> Result<Instant, String> {
        match self.standing {
            Standing::Known if now < pings.heard() + self.after => Ok(pings.heard() + self.after),
            Standing::Known => {
                self.standing = Standing::Unproven(pings.bytes());
                shared.limit.store(0, Ordering::Relaxed);
                shared.unproven.store(true, Ordering::Relaxed);
                Ok(now + FAR)
            }
            Standing::Proving(_) => match pings.awaited().map(|ping| self.proof.until(now, ping)) {
                Some(Some(next)) => Ok(next),
                Some(None) => {
                    self.standing = Standing::Replaced;
                    Err(format!("{}, and no answer to a ping in {} ms", self.silence(), PROOF.as_millis()))
                }
                // Just read: the next poll of the connection sees it.
                None => Ok(now + PROOF),
            },
            Standing::Unproven(_) | Standing::Replaced => Ok(now + FAR),
        }
    }

    /// Somebody wants to use it.
    ///
    /// # Errors
    /// The reason, when there can be no proof, because servers would take it for one ping too many.
    pub(super) fn prove(
        &mut self,
        now: Instant,
        pings: &mut Pings,
        shared: &Shared,
        is_free: bool,
        cx: &mut Context<'_>,
    ) -> Result<(), String> {
        let Standing::Unproven(bytes) = self.standing else { return Ok(()) };
        if pings.awaited().is_none() {
            let occasion =
                if shared.in_flight.load(Ordering::Relaxed) > 0 { Occasion::InFlight } else { Occasion::Idle };
            if !pings.may_send(shared, now, occasion) && !is_free {
                self.standing = Standing::Replaced;
                return Err(format!("{}, and pinged as often as servers permit", self.silence()));
            }
            pings.send(now, cx);
        }
        self.standing = Standing::Proving(bytes);
        Ok(())
    }

    fn silence(&self) -> String {
        format!("idle: silent for {} ms", self.after.as_millis())
    }
}
