//! The leases of one registrar and when each is renewed. PURE.
//!
//! Usually there is one: the current lease. While keys move to a new lease there are two or more,
//! see `fence`.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::registrar::lease::vocabulary::{FailureKind, Renewal};

/// How many ended leases are remembered. An etcd that is restored from a snapshot may bring one of
/// them back, and its keys must then count as ours. 256 covers a day in which the lease is lost
/// every six minutes.
const FORMER: usize = 256;

/// The leases that etcd may hold for this registrar.
///
/// Invariants: at most one lease is current; a lease is in `current` or in `retired`, never in
/// both; ids are never reused.
#[derive(Debug)]
pub(super) struct Leases {
    /// The requested time to live.
    seconds: i64,
    /// The id of the lease that is being requested.
    granting: Option<i64>,
    /// The lease that puts use; see [`Leases::for_puts`].
    current: Option<Lease>,
    /// Leases that another one has replaced. No put uses them.
    retired: Vec<Lease>,
    renewals: Backoff,
    /// Ids of leases that have ended, the oldest first.
    former: VecDeque<i64>,
}

/// One lease that etcd may hold.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one lease")]
struct Lease {
    id: i64,
    /// The time to live that etcd granted, or the requested one until etcd has confirmed it.
    ttl: Duration,
    /// etcd has confirmed `ttl`; otherwise it is what was requested.
    ttl_confirmed: bool,
    /// When the next renewal is due.
    renew_at: Duration,
    /// When it expires unless it is renewed, by our clock.
    expires_at: Duration,
    /// When it expires at the latest: a renewal without an answer may have been applied.
    expires_at_most: Duration,
    /// The last renewal failed.
    overdue: bool,
    /// Only its end settles something, so its keys move to another lease: see
    /// [`Leases::set_must_end`].
    must_end: bool,
    /// etcd does not renew it any more.
    refused: bool,
    /// No desired key needs it: it is being revoked and not renewed.
    released: bool,
    /// When the next attempt to revoke it may start.
    revoke_at: Duration,
}

/// How far the lease that puts use has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeasePhase {
    /// There is none, and none was requested.
    None,
    /// It is being requested.
    Granting { id: i64 },
    /// It is the current lease.
    Held { id: i64 },
}

/// How sure it is that etcd still holds the leases in use. Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseHealth {
    /// The last renewal succeeded.
    Renewed,
    /// The last renewal failed, and the time to live is not over.
    Overdue,
    /// The time to live is over by our clock; etcd has not said so.
    Expired,
}

impl Lease {
    fn health(&self, now: Duration) -> LeaseHealth {
        match self.overdue {
            true if now >= self.expires_at => LeaseHealth::Expired,
            true => LeaseHealth::Overdue,
            false => LeaseHealth::Renewed,
        }
    }
}

impl Leases {
    pub(super) fn new(seconds: i64, seed: u64) -> Self {
        Self {
            seconds,
            granting: None,
            current: None,
            retired: Vec::new(),
            renewals: Backoff::new(seed),
            former: VecDeque::new(),
        }
    }

    /// The requested time to live, in seconds.
    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    /// The phase of the lease that puts use. Retired leases have none.
    pub(super) fn phase(&self) -> LeasePhase {
        match (&self.current, self.granting) {
            (Some(lease), _) => LeasePhase::Held { id: lease.id },
            (None, Some(id)) => LeasePhase::Granting { id },
            (None, None) => LeasePhase::None,
        }
    }

    /// The id of the current lease.
    pub(super) fn current(&self) -> Option<i64> {
        self.current.as_ref().map(|lease| lease.id)
    }

    /// The id of the lease that puts use: the current one, once its time to live is confirmed. Until
    /// then it may be about to end, because it was granted before and not renewed since. A key that
    /// moved to it would be lost.
    pub(super) fn for_puts(&self) -> Option<i64> {
        self.current.as_ref().filter(|lease| lease.ttl_confirmed).map(|lease| lease.id)
    }

    /// The id that users are shown: the current lease, or else the one that the keys are still
    /// under.
    pub(super) fn in_use_id(&self) -> Option<i64> {
        self.in_use().next().map(|lease| lease.id)
    }

    /// The leases that desired keys may be under. These are renewed.
    fn in_use(&self) -> impl Iterator<Item = &Lease> {
        self.current.iter().chain(self.retired.iter().filter(|lease| !lease.released))
    }

    /// Every lease that etcd may hold, the current one first.
    fn all(&self) -> impl Iterator<Item = &Lease> {
        self.current.iter().chain(&self.retired)
    }

    /// A lease that etcd may hold, in whatever state.
    fn get_mut(&mut self, id: i64) -> Option<&mut Lease> {
        self.current.iter_mut().chain(&mut self.retired).find(|lease| lease.id == id)
    }

    /// Whether etcd may hold this lease, and it is ours.
    pub(super) fn is_live(&self, id: i64) -> bool {
        self.all().any(|lease| lease.id == id)
    }

    /// The first lease that etcd may hold, in whatever state.
    pub(super) fn any(&self) -> Option<i64> {
        self.all().next().map(|lease| lease.id)
    }

    /// Whether etcd holds no lease of ours, as far as is known. A grant may be in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.any().is_none()
    }

    /// Whether the lease is being revoked, so that it may end at any time.
    pub(super) fn is_released(&self, id: i64) -> bool {
        self.retired.iter().any(|lease| lease.id == id && lease.released)
    }

    /// The leases that are being revoked.
    pub(super) fn released(&self) -> impl Iterator<Item = i64> {
        self.retired.iter().filter(|lease| lease.released).map(|lease| lease.id)
    }

    /// The leases in use with their health: what is said of registrations depends on them.
    pub(super) fn all_health(&self, now: Duration) -> impl Iterator<Item = (i64, LeaseHealth)> {
        self.in_use().map(move |lease| (lease.id, lease.health(now)))
    }

    /// The retired leases that are not released.
    pub(super) fn retired(&self) -> impl Iterator<Item = i64> {
        self.retired.iter().filter(|lease| !lease.released).map(|lease| lease.id)
    }

    /// The lease to revoke next and when, without those whose revocation is in flight.
    pub(super) fn next_revocation(&self, is_in_flight: impl Fn(i64) -> bool) -> Option<(i64, Duration)> {
        let released = self.retired.iter().filter(|lease| lease.released && !is_in_flight(lease.id));
        released.map(|lease| (lease.id, lease.revoke_at)).min_by_key(|(_, at)| *at)
    }

    /// The health of the leases that a registration may be under: the worst of them, or of all
    /// leases in use if it is under none.
    pub(super) fn health(&self, now: Duration, is_under: impl Fn(i64) -> bool) -> Option<LeaseHealth> {
        let own = self.in_use().filter(|lease| is_under(lease.id)).map(|lease| lease.health(now)).max();
        own.or_else(|| self.in_use().map(|lease| lease.health(now)).max())
    }

    /// The ids of leases that have ended, as far as they are remembered.
    pub(super) fn former(&self) -> &VecDeque<i64> {
        &self.former
    }

    /// How long a request may take while a lease is held: a sixth of the time to live. A renewal is
    /// due after 0.33 to 0.4 of it, so that two renewals may time out (0.4 + 2 × 0.17) before the
    /// lease expires.
    pub(super) fn request_timeout(&self) -> Option<Duration> {
        self.all().map(|lease| lease.ttl / 6).min()
    }

    /// When the first lease in use expires, by our clock. A lease that etcd refuses to renew counts
    /// only if there is no other: it ends with the keys that may not move.
    pub(super) fn first_expiry(&self) -> Option<Duration> {
        let renewed = self.in_use().filter(|lease| !lease.refused).map(|lease| lease.expires_at).min();
        renewed.or_else(|| self.in_use().map(|lease| lease.expires_at).min())
    }

    /// When the first overdue lease expires, by our clock, if that is in the future.
    pub(super) fn overdue_expiry(&self, now: Duration) -> Option<Duration> {
        self.in_use().filter(|lease| lease.overdue && now < lease.expires_at).map(|lease| lease.expires_at).min()
    }

    /// Whether a lease must have ended although etcd has not said so: two times to live after the
    /// last renewal that may have been applied, because a new etcd leader extends each lease once.
    pub(super) fn has_surely_expired(&self, id: i64, now: Duration) -> bool {
        self.all().any(|lease| lease.id == id && now >= lease.expires_at_most + lease.ttl)
    }

    /// The next renewal, without the leases whose renewals are in flight.
    pub(super) fn renewal(&self, now: Duration, in_flight: &[i64]) -> Renewal {
        let due = self.in_use().filter(|lease| !in_flight.contains(&lease.id)).min_by_key(|lease| lease.renew_at);
        match due {
            Some(lease) if now >= lease.renew_at => Renewal::Now { lease: lease.id },
            Some(lease) => Renewal::At(lease.renew_at),
            None => Renewal::None,
        }
    }

    /// A grant with this id is sent.
    pub(super) fn begin_grant(&mut self, id: i64) {
        self.granting = Some(id);
    }

    /// The requested lease exists. `seconds` is its time to live, or `None` if it existed before
    /// the request.
    pub(super) fn granted(&mut self, asked: Duration, seconds: Option<i64>) {
        let (None, Some(id)) = (&self.current, self.granting.take()) else { return };
        let ttl = ttl(seconds.unwrap_or(self.seconds));
        // Only a renewal tells the time to live of a lease that existed before.
        let renew_at = if seconds.is_some() { self.next_renewal(asked, ttl) } else { asked };
        self.current = Some(Lease {
            id,
            ttl,
            ttl_confirmed: seconds.is_some(),
            renew_at,
            expires_at: asked + ttl,
            expires_at_most: asked + ttl,
            overdue: false,
            must_end: false,
            refused: false,
            released: false,
            revoke_at: Duration::ZERO,
        });
        self.renewals.reset();
    }

    /// The lease was renewed. Its time to live counts from when the renewal was sent, which is
    /// never too late.
    pub(super) fn renewed(&mut self, id: i64, asked: Duration, seconds: Option<i64>) {
        let Some((before, confirmed)) = self.get_mut(id).map(|lease| (lease.ttl, lease.ttl_confirmed)) else { return };
        let ttl = seconds.map_or(before, ttl);
        let ttl_confirmed = confirmed || seconds.is_some();
        let renew_at = if ttl_confirmed { self.next_renewal(asked, ttl) } else { asked };
        if let Some(lease) = self.get_mut(id) {
            (lease.ttl, lease.ttl_confirmed, lease.renew_at) = (ttl, ttl_confirmed, renew_at);
            (lease.expires_at, lease.overdue, lease.refused) = (asked + ttl, false, false);
            lease.expires_at_most = lease.expires_at_most.max(lease.expires_at);
        }
        self.renewals.reset();
    }

    /// After 0.33 to 0.4 of the time to live: random, so that a fleet does not renew in step.
    fn next_renewal(&mut self, asked: Duration, ttl: Duration) -> Duration {
        asked + self.renewals.between(ttl / 3, ttl / 5 * 2)
    }

    /// The renewal failed, and etcd may still hold the lease.
    pub(super) fn renewal_failed(&mut self, now: Duration, id: i64, failure: FailureKind) {
        let wait = self.renewals.fail(now, failure.is_permanent());
        if let Some(lease) = self.get_mut(id) {
            // A sixth at most: the backoff must not cost a short lease its remaining attempts.
            (lease.renew_at, lease.overdue) = (now + wait.min(lease.ttl / 6), true);
            if failure.may_be_applied() {
                lease.expires_at_most = now + lease.ttl;
            }
        }
    }

    /// A connection to etcd was established: overdue renewals are due now.
    pub(super) fn connected(&mut self, now: Duration) {
        for lease in self.current.iter_mut().chain(&mut self.retired).filter(|lease| lease.overdue) {
            lease.renew_at = lease.renew_at.min(now);
        }
    }

    /// Only the end of the lease settles something, so all other keys move to another lease: a put
    /// of a key that nobody desires may still arrive under it and no key remembers that, or it
    /// holds a key that may not be deleted any more.
    pub(super) fn set_must_end(&mut self, id: i64) {
        self.get_mut(id).into_iter().for_each(|lease| lease.must_end = true);
    }

    /// etcd refuses to renew the lease: all keys that may move do so before it ends.
    pub(super) fn renewal_refused(&mut self, id: i64) {
        self.get_mut(id).into_iter().for_each(|lease| (lease.must_end, lease.refused) = (true, true));
    }

    /// Whether [`Leases::set_must_end`] was called for the lease. Nothing takes that back.
    pub(super) fn must_end(&self, id: i64) -> bool {
        self.all().any(|lease| lease.id == id && lease.must_end)
    }

    /// The current lease is to be replaced by another one.
    pub(super) fn retire(&mut self) {
        self.retired.extend(self.current.take());
    }

    /// etcd grants no other lease: the last retired one becomes current again. Whether there is a
    /// current lease now.
    pub(super) fn reinstate(&mut self) -> bool {
        if let Some(last) = self.retired.iter().rposition(|lease| !lease.released)
            && self.current.is_none()
        {
            // `granting` stays: etcd may have granted that lease all the same, so the next request uses the same id. If
            // there is none, that lease ends by itself after one time to live: it holds no key and is not renewed.
            self.current = Some(self.retired.remove(last));
        }
        self.current.is_some()
    }

    /// No desired key needs the retired lease: it is to be revoked, and may end at any time from
    /// here on.
    pub(super) fn release(&mut self, id: i64) {
        self.retired.iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.released = true);
    }

    /// A revocation was refused: the next attempt starts at `at`. The lease is not renewed
    /// meanwhile, so it ends in any case.
    pub(super) fn revoke_later(&mut self, id: i64, at: Duration) {
        self.get_mut(id).into_iter().for_each(|lease| lease.revoke_at = at);
    }

    /// The lease has ended. Whether it was one of ours that etcd could hold.
    pub(super) fn remove(&mut self, id: i64) -> bool {
        if !self.is_live(id) {
            return false;
        }
        self.current.take_if(|lease| lease.id == id);
        self.retired.retain(|lease| lease.id != id);
        if self.former.len() == FORMER {
            self.former.pop_front();
        }
        self.former.push_back(id);
        true
    }
}

/// The time to live that etcd reports. 9 000 000 000 s is etcd's own limit; the clamp keeps sums
/// within [`Duration`].
fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 9_000_000_000).cast_unsigned())
}
