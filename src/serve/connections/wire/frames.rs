//! HTTP/2's frames (RFC 9113, 4.1) as they go by, in one direction. PURE.

/// The length of a frame's head.
const HEAD: usize = 9;
/// A stream's number has 31 bits.
pub(crate) const STREAM: u32 = u32::MAX >> 1;

/// A frame whose last byte went by.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    /// The first four bytes of what it carries.
    pub(crate) first: u32,
}

/// The frames of one direction.
#[derive(Default)]
pub(crate) struct Frames {
    /// The head, and as much of what follows as is of use.
    kept: [u8; HEAD + 4],
    /// How much of the frame has gone by, its head included.
    past: usize,
}

impl Frames {
    pub(crate) fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let end = if self.past < HEAD { HEAD } else { HEAD + self.length() };
            let (now, rest) = bytes.split_at(bytes.len().min(end - self.past));
            for (kept, byte) in self.kept.iter_mut().skip(self.past).zip(now) {
                *kept = *byte;
            }
            self.past += now.len();
            bytes = rest;
            if self.past >= HEAD && self.past == HEAD + self.length() {
                each(self.frame());
                *self = Self::default();
            }
        }
    }

    fn length(&self) -> usize {
        let [a, b, c, ..] = self.kept;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, s0, s1, s2, s3, f0, f1, f2, f3] = self.kept;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & STREAM;
        Frame { kind, flags, stream, first: u32::from_be_bytes([f0, f1, f2, f3]) }
    }
}
