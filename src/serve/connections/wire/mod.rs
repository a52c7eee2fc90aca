//! What the bytes of a connection tell of its calls, in HTTP/2 and HTTP/1.1; under TLS they tell nothing. PURE.

mod frames;
mod streams;

use self::frames::Frames;
use self::streams::Streams;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of TLS: a record of the handshake (RFC 8446, 5.1). No method of HTTP begins with it.
const TLS: u8 = 22;

/// How many calls are in flight on a connection. A call counts from its complete head to the end of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InFlight {
    Calls(usize),
    /// It speaks TLS.
    Unknown,
}

/// A connection of a server, as its bytes go by.
#[derive(Default)]
pub(crate) struct Wire {
    speech: Speech,
    received: Frames,
    sent: Frames,
    streams: Streams,
}

/// What the client speaks, as far as it has said.
enum Speech {
    /// So many bytes of HTTP/2's preface, and nothing else.
    Preface(usize),
    Http2,
    Http1(Head),
    Tls,
}

impl Default for Speech {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Wire {
    /// What the client has sent.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        let Some(first) = bytes.first() else { return };
        match &mut self.speech {
            Speech::Preface(0) if *first == TLS => self.speech = Speech::Tls,
            Speech::Preface(known) => {
                let (begun, missing) = PREFACE.split_at(*known);
                let (now, rest) = bytes.split_at(bytes.len().min(missing.len()));
                if !missing.starts_with(now) {
                    let mut head = Head::default();
                    head.read(begun);
                    head.read(bytes);
                    self.speech = Speech::Http1(head);
                } else if now.len() < missing.len() {
                    *known += now.len();
                } else {
                    self.speech = Speech::Http2;
                    self.received(rest);
                }
            }
            Speech::Http2 => self.received.read(bytes, |frame| self.streams.received(frame)),
            Speech::Http1(head) => head.read(bytes),
            Speech::Tls => {}
        }
    }

    /// What the server has sent. In HTTP/2 it may speak first.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        if matches!(self.speech, Speech::Preface(_) | Speech::Http2) {
            self.sent.read(bytes, |frame| self.streams.sent(frame));
        }
    }

    pub(crate) fn in_flight(&self) -> InFlight {
        InFlight::Calls(match &self.speech {
            Speech::Tls => return InFlight::Unknown,
            // hyper ends one that is to stop once it has answered, and at once where it waits for a further request: only
            // the first request can be one that never becomes whole.
            Speech::Http1(head) => usize::from(head.is_complete()),
            Speech::Preface(_) | Speech::Http2 => self.streams.open(),
        })
    }
}

/// The head of HTTP/1.1's first request: it ends with an empty line.
#[derive(Default)]
struct Head {
    /// A line with something in it has ended.
    begun: bool,
    /// There is something in this line.
    filled: bool,
    complete: bool,
}

impl Head {
    fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match byte {
                _ if self.complete => return,
                b'\n' => {
                    self.complete = self.begun && !self.filled;
                    self.begun |= std::mem::take(&mut self.filled);
                }
                b'\r' => {}
                _ => self.filled = true,
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::streams::{CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM};
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn begun(client: &[u8]) -> Wire {
        let mut wire = Wire::default();
        wire.received(PREFACE);
        wire.received(client);
        wire
    }

    fn calls(wire: &Wire) -> usize {
        match wire.in_flight() {
            InFlight::Calls(calls) => calls,
            InFlight::Unknown => panic!("it can be told"),
        }
    }

    /// F23: who never spoke, or said half of something, has no call in flight.
    #[test]
    fn a_call_counts_from_its_complete_head() {
        let mut wire = Wire::default();
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
                let mut wire = Wire::default();
                wire.received(&bytes[..cut]);
                wire.received(&bytes[cut..]);
                wire.sent(b"HTTP/1.1 200 OK\r\n\r\n");
                assert_eq!(calls(&wire), expected, "{:?} at {cut}", String::from_utf8_lossy(bytes));
            }
        }
    }

    #[test]
    fn tls_tells_nothing() {
        let mut wire = Wire::default();
        wire.received(&[22, 3, 1, 0, 4]);
        wire.sent(&[22, 3, 3, 0, 4]);
        assert_eq!(wire.in_flight(), InFlight::Unknown);
    }

    proptest! {
        /// Whatever comes, nothing panics; and it makes no difference how it is cut.
        #[test]
        fn however_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_u32..9, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()), 0..20),
            noise in prop::collection::vec(any::<u8>(), 0..30),
            cuts in prop::collection::vec(1_usize..7, 1..20),
        ) {
            let (mut whole, mut cut) = (begun(&[]), begun(&[]));
            for (kind, flags, stream, payload, client) in &frames {
                let bytes = frame(*kind, *flags, *stream, payload);
                let way = if *client { Wire::received } else { Wire::sent };
                way(&mut whole, &bytes);
                let (mut rest, mut sizes) = (&bytes[..], cuts.iter().cycle());
                while !rest.is_empty() {
                    let size = sizes.next().map_or(1, |size| *size).min(rest.len());
                    way(&mut cut, &rest[..size]);
                    rest = &rest[size..];
                }
                prop_assert_eq!(whole.in_flight(), cut.in_flight());
            }
            let mut wire = Wire::default();
            wire.received(&noise);
            wire.sent(&noise);
            wire.in_flight();
        }
    }
}
