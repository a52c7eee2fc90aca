//! One registration of the lease machine: its records, and what is to be done for it next. PURE.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::registrar::lease::flights::Flights;
use crate::registrar::lease::slot::{KeyState, KeyStatus};
use crate::registrar::lease::tenure::LeaseState;
use crate::registrar::lease::vocabulary::{Conflict, Loss, Wanted};

/// One repair in so long, in the long run: what is undone again and again is not fought over.
const REPAIR: Duration = Duration::from_secs(1);
/// So many are made at once before that.
const REPAIRS: u32 = 5;

#[derive(Debug)]
pub(super) struct Registration {
    pub(super) slots: Vec<KeyState>,
    pub(super) leaving: bool,
    pub(super) paused: bool,
    pub(super) conflict: Conflict,
    pub(super) id: Option<Box<str>>,
    /// All of it stood, since it was last wanted out of etcd.
    pub(super) was_complete: bool,
    /// Why it is lost, where it is.
    pub(super) loss: Loss,
    /// What only people can mend holds up this registration and no other.
    pub(super) backoff: Backoff,
    pub(super) blocked: Duration,
    /// What is saved up for repairs, and when that was reckoned.
    saved: Duration,
    reckoned: Duration,
}

/// What is to be done, the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    Leave,
    Pause,
    Put,
    Look,
    Tidy,
    Check,
}

impl Urgency {
    /// Whether something is to go.
    pub(super) fn goes_out(self) -> bool {
        matches!(self, Self::Leave | Self::Pause | Self::Tidy)
    }
}

impl Registration {
    pub(super) fn new(wanted: Wanted, slots: Vec<KeyState>, seed: u64) -> Self {
        Self {
            slots,
            leaving: false,
            paused: wanted.paused,
            conflict: wanted.conflict,
            id: wanted.id,
            was_complete: false,
            loss: Loss::Lease,
            backoff: Backoff::new(seed),
            blocked: Duration::ZERO,
            saved: REPAIR * REPAIRS,
            reckoned: Duration::ZERO,
        }
    }

    pub(super) fn is_in(&self) -> bool {
        self.slots.iter().all(|slot| slot.place == KeyStatus::In && !slot.obsolete)
    }

    /// What stands was wanted: from here on it is changed, and not tried for the first time.
    pub(super) fn completes(&mut self) {
        self.was_complete |= self.is_wanted() && self.is_in();
    }

    /// In etcd, the latest change of it perhaps not yet.
    pub(super) fn is_there(&self) -> bool {
        self.slots.iter().all(|slot| slot.obsolete || slot.is_there())
    }

    /// Something of it may stand under that lease.
    pub(super) fn may_be_under(&self, lease: i64) -> bool {
        self.slots.iter().any(|slot| slot.may_be_under(lease))
    }

    /// Something of it is in etcd, wanted or not.
    pub(super) fn is_partly_there(&self) -> bool {
        self.slots.iter().any(KeyState::is_there)
    }

    /// Something of it stood, and does not any more.
    pub(super) fn is_lost(&self) -> bool {
        self.slots.iter().any(|slot| !slot.obsolete && slot.is_lost())
    }

    /// Whether it is to stand in etcd.
    pub(super) fn is_wanted(&self) -> bool {
        !self.leaving && !self.paused
    }

    /// Nothing of it stands, and where `for_good` is asked for, nothing of it can come to.
    pub(super) fn is_out(&self, for_good: bool) -> bool {
        !self.slots.iter().any(|slot| slot.may_be_there() || (for_good && !slot.late.is_empty()))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.leaving && self.slots.is_empty()
    }

    /// Who holds a key of it.
    pub(super) fn held_by(&self) -> Option<(&[u8], i64, Option<&str>)> {
        self.slots.iter().find_map(|slot| match &slot.place {
            KeyStatus::Theirs { lease, id } => Some((slot.record.key.as_slice(), *lease, id.as_deref())),
            _ => None,
        })
    }

    /// What is to be done next, and on which record, beside what is on its way.
    pub(super) fn next(&self, tenure: &LeaseState, flights: &Flights) -> Option<(Urgency, &KeyState)> {
        let first = |urgency: Urgency, is: &dyn Fn(&KeyState) -> bool| {
            if !flights.has_room(urgency.goes_out()) {
                return None;
            }
            let free = |slot: &&KeyState| is(slot) && !flights.is_busy(&slot.record.key);
            self.slots.iter().find(free).map(|slot| (urgency, slot))
        };
        // What goes with a lease that is being revoked needs no more.
        let to_go = |slot: &KeyState| slot.may_be_there() && !slot.goes_with(|lease| tenure.is_dying(lease));
        if self.leaving {
            return first(Urgency::Leave, &to_go);
        }
        if self.paused {
            return first(Urgency::Pause, &to_go);
        }
        let is_there = self.is_there();
        let to_put = |slot: &KeyState| {
            tenure.current().is_some_and(|lease| slot.needs_put(lease)) && !(slot.obsolete && is_there)
        };
        first(Urgency::Put, &to_put)
            .or_else(|| first(Urgency::Look, &|slot| slot.place == KeyStatus::Unknown))
            // What is no longer wanted goes once what is wanted in its stead stands, and not where another holds that.
            .or_else(|| is_there.then(|| first(Urgency::Tidy, &|slot| slot.obsolete && to_go(slot))).flatten())
            .or_else(|| first(Urgency::Check, &KeyState::needs_look))
    }

    /// Keys are unique within a registration: the registrar refuses others.
    pub(super) fn slot(&mut self, key: &[u8]) -> Option<&mut KeyState> {
        self.slots.iter_mut().find(|slot| slot.record.key == key)
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        self.slots.iter().any(|slot| slot.record.key == key)
    }

    /// Whether that key of it may stand.
    pub(super) fn may_stand(&self, key: &[u8]) -> bool {
        self.slots.iter().any(|slot| slot.record.key == key && slot.may_be_there())
    }

    /// This is wanted from now on; what is no longer wanted goes after it stands.
    pub(super) fn update(&mut self, Wanted { records, id, paused, .. }: Wanted) {
        (self.id, self.paused) = (id, paused);
        self.slots.iter_mut().for_each(|slot| slot.obsolete = true);
        for record in records {
            match self.slots.iter_mut().find(|slot| slot.is_of(&record.key)) {
                Some(slot) => slot.update(&record.value),
                None => self.slots.push(KeyState::new(record)),
            }
        }
        self.slots.retain(|slot| !slot.obsolete || slot.concerns_etcd());
        self.blocked = Duration::ZERO;
    }

    /// A key is not as it should be: when it is put again.
    pub(super) fn repair(&mut self, now: Duration) {
        let since = now.saturating_sub(self.reckoned);
        (self.saved, self.reckoned) = ((self.saved + since).min(REPAIR * REPAIRS), now);
        if let Some(left) = self.saved.checked_sub(REPAIR) {
            self.saved = left;
        } else {
            let at = now + REPAIR.saturating_sub(self.saved);
            self.blocked = self.blocked.max(at);
            (self.saved, self.reckoned) = (Duration::ZERO, at);
        }
    }
}
