//! Reads HTTP/2 frames (RFC 9113, 4.1) of one direction, without their payloads. PURE.

/// The length of a frame header.
const HEADER: usize = 9;
/// A stream identifier has 31 bits; the highest bit is reserved.
pub(super) const STREAM_ID: u32 = u32::MAX >> 1;

/// A frame whose last byte was read.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// The first four bytes of the payload: for GOAWAY the last stream identifier.
    pub(super) payload_start: u32,
}

/// Reads the frames of one direction, however the bytes are cut. Keeps 13 bytes, whatever the size
/// of a frame.
#[derive(Default)]
pub(super) struct FrameReader {
    /// The header and the first four bytes of the payload.
    start: [u8; HEADER + 4],
    /// How many bytes of the frame were read, with its header.
    read: usize,
}

impl FrameReader {
    /// Reads the next bytes, and calls `each` with every frame that ends within them.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let end = if self.read < HEADER { HEADER } else { HEADER + self.length() };
            let (piece, rest) = bytes.split_at(bytes.len().min(end - self.read));
            for (start, byte) in self.start.iter_mut().skip(self.read).zip(piece) {
                *start = *byte;
            }
            self.read += piece.len();
            bytes = rest;
            if self.read >= HEADER && self.read == HEADER + self.length() {
                each(self.frame());
                *self = Self::default();
            }
        }
    }

    /// The length of the payload.
    fn length(&self) -> usize {
        let [a, b, c, ..] = self.start;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    /// The frame that was read whole.
    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, s0, s1, s2, s3, f0, f1, f2, f3] = self.start;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & STREAM_ID;
        Frame { kind, flags, stream, payload_start: u32::from_be_bytes([f0, f1, f2, f3]) }
    }
}
