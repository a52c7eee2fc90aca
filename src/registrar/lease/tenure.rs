//! The leases themselves: the one that puts are made under, asked for, held and renewed until etcd says that it is gone; and
//! those that are left for another. PURE.

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::registrar::lease::vocabulary::{FailureKind, Renewal};

/// How many former leases are remembered: an etcd that is restored from a snapshot brings one of them back.
const FORMER: usize = 256;

/// Which leases there are, and when they are renewed.
#[derive(Debug)]
pub(super) struct LeaseState {
    /// What is asked for.
    seconds: i64,
    granting: Option<i64>,
    current: Option<Held>,
    /// Nothing more is put under these: they are revoked once nothing that is wanted stands under them.
    retired: Vec<Held>,
    renewals: Backoff,
    former: VecDeque<i64>,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "what is known of one lease, each by itself")]
struct Held {
    id: i64,
    life: Duration,
    /// What etcd has granted, and not only what was asked for.
    life_is_told: bool,
    renew_at: Duration,
    ends: Duration,
    /// When it ends at the latest: renewals that had no answer may have been done.
    may_last: Duration,
    late: bool,
    /// It is to be left for another, whatever stands under it.
    tainted: bool,
    /// etcd does not renew it any more.
    refused: bool,
    /// Nothing that is wanted stands under it: it is being revoked, and renewed no more.
    dying: bool,
    revoke_at: Duration,
}

/// What there is of the lease that puts are made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeasePhase {
    None,
    Granting { id: i64 },
    Held { id: i64 },
}

/// How the leases that are held stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LeaseHealth {
    Sure,
    /// The last renewal failed.
    Late,
    /// By our clock it has ended; etcd has not said so.
    Ended,
}

impl LeaseState {
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

    /// The seconds that are asked for.
    pub(super) fn seconds(&self) -> i64 {
        self.seconds
    }

    pub(super) fn stage(&self) -> LeasePhase {
        match (&self.current, self.granting) {
            (Some(held), _) => LeasePhase::Held { id: held.id },
            (None, Some(id)) => LeasePhase::Granting { id },
            (None, None) => LeasePhase::None,
        }
    }

    /// The lease that puts are made under, if one is held.
    pub(super) fn current(&self) -> Option<i64> {
        self.current.as_ref().map(|held| held.id)
    }

    /// The lease that users are shown.
    pub(super) fn shown(&self) -> Option<i64> {
        self.kept().next().map(|held| held.id)
    }

    /// Those under which something that is wanted stands, or may come to stand.
    fn kept(&self) -> impl Iterator<Item = &Held> {
        self.current.iter().chain(self.retired.iter().filter(|held| !held.dying))
    }

    fn all(&self) -> impl Iterator<Item = &Held> {
        self.current.iter().chain(&self.retired)
    }

    fn held(&mut self, id: i64) -> Option<&mut Held> {
        self.current.iter_mut().chain(&mut self.retired).find(|held| held.id == id)
    }

    /// Whether this lease is one of ours that etcd may hold.
    pub(super) fn is_live(&self, id: i64) -> bool {
        self.all().any(|held| held.id == id)
    }

    /// Whichever etcd may hold.
    pub(super) fn any(&self) -> Option<i64> {
        self.all().next().map(|held| held.id)
    }

    pub(super) fn is_none(&self) -> bool {
        self.any().is_none()
    }

    pub(super) fn is_dying(&self, id: i64) -> bool {
        self.retired.iter().any(|held| held.id == id && held.dying)
    }

    /// Those that are left for another, and not being revoked yet.
    pub(super) fn retired(&self) -> impl Iterator<Item = i64> {
        self.retired.iter().filter(|held| !held.dying).map(|held| held.id)
    }

    /// The next that is to be revoked, and when.
    pub(super) fn revocable(&self, is_on_its_way: impl Fn(i64) -> bool) -> Option<(i64, Duration)> {
        let dying = self.retired.iter().filter(|held| held.dying && !is_on_its_way(held.id));
        dying.map(|held| (held.id, held.revoke_at)).min_by_key(|(_, at)| *at)
    }

    /// How the leases stand that something is under: the worst of them; of all, where it is under none.
    pub(super) fn hold(&self, now: Duration, is_under: impl Fn(i64) -> bool) -> Option<LeaseHealth> {
        let hold = |held: &Held| match held.late {
            true if now >= held.ends => LeaseHealth::Ended,
            true => LeaseHealth::Late,
            false => LeaseHealth::Sure,
        };
        self.kept().filter(|held| is_under(held.id)).map(hold).max().or_else(|| self.kept().map(hold).max())
    }

    /// Leases of ours that are gone, as far as they are remembered.
    pub(super) fn former(&self) -> &VecDeque<i64> {
        &self.former
    }

    /// How long a request may take while a lease is held: a sixth of its life. A renewal is due after a good third, so that
    /// two may fail before the lease ends.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.all().map(|held| held.life / 6).min()
    }

    /// When the first of the leases ends, by our clock. One that is not renewed any more ends with what may not stand under another.
    pub(super) fn lease_ends(&self) -> Option<Duration> {
        let first = self.kept().filter(|held| !held.refused).map(|held| held.ends).min();
        first.or_else(|| self.kept().map(|held| held.ends).min())
    }

    /// When a lease whose renewal is late ends, by our clock.
    pub(super) fn ends(&self, now: Duration) -> Option<Duration> {
        self.kept().filter(|held| held.late && now < held.ends).map(|held| held.ends).min()
    }

    /// Whether a lease has had a second life since nobody renews it, as an election may give it.
    pub(super) fn is_long_over(&self, id: i64, now: Duration) -> bool {
        self.all().any(|held| held.id == id && now >= held.may_last + held.life)
    }

    /// What the leases need, but for those whose renewals are on their way.
    pub(super) fn renewal(&self, now: Duration, but: &[i64]) -> Renewal {
        let due = self.kept().filter(|held| !but.contains(&held.id)).min_by_key(|held| held.renew_at);
        match due {
            Some(held) if now >= held.renew_at => Renewal::Now { id: held.id },
            Some(held) => Renewal::At(held.renew_at),
            None => Renewal::None,
        }
    }

    /// This lease is being asked for.
    pub(super) fn ask(&mut self, id: i64) {
        self.granting = Some(id);
    }

    /// The lease that was asked for is there, for so many seconds; none if it was there already.
    pub(super) fn granted(&mut self, asked: Duration, granted: Option<i64>) {
        if let (None, Some(id)) = (&self.current, self.granting.take()) {
            let life = lifetime(granted.unwrap_or(self.seconds));
            // Only a renewal tells the life of one that was there already.
            let renew_at = if granted.is_some() { self.next(asked, life) } else { asked };
            self.current = Some(Held {
                id,
                life,
                life_is_told: granted.is_some(),
                renew_at,
                ends: asked + life,
                may_last: asked + life,
                late: false,
                tainted: false,
                refused: false,
                dying: false,
                revoke_at: Duration::ZERO,
            });
            self.renewals.reset();
        }
    }

    /// The lease was renewed, for so many seconds where that was told.
    pub(super) fn renewed(&mut self, renewed: i64, asked: Duration, granted: Option<i64>) {
        let Some((life, known)) = self.held(renewed).map(|held| (held.life, held.life_is_told)) else { return };
        let life = granted.map_or(life, lifetime);
        let life_is_told = known || granted.is_some();
        let renew_at = if life_is_told { self.next(asked, life) } else { asked };
        if let Some(held) = self.held(renewed) {
            (held.life, held.life_is_told, held.renew_at) = (life, life_is_told, renew_at);
            (held.ends, held.late, held.refused) = (asked + life, false, false);
            held.may_last = held.may_last.max(held.ends);
        }
        self.renewals.reset();
    }

    /// A third of the life later, or a little more by chance, so that a fleet does not renew in step.
    fn next(&mut self, asked: Duration, life: Duration) -> Duration {
        asked + self.renewals.between(life / 3, life / 5 * 2)
    }

    /// The renewal of that lease failed, and it may live.
    pub(super) fn renewal_failed(&mut self, now: Duration, failed: i64, trouble: FailureKind) {
        let wait = self.renewals.fail(now, trouble.is_permanent());
        if let Some(held) = self.held(failed) {
            // However slow, often enough that a short lease is not lost to the waiting.
            (held.renew_at, held.late) = (now + wait.min(held.life / 6), true);
            if trouble.leaves_doubt() {
                held.may_last = now + held.life;
            }
        }
    }

    /// etcd answers again: a renewal that failed is not waited for any longer.
    pub(super) fn reachable(&mut self, now: Duration) {
        for held in self.current.iter_mut().chain(&mut self.retired).filter(|held| held.late) {
            held.renew_at = held.renew_at.min(now);
        }
    }

    /// It is to be left for another: a put of a key that nobody wants any more may still be done under it, and nobody else
    /// remembers; or a key stands under it that may not be deleted any more.
    pub(super) fn taint(&mut self, id: i64) {
        self.held(id).into_iter().for_each(|held| held.tainted = true);
    }

    /// etcd does not renew it any more: it is to be left.
    pub(super) fn refused(&mut self, id: i64) {
        self.held(id).into_iter().for_each(|held| (held.tainted, held.refused) = (true, true));
    }

    pub(super) fn is_tainted(&self, id: i64) -> bool {
        self.all().any(|held| held.id == id && held.tainted)
    }

    /// Another lease is asked for in place of the one that is held.
    pub(super) fn retire(&mut self) {
        self.retired.extend(self.current.take());
    }

    /// No other lease is to be had: what was left for it is used again. Whether there is such a one.
    pub(super) fn reinstate(&mut self) -> bool {
        if let Some(last) = self.retired.iter().rposition(|held| !held.dying)
            && self.current.is_none()
        {
            // The other one may have been granted all the same: it is asked for again by the same name.
            self.current = Some(self.retired.remove(last));
        }
        self.current.is_some()
    }

    /// Nothing that is wanted stands under it any more: from here on it may end at any time.
    pub(super) fn give_up(&mut self, id: i64) {
        self.retired.iter_mut().filter(|held| held.id == id).for_each(|held| held.dying = true);
    }

    pub(super) fn revoke_later(&mut self, id: i64, at: Duration) {
        self.held(id).into_iter().for_each(|held| held.revoke_at = at);
    }

    /// That lease is gone; whether it was one that is held.
    pub(super) fn gone(&mut self, gone: i64) -> bool {
        if !self.is_live(gone) {
            return false;
        }
        self.current.take_if(|held| held.id == gone);
        self.retired.retain(|held| held.id != gone);
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
