//! The hold: how long a server that etcd has lost in a doubtful way has to prove that it lives.

use std::time::Duration;

use tokio::time::Instant;

use crate::address_index::Doubt;

/// The time for the answer to the PING: as long as for the probe of an idle connection.
const PROOF_TIME: Duration = Duration::from_secs(1);
/// If the check is so late, the runtime stood still, and the answer may lie in the socket: it gets the
/// time once more.
const LATE: Duration = Duration::from_millis(500);

/// Of one server. Its connections have been sent a PING when it began: one PING a hold, since servers
/// count them (gRFC A8).
#[derive(Clone, Copy)]
pub(super) struct Hold {
    pub(super) doubt: Doubt,
    began: Instant,
    proof: Proof,
}

/// What the connections must have shown.
#[derive(Clone, Copy)]
enum Proof {
    /// Nothing until then.
    DueAt { at: Instant, is_extended: bool },
    /// Something was read after the hold began.
    Needed,
}

impl Hold {
    pub(super) fn new(doubt: Doubt, now: Instant) -> Self {
        Self { doubt, began: now, proof: Proof::DueAt { at: now + PROOF_TIME, is_extended: false } }
    }

    /// When to check, if that is to come.
    pub(super) fn proof_due(self) -> Option<Instant> {
        match self.proof {
            Proof::DueAt { at, .. } => Some(at),
            Proof::Needed => None,
        }
    }

    /// Lets time pass.
    pub(super) fn check(&mut self, now: Instant) {
        if let Proof::DueAt { at, is_extended } = self.proof
            && now >= at
        {
            let is_late = now >= at + LATE;
            self.proof = match is_late && !is_extended {
                true => Proof::DueAt { at: now + PROOF_TIME, is_extended: true },
                false => Proof::Needed,
            };
        }
    }

    /// Whether a connection over which something was last read at this time may be used.
    pub(super) fn accepts(self, last_read: Instant, now: Instant) -> bool {
        match self.proof {
            Proof::DueAt { at, .. } if now < at + LATE => true,
            Proof::DueAt { .. } | Proof::Needed => last_read >= self.began,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_second_to_prove_that_its_server_lives() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut hold = Hold::new(Doubt::Sudden, began);
        let before = began - Duration::from_nanos(1);
        hold.check(at(999));
        assert_eq!(hold.proof_due(), Some(at(1_000)));
        assert!(hold.accepts(before, at(999)));
        hold.check(at(1_000));
        assert_eq!(hold.proof_due(), None);
        assert!(!hold.accepts(before, at(1_000)) && hold.accepts(began, at(1_000)) && hold.accepts(at(5), at(60_000)));
    }

    #[test]
    fn a_runtime_that_stood_still_gives_it_one_more() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut hold = Hold::new(Doubt::Gradual, began);
        let before = began - Duration::from_nanos(1);
        hold.check(at(3_000));
        assert_eq!(hold.proof_due(), Some(at(4_000)));
        assert!(hold.accepts(before, at(3_500)));
        hold.check(at(9_000));
        assert_eq!(hold.proof_due(), None, "once");
        assert!(!hold.accepts(before, at(9_000)) && hold.accepts(at(3_000), at(9_000)));
    }
}
