//! The calls in flight on a connection, read from its bytes: HTTP/2 and HTTP/1.1. Over TLS they
//! cannot be read. PURE.
//!
//! The reader keeps a few bytes of each frame and a set of open streams, and never copies a
//! payload. It only observes: an error in it cannot break a connection, it can at worst keep one
//! for the whole drain or close one that looks idle.
//!
//! - this file: which protocol the client speaks, and the head of an HTTP/1.1 request.
//! - `frames`: HTTP/2 frames of one direction.
//! - `streams`: HTTP/2 streams that are open.

mod frames;
mod streams;

use self::frames::FrameReader;
use self::streams::OpenStreams;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of TLS: a handshake record (RFC 8446, 5.1). No HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// How many calls are in flight on a connection. A call counts from its complete head to the end of
/// its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InFlightCalls {
    Known(usize),
    /// The connection speaks TLS.
    Unknown,
}

/// Reads the traffic of a server's connection. It never fails: bytes of no known protocol count as
/// HTTP/1.1.
#[derive(Default)]
pub(super) struct Traffic {
    /// Known after the first bytes of the client.
    protocol: Protocol,
    /// Reads the client's frames.
    received: FrameReader,
    /// Reads the server's frames.
    sent: FrameReader,
    streams: OpenStreams,
}

/// The protocol of the client, as far as its bytes tell.
enum Protocol {
    /// This many bytes of HTTP/2's preface were received, and nothing else.
    Preface(usize),
    /// The preface is complete.
    Http2,
    Http1(Http1Head),
    /// The first byte was that of a TLS handshake.
    Tls,
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Traffic {
    /// The client has sent these bytes.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        let Some(first) = bytes.first() else { return };
        match &mut self.protocol {
            Protocol::Preface(0) if *first == TLS_HANDSHAKE => self.protocol = Protocol::Tls,
            Protocol::Preface(known) => {
                let (received, missing) = PREFACE.split_at(*known);
                let (piece, rest) = bytes.split_at(bytes.len().min(missing.len()));
                if !missing.starts_with(piece) {
                    let mut head = Http1Head::default();
                    head.read(received);
                    head.read(bytes);
                    self.protocol = Protocol::Http1(head);
                } else if piece.len() < missing.len() {
                    *known += piece.len();
                } else {
                    self.protocol = Protocol::Http2;
                    self.received(rest);
                }
            }
            Protocol::Http2 => self.received.feed(bytes, |frame| self.streams.received(frame)),
            Protocol::Http1(head) => head.read(bytes),
            Protocol::Tls => {}
        }
    }

    /// The server has sent these bytes. In HTTP/2 it may speak first.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if matches!(self.protocol, Protocol::Preface(_) | Protocol::Http2) {
            self.sent.feed(bytes, |frame| self.streams.sent(frame));
        }
    }

    /// The calls in flight after the bytes that were read so far.
    pub(super) fn in_flight(&self) -> InFlightCalls {
        InFlightCalls::Known(match &self.protocol {
            Protocol::Tls => return InFlightCalls::Unknown,
            // At shutdown hyper closes the connection after the present response, and at once if it waits for another
            // request. So only the head of the first request can stay incomplete.
            Protocol::Http1(head) => usize::from(head.complete),
            Protocol::Preface(_) | Protocol::Http2 => self.streams.count(),
        })
    }
}

/// The head of the first HTTP/1.1 request: it ends with an empty line. Empty lines before it are
/// skipped (RFC 9112, 2.2).
#[derive(Default)]
struct Http1Head {
    /// A line that is not empty has ended.
    begun: bool,
    /// The present line is not empty.
    line_has_bytes: bool,
    complete: bool,
}

impl Http1Head {
    /// Reads the next bytes. After the head it ignores all: only the first request matters.
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.complete => return,
                b'\n' => {
                    self.complete = self.begun && !self.line_has_bytes;
                    self.begun |= std::mem::take(&mut self.line_has_bytes);
                }
                b'\r' => {}
                _ => self.line_has_bytes = true,
            }
        }
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;

    use super::streams::{CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM};
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn begun(client: &[u8]) -> Traffic {
        let mut wire = Traffic::default();
        wire.received(PREFACE);
        wire.received(client);
        wire
    }

    fn calls(wire: &Traffic) -> usize {
        match wire.in_flight() {
            InFlightCalls::Known(calls) => calls,
            InFlightCalls::Unknown => panic!("it can be told"),
        }
    }

    /// F23: who never spoke, or said half of something, has no call in flight.
    #[test]
    fn a_call_counts_from_its_complete_head() {
        let mut wire = Traffic::default();
        wire.sent(&frame(4, 0, 0, &[0; 6]));
        assert_eq!(calls(&wire), 0);
        wire.received(&PREFACE[..20]);
        assert_eq!(calls(&wire), 0, "HTTP/2's preface has an empty line, and is no head");
        wire.received(&PREFACE[20..]);
        wire.received(&frame(4, 0, 0, &[]));
        let head = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"head");
        wire.received(&head[..head.len() - 1]);
        assert_eq!(calls(&wire), 0);
        wire.received(&head[head.len() - 1..]);
        assert_eq!(calls(&wire), 1);
        wire.received(&frame(HEADERS, 0, 3, b"he"));
        wire.received(&frame(CONTINUATION, 0, 3, b"a"));
        assert_eq!(calls(&wire), 1);
        wire.received(&frame(CONTINUATION, END_HEADERS, 3, b"d"));
        assert_eq!(calls(&wire), 2);
    }

    /// F23: it counts until the end of its answer is sent, or one of the two gives it up.
    #[test]
    fn a_call_ends_with_its_answer() {
        let heads: Vec<u8> = (0..6).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, b"head")).collect();
        let mut wire = begun(&heads);
        wire.sent(&frame(HEADERS, END_HEADERS, 1, b"head"));
        wire.sent(&frame(DATA, 0, 1, b"data"));
        assert_eq!(calls(&wire), 6);
        let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"trailers");
        wire.sent(&trailers[..trailers.len() - 1]);
        assert_eq!(calls(&wire), 6, "not all of it is sent");
        wire.sent(&trailers[trailers.len() - 1..]);
        assert_eq!(calls(&wire), 5);
        // The client's own end comes after it: that is no call.
        wire.received(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"trailers"));
        assert_eq!(calls(&wire), 5);
        wire.sent(&frame(DATA, END_STREAM, 3, b""));
        wire.sent(&frame(RST_STREAM, 0, 5, &[0; 4]));
        wire.received(&frame(RST_STREAM, 0, 7, &[0; 4]));
        assert_eq!(calls(&wire), 2);
        wire.sent(&frame(HEADERS, END_STREAM, 9, b"tra"));
        assert_eq!(calls(&wire), 2);
        wire.sent(&frame(CONTINUATION, END_HEADERS, 9, b"ilers"));
        assert_eq!(calls(&wire), 1);
        // Beyond the last one of GOAWAY nothing is answered.
        wire.sent(&frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
        assert_eq!(calls(&wire), 1);
        wire.sent(&frame(GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 0]));
        wire.received(&frame(HEADERS, END_HEADERS, 13, b"head"));
        assert_eq!(calls(&wire), 0);
    }

    /// F71: half a request of HTTP/1.1 is none.
    #[test]
    fn http1_counts_from_the_empty_line() {
        for (bytes, expected) in [
            (&b"POST /s/M HTTP/1.1\r\nhost: x\r\n"[..], 0),
            (b"POST /s/M HTTP/1.1\r\nhost: x\r\n\r\n", 1),
            (b"POST /s/M HTTP/1.1\nhost: x\n\n", 1),
            (b"\r\n\r\n\r\nPOST /", 0),
            (b"PRI * HTTP/2.0\r\n\r\nSX", 1),
            (b"PUT / HTTP/1.1\r\n\r\nbody\r\n\r\n", 1),
            (b"GET", 0),
        ] {
            for cut in 0..=bytes.len() {
                let mut wire = Traffic::default();
                wire.received(&bytes[..cut]);
                wire.received(&bytes[cut..]);
                wire.sent(b"HTTP/1.1 200 OK\r\n\r\n");
                assert_eq!(calls(&wire), expected, "{:?} at {cut}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn tls_tells_nothing() {
        let mut wire = Traffic::default();
        wire.received(&[22, 3, 1, 0, 4]);
        wire.sent(&[22, 3, 3, 0, 4]);
        assert_eq!(wire.in_flight(), InFlightCalls::Unknown);
    }

    proptest! {
        /// Whatever comes, nothing panics; and it makes no difference how it is cut.
        #[test]
        fn however_the_bytes_are_cut(traffic in traffics()) {
            cuts_make_no_difference(&traffic)?;
        }
    }

    fn cuts_make_no_difference((frames, noise, cuts): &Traffics) -> TestCaseResult {
        let (mut whole, mut cut) = (begun(&[]), begun(&[]));
        for (kind, flags, stream, payload, client) in frames {
            let bytes = frame(*kind, *flags, *stream, payload);
            let way = if *client { Traffic::received } else { Traffic::sent };
            way(&mut whole, &bytes);
            let (mut rest, mut sizes) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let size = sizes.next().map_or(1, |size| *size).min(rest.len());
                way(&mut cut, &rest[..size]);
                rest = &rest[size..];
            }
            prop_assert_eq!(whole.in_flight(), cut.in_flight());
        }
        let mut wire = Traffic::default();
        wire.received(noise);
        wire.sent(noise);
        wire.in_flight();
        Ok(())
    }

    /// Frames (type, flags, stream, payload, whether the client sends it), other bytes, and sizes of pieces.
    type Traffics = (Vec<(u8, u8, u32, Vec<u8>, bool)>, Vec<u8>, Vec<usize>);

    fn traffics() -> impl Strategy<Value = Traffics> {
        let payload = prop::collection::vec(any::<u8>(), 0..20);
        let frame = (0_u8..10, any::<u8>(), 0_u32..9, payload, any::<bool>());
        let noise = prop::collection::vec(any::<u8>(), 0..30);
        (prop::collection::vec(frame, 0..20), noise, prop::collection::vec(1_usize..7, 1..20))
    }

    /// The fuzz target: the same property, and any bytes of either side from the first one on.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let (client, server) = bytes.split_at(bytes.len() / 2);
        let mut whole = Traffic::default();
        whole.received(client);
        whole.sent(server);
        for size in [1, 3, 9, 25] {
            let mut cut = Traffic::default();
            client.chunks(size).for_each(|piece| cut.received(piece));
            server.chunks(size).for_each(|piece| cut.sent(piece));
            assert_eq!(cut.in_flight(), whole.in_flight(), "{size}");
        }
        crate::fuzzing::with(bytes, traffics(), |traffic| cuts_make_no_difference(&traffic));
    }
}
