//! PURE: limits how many resets a server can read before it has accepted the streams that they
//! reset.
//!
//! Servers guard themselves against clients that open streams and reset them at once
//! (CVE-2023-26964). h2's server, and so tonic's, closes the connection with GOAWAY
//! (`ENHANCE_YOUR_CALM`, `too_many_resets`) when more than 20 streams are reset that it has read
//! and not yet accepted (h2 0.4.20, `proto/streams/recv.rs`, `recv_reset`). A server that stood
//! still for a moment then reads everything that has piled up: requests, and resets before it has
//! accepted any of them. So at most [`MAX_UNREAD_RESETS`] are sent until the server has shown that
//! it reads again.
//!
//! Two things show it:
//! - The head of a response, for every stream that was opened before its stream: h2's server
//!   accepts streams in order (`pending_accept` is a queue), and no longer counts a stream once it
//!   is accepted. Nothing has to be sent for this.
//! - The acknowledgement of SETTINGS that were sent after the resets, or after a stream was opened:
//!   the server has read those, and accepts them a moment later. Every server must send it (RFC
//!   9113, 6.5.3), and none counts SETTINGS as a PING, of which Go, Java and C++ tolerate two
//!   without a response.
//!
//! Streams that were opened before acknowledged SETTINGS are therefore reset without a limit:
//! however many calls are cancelled, their streams are gone after one or two round trips.

/// How many resets may be unread. h2's server accepts 20 and other servers more; the rest is for
/// resets that it has read and not yet processed when it acknowledges.
pub(crate) const MAX_UNREAD_RESETS: usize = 8;

/// How far a reset has come. Each goes through all of them, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResetPhase {
    /// In h2's queue.
    Queued,
    /// Written to the socket.
    Written,
    /// Written before the last SETTINGS. Their acknowledgement proves that the server has read it.
    BeforeSettings,
}

/// The resets that the server may not have read yet.
#[derive(Debug, Default)]
pub(crate) struct ResetPacer {
    unread: Vec<(u32, ResetPhase)>,
    /// The number of streams that were opened when the last SETTINGS were sent.
    opened_at_settings: u32,
    /// The same for the last SETTINGS that are acknowledged: streams with a lower number are
    /// accepted.
    accepted: u32,
}

impl ResetPacer {
    /// Whether one more reset may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.unread.len() < MAX_UNREAD_RESETS
    }

    /// Whether no reset is unread.
    #[inline]
    pub(crate) fn is_idle(&self) -> bool {
        self.unread.is_empty()
    }

    /// The stream with this number is reset.
    pub(crate) fn record_reset(&mut self, stream: u32) {
        self.unread.push((stream, ResetPhase::Queued));
    }

    /// All frames that were queued are written.
    pub(crate) fn record_flush(&mut self) {
        self.advance(ResetPhase::Queued, ResetPhase::Written);
    }

    /// SETTINGS are sent when `opened` streams were opened. That the client can send them means
    /// that the server has acknowledged those before. Returns whether that proves anything new.
    pub(crate) fn record_settings(&mut self, opened: u32) -> bool {
        let before = (self.unread.len(), self.accepted);
        self.unread.retain(|(_, phase)| *phase != ResetPhase::BeforeSettings);
        self.advance(ResetPhase::Written, ResetPhase::BeforeSettings);
        self.accepted = self.opened_at_settings;
        self.opened_at_settings = opened;
        self.unread.len() < before.0 || self.accepted > before.1
    }

    /// The server has read every stream with a lower number, and accepts it in a moment.
    pub(crate) fn accepted(&self) -> u32 {
        self.accepted
    }

    /// The server has accepted every stream with a number below `stream`. Resets of those are no
    /// longer counted.
    pub(crate) fn record_accepted(&mut self, stream: u32) {
        self.unread.retain(|(reset, _)| *reset >= stream);
    }

    /// Moves all resets in one phase to another.
    fn advance(&mut self, from: ResetPhase, to: ResetPhase) {
        self.unread.iter_mut().filter(|(_, phase)| *phase == from).for_each(|(_, phase)| *phase = to);
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// What the client has sent and the server has not read yet.
    enum Sent {
        Reset(u32),
        /// With the number of streams that were opened by then.
        Settings(u32),
    }

    /// The fuzz target, whose model is a server that reads as slowly as it likes, and accepts no more streams than it must: it
    /// never reads more resets of streams that it has not accepted than [`MAX_UNREAD_RESETS`].
    pub(crate) fn fuzz(bytes: &[u8]) {
        let (mut pacer, mut opened, mut reset) = (ResetPacer::default(), 0_u32, BTreeSet::new());
        let (mut queued, mut wire, mut is_settings_unread) = (Vec::new(), VecDeque::new(), false);
        // The server has accepted the streams with a lower number, and has read these resets of others.
        let (mut accepted, mut read_early) = (0_u32, Vec::new());
        for byte in bytes {
            let value = u32::from(byte >> 3);
            match byte & 7 {
                0 | 1 => opened += 1 + value % 4,
                2 | 3 if opened > 0 && pacer.has_room() => {
                    let stream = (opened - 1).saturating_sub(value);
                    if reset.insert(stream) {
                        pacer.record_reset(stream);
                        queued.push(Sent::Reset(stream));
                    }
                }
                4 => {
                    pacer.record_flush();
                    wire.extend(queued.drain(..));
                }
                // h2 sends SETTINGS only once those before are acknowledged, and the driver only once everything is flushed.
                5 if !is_settings_unread && queued.is_empty() => {
                    pacer.record_flush();
                    let before = pacer.accepted();
                    pacer.record_settings(opened);
                    assert!(before <= pacer.accepted() && pacer.accepted() <= accepted);
                    wire.push_back(Sent::Settings(opened));
                    is_settings_unread = true;
                }
                6 => match wire.pop_front() {
                    Some(Sent::Reset(stream)) => read_early.push(stream),
                    Some(Sent::Settings(streams)) => {
                        accepted = accepted.max(streams);
                        is_settings_unread = false;
                    }
                    None => {}
                },
                // The head of a response has come.
                7 => {
                    accepted = accepted.max(value.min(opened));
                    pacer.record_accepted(accepted);
                }
                _ => {}
            }
            read_early.retain(|stream| *stream >= accepted);
            assert!(read_early.len() <= MAX_UNREAD_RESETS && pacer.unread.len() <= MAX_UNREAD_RESETS);
        }
        pacer.record_flush();
        pacer.record_settings(opened);
        pacer.record_settings(opened);
        assert!(pacer.is_idle() && pacer.accepted() == opened, "two acknowledgements prove everything");
    }

    fn full() -> ResetPacer {
        let mut pacer = ResetPacer::default();
        (0..MAX_UNREAD_RESETS as u32).for_each(|i| pacer.record_reset(2 * i + 1));
        pacer
    }

    #[test]
    fn at_most_so_many_are_unread() {
        let mut pacer = full();
        assert!(!pacer.has_room());
        pacer.record_flush();
        assert!(!pacer.has_room());
    }

    #[test]
    fn what_is_sent_before_a_reset_has_left_proves_nothing_of_it() {
        let mut pacer = full();
        assert!(!pacer.record_settings(0), "nothing of them has left");
        pacer.record_flush();
        assert!(!pacer.record_settings(0), "these SETTINGS were acknowledged before they were asked about");
        assert!(!pacer.has_room());
        assert!(pacer.record_settings(0));
        assert!(pacer.has_room());
    }

    #[test]
    fn what_was_opened_before_settings_that_are_acknowledged_is_accepted() {
        let mut pacer = ResetPacer::default();
        assert!(!pacer.record_settings(100));
        assert_eq!(pacer.accepted(), 0, "not acknowledged yet");
        assert!(pacer.record_settings(150));
        assert_eq!(pacer.accepted(), 100);
        assert!(pacer.record_settings(150));
        assert!(!pacer.record_settings(150), "nothing new");
        assert_eq!(pacer.accepted(), 150);
    }

    #[test]
    fn an_answer_proves_all_streams_before_it() {
        let mut pacer = full();
        pacer.record_accepted(1);
        assert!(!pacer.has_room(), "not itself: that one needed no reset");
        pacer.record_accepted(3);
        assert!(pacer.has_room());
        pacer.record_accepted(u32::MAX);
        assert!(pacer.unread.is_empty());
    }
}
