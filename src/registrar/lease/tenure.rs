//! The lease itself: asked for, held and renewed, until etcd says that it is gone. PURE.

use std::collections::VecDeque;
use std::time::Duration;

use super::vocabulary::{Renewal, Trouble};
use crate::backoff::Backoff;

/// How many former leases are remembered: an etcd that is restored from a snapshot brings one of them back.
const FORMER: usize = 256;

/// Which lease there is, and when it is renewed.
#[derive(Debug)]
pub(super) struct Tenure {
    /// What is asked for.
    seconds: i64,
    lease: Lease,
    renewals: Backoff,
    former: VecDeque<i64>,
}

#[derive(Debug)]
enum Lease {
    None,
    Granting { id: i64 },
    Held(Held),
}

#[derive(Debug)]
struct Held {
    id: i64,
    life: Duration,
    /// What etcd has granted, and not only what was asked for.
    life_is_told: bool,
    renew_at: Duration,
    ends: Duration,
    late: bool,
}

/// What there is of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    None,
    Granting { id: i64 },
    Held { id: i64 },
}

/// How a lease that is held stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Sure,
    /// The last renewal failed.
    Late,
    /// By our clock it has ended; etcd has not said so.
    Ended,
}

impl Tenure {
    pub(super) fn new(seconds: i64, seed: u64) -> Self {
        Self { seconds, lease: Lease::None, renewals: Backoff::new(seed), former: VecDeque::new() }
    }

    /// The seconds that are asked for.
    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    pub(super) fn stage(&self) -> Stage {
        match &self.lease {
            Lease::None => Stage::None,
            Lease::Granting { id } => Stage::Granting { id: *id },
            Lease::Held(held) => Stage::Held { id: held.id },
        }
    }

    /// The lease in etcd, if one is held.
    pub(super) fn id(&self) -> Option<i64> {
        self.held().map(|held| held.id)
    }

    fn held(&self) -> Option<&Held> {
        match &self.lease {
            Lease::Held(held) => Some(held),
            _ => None,
        }
    }

    /// How the lease that is held stands.
    pub(super) fn hold(&self, now: Duration) -> Option<Hold> {
        let held = self.held()?;
        Some(match held.late {
            true if now >= held.ends => Hold::Ended,
            true => Hold::Late,
            false => Hold::Sure,
        })
    }

    /// Leases of ours that are gone, as far as they are remembered.
    pub(super) fn former(&self) -> &VecDeque<i64> {
        &self.former
    }

    /// How long a request may take while a lease is held: a sixth of its life. A renewal is due after a good third, so that
    /// two may fail before the lease ends.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.held().map(|held| held.life / 6)
    }

    /// When the lease ends, by our clock.
    pub(super) fn lease_ends(&self) -> Option<Duration> {
        self.held().map(|held| held.ends)
    }

    /// When a lease whose renewal is late ends, by our clock.
    pub(super) fn ends(&self, now: Duration) -> Option<Duration> {
        self.held().filter(|held| held.late && now < held.ends).map(|held| held.ends)
    }

    /// Whether the lease has had a second life since nobody renews it, as an election may give it.
    pub(super) fn is_long_over(&self, now: Duration) -> bool {
        self.held().is_some_and(|held| now >= held.ends + held.life)
    }

    /// What the lease needs, where anything is to stand under it.
    pub(super) fn renewal(&self, now: Duration) -> Renewal {
        match self.held() {
            Some(held) if now >= held.renew_at => Renewal::Now { id: held.id },
            Some(held) => Renewal::At(held.renew_at),
            None => Renewal::None,
        }
    }

    /// This lease is being asked for.
    pub(super) fn ask(&mut self, id: i64) {
        self.lease = Lease::Granting { id };
    }

    /// The lease that was asked for is there, for so many seconds; none if it was there already.
    pub(super) fn granted(&mut self, asked: Duration, granted: Option<i64>) {
        if let Lease::Granting { id } = self.lease {
            let life = lifetime(granted.unwrap_or(self.seconds));
            // Only a renewal tells the life of one that was there already.
            let renew_at = if granted.is_some() { self.next(asked, life) } else { asked };
            let ends = asked + life;
            self.lease = Lease::Held(Held { id, life, life_is_told: granted.is_some(), renew_at, ends, late: false });
            self.renewals.reset();
        }
    }

    /// The lease was renewed, for so many seconds where that was told.
    pub(super) fn renewed(&mut self, renewed: i64, asked: Duration, granted: Option<i64>) {
        let Some((id, life, known)) = self.held().map(|held| (held.id, held.life, held.life_is_told)) else { return };
        if id != renewed {
            return;
        }
        let life = granted.map_or(life, lifetime);
        let life_is_told = known || granted.is_some();
        let renew_at = if life_is_told { self.next(asked, life) } else { asked };
        self.lease = Lease::Held(Held { id, life, life_is_told, renew_at, ends: asked + life, late: false });
        self.renewals.reset();
    }

    /// A third of the life later, or a little more by chance, so that a fleet does not renew in step.
    fn next(&mut self, asked: Duration, life: Duration) -> Duration {
        asked + self.renewals.between(life / 3, life / 5 * 2)
    }

    /// The renewal of that lease failed, and it may live.
    pub(super) fn renewal_failed(&mut self, now: Duration, failed: i64, trouble: Trouble) {
        let wait = self.renewals.fail(now, trouble == Trouble::Permanent);
        if let Lease::Held(held) = &mut self.lease
            && held.id == failed
        {
            // However slow, often enough that a short lease is not lost to the waiting.
            (held.renew_at, held.late) = (now + wait.min(held.life / 6), true);
        }
    }

    /// etcd answers again: a renewal that failed is not waited for any longer.
    pub(super) fn reachable(&mut self, now: Duration) {
        if let Lease::Held(held) = &mut self.lease
            && held.late
        {
            held.renew_at = held.renew_at.min(now);
        }
    }

    /// That lease is gone; whether it was the one that is held.
    pub(super) fn gone(&mut self, gone: i64) -> bool {
        if self.id() != Some(gone) {
            return false;
        }
        self.lease = Lease::None;
        if self.former.len() == FORMER {
            self.former.pop_front();
        }
        self.former.push_back(gone);
        true
    }
}

/// A life as etcd may grant it: 9 000 000 000 s at most.
fn lifetime(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 9_000_000_000).cast_unsigned())
}
