//! PURE: how many resets of calls that the server has answered nothing on are under way.
//!
//! Servers guard themselves against clients that open streams and reset them at once (CVE-2023-44487). h2's server, and so
//! tonic's, ends the connection with GOAWAY (`ENHANCE_YOUR_CALM`, `too_many_resets`) when more than 20 streams are reset that it has
//! read and not yet accepted (h2 0.4.20, `proto/streams/recv.rs`, `recv_reset`). A server that stands still for a moment reads all that
//! piled up at once: requests and resets before it accepts any of them. So at most [`MOST`] such resets are under way until the
//! server has shown that it reads again.
//!
//! What shows it:
//! - the head of an answer on a stream, for every stream that was opened before it: h2's server accepts streams in their order
//!   (`pending_accept` is a queue), and a stream that was accepted is counted no more. This needs nothing to be sent;
//! - the acknowledgement of SETTINGS that were sent after the resets, or after a stream was opened: the server has read these,
//!   and has accepted them a moment later. Every server must send it (RFC 9113, 6.5.3), and none counts it as a PING, of which
//!   Go, Java and C++ forgive two without an answer.
//!
//! So streams that were opened before SETTINGS that are acknowledged are reset without a limit: however many callers give up,
//! what they leave is gone after a round trip or two.

/// Resets under way at most. h2's server takes 20 and others more; the rest is room for those that it has read and not yet
/// accepted when it acknowledges.
pub(crate) const MOST: usize = 8;

/// How far a reset has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    /// h2 has it.
    Queued,
    /// It has left.
    Written,
    /// SETTINGS follow it.
    Asked,
}

/// The resets that the server has not shown to have read.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    under_way: Vec<(u32, Reset)>,
    /// How many streams were opened before the last SETTINGS, and before the last that are acknowledged.
    asked: u32,
    accepted: u32,
}

impl Pace {
    /// Whether one more may leave.
    pub(crate) fn has_room(&self) -> bool {
        self.under_way.len() < MOST
    }

    /// Whether none is under way.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// This stream is reset.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.under_way.push((stream, Reset::Queued));
    }

    /// All that was queued has left.
    pub(crate) fn written(&mut self) {
        self.advance(Reset::Queued, Reset::Written);
    }

    /// SETTINGS are sent after so many streams were opened, which was possible because those before are acknowledged. Says whether
    /// that proves anything.
    pub(crate) fn asked(&mut self, opened: u32) -> bool {
        let before = (self.under_way.len(), self.accepted);
        self.under_way.retain(|(_, reset)| *reset != Reset::Asked);
        self.advance(Reset::Written, Reset::Asked);
        self.accepted = self.asked;
        self.asked = opened;
        self.under_way.len() < before.0 || self.accepted > before.1
    }

    /// Every stream with a lower number was read by the server, and will be accepted in a moment.
    pub(crate) fn accepted(&self) -> u32 {
        self.accepted
    }

    /// Every stream with a lower number is accepted.
    pub(crate) fn answered(&mut self, stream: u32) {
        self.under_way.retain(|(reset, _)| *reset >= stream);
    }

    fn advance(&mut self, from: Reset, to: Reset) {
        self.under_way.iter_mut().filter(|(_, reset)| *reset == from).for_each(|(_, reset)| *reset = to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Pace {
        let mut pace = Pace::default();
        (0..MOST as u32).for_each(|i| pace.reset(2 * i + 1));
        pace
    }

    #[test]
    fn no_more_than_so_many_are_under_way() {
        let mut pace = full();
        assert!(!pace.has_room());
        pace.written();
        assert!(!pace.has_room());
    }

    #[test]
    fn what_is_sent_before_a_reset_has_left_proves_nothing_of_it() {
        let mut pace = full();
        assert!(!pace.asked(0), "nothing of them has left");
        pace.written();
        assert!(!pace.asked(0), "these SETTINGS were acknowledged before they were asked about");
        assert!(!pace.has_room());
        assert!(pace.asked(0));
        assert!(pace.has_room());
    }

    #[test]
    fn what_was_opened_before_settings_that_are_acknowledged_is_accepted() {
        let mut pace = Pace::default();
        assert!(!pace.asked(100));
        assert_eq!(pace.accepted(), 0, "not acknowledged yet");
        assert!(pace.asked(150));
        assert_eq!(pace.accepted(), 100);
        assert!(pace.asked(150));
        assert!(!pace.asked(150), "nothing new");
        assert_eq!(pace.accepted(), 150);
    }

    #[test]
    fn an_answer_proves_all_streams_before_it() {
        let mut pace = full();
        pace.answered(1);
        assert!(!pace.has_room(), "not itself: that one needed no reset");
        pace.answered(3);
        assert!(pace.has_room());
        pace.answered(u32::MAX);
        assert!(pace.under_way.is_empty());
    }
}
