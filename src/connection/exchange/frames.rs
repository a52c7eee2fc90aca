//! Reads the frames of a connection as they go by, for what h2 does not tell. PURE.
//!
//! It sees the bytes that h2 is given and changes none. They begin with a frame (RFC 9113, 3.4: a server's preface is its
//! SETTINGS), so each frame's head lies where the one before it ends, however reads split them. What is no HTTP/2 is read
//! as frames too, without harm: h2 ends the connection.

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// SETTINGS of the server's begin.
    Settings,
    /// The server's SETTINGS say how many bytes of headers it takes.
    MaxHeaderListSize(u32),
    /// So much of a stream's headers has come, and more is to come. Told of large ones alone.
    Open { stream: u32, size: u64 },
    /// Headers have come to their end. Told of large ones alone.
    Whole { stream: u32, size: u64 },
}

/// Headers up to this size on the wire are not told of.
const LARGE: u64 = 64 << 10;

const HEAD: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];

/// Where in the frames a connection is.
#[derive(Debug, Default)]
pub(crate) struct FrameScanner {
    /// What has come of a frame's head, or of one setting.
    part: [u8; HEAD],
    filled: usize,
    /// What is to come of the frame's payload.
    left: usize,
    in_settings: bool,
    /// Whose headers are to go on, and what has come of them.
    block: Option<(u32, u64)>,
}

impl FrameScanner {
    /// Takes what was read next.
    pub(crate) fn scan(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Seen)) {
        loop {
            if self.left == 0 && self.filled == 0 && self.block.is_none() {
                bytes = self.pass(bytes);
            }
            if bytes.is_empty() {
                return;
            }
            bytes = self.step(bytes, &mut tell);
        }
    }

    /// Goes over frames that tell nothing, which almost all are, and that do not begin or end within a head.
    fn pass<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some(([a, b, c, kind, flags, ..], rest)) = bytes.split_first_chunk::<HEAD>() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let tells = match *kind {
                HEADERS => flags & END_HEADERS == 0 || length as u64 > LARGE,
                SETTINGS => true,
                _ => false,
            };
            if tells {
                return bytes;
            }
            let Some(rest) = rest.get(length..) else {
                self.left = length - rest.len();
                self.in_settings = false;
                return &[];
            };
            bytes = rest;
        }
        bytes
    }

    /// Takes the next of what may tell something; gives what is left.
    fn step<'a>(&mut self, mut bytes: &'a [u8], tell: &mut impl FnMut(Seen)) -> &'a [u8] {
        if self.left == 0 {
            if let Some(head) = self.fill::<HEAD>(&mut bytes) {
                self.begin(head, tell);
            }
        } else if self.in_settings && self.left + self.filled >= 6 {
            let before = bytes.len();
            let setting = self.fill::<6>(&mut bytes);
            self.left -= before - bytes.len();
            if let Some([id @ .., a, b, c, d]) = setting
                && id == MAX_HEADER_LIST_SIZE
            {
                tell(Seen::MaxHeaderListSize(u32::from_be_bytes([a, b, c, d])));
            }
        } else {
            // What is no whole setting is skipped too: h2 refuses such a frame.
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
        }
        bytes
    }

    /// The next so many bytes, once they are there.
    fn fill<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        if self.filled == 0
            && let Some((whole, rest)) = bytes.split_first_chunk::<N>()
        {
            *bytes = rest;
            return Some(*whole);
        }
        while self.filled < N {
            let (first, rest) = bytes.split_first()?;
            self.part[self.filled] = *first;
            self.filled += 1;
            *bytes = rest;
        }
        self.filled = 0;
        self.part.first_chunk().copied()
    }

    fn begin(&mut self, head: [u8; HEAD], tell: &mut impl FnMut(Seen)) {
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.left = length as usize;
        self.in_settings = kind == SETTINGS;
        if self.in_settings && flags & ACK == 0 {
            tell(Seen::Settings);
        }
        let stream = u32::from_be_bytes(stream) & !(1 << 31);
        let size = match (kind, self.block.take()) {
            (HEADERS, _) => length.into(),
            (CONTINUATION, Some((of, size))) if of == stream => size.saturating_add(length.into()),
            _ => return,
        };
        let ends = flags & END_HEADERS != 0;
        if !ends {
            self.block = Some((stream, size));
        }
        if size > LARGE {
            tell(if ends { Seen::Whole { stream, size } } else { Seen::Open { stream, size } });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn seen(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<Seen> {
        let (mut scanner, mut seen) = (FrameScanner::default(), Vec::new());
        parts.into_iter().for_each(|part| scanner.scan(part.as_ref(), |what| seen.push(what)));
        seen
    }

    /// SETTINGS with two of them, DATA, SETTINGS once more, headers of three frames, headers of one.
    fn connection() -> (Vec<u8>, Vec<Seen>) {
        let settings = [0, 3, 0, 0, 0, 100, 0, 6, 0, 0, 0x40, 0];
        let bytes = [
            frame(SETTINGS, 0, 0, &settings),
            frame(SETTINGS, 1, 0, &[]),
            frame(0, 0, 1, &[4; 100]),
            frame(SETTINGS, 0, 0, &[0, 6, 0, 0, 0, 1]),
            frame(HEADERS, 0, 3, &[0; 16 << 10]),
            frame(CONTINUATION, 0, 3, &vec![0; 60 << 10]),
            frame(CONTINUATION, END_HEADERS, 3, &[0; 1]),
            frame(HEADERS, END_HEADERS | 1, 5, &[0; 100]),
        ];
        let told = vec![
            Seen::Settings,
            Seen::MaxHeaderListSize(16384),
            Seen::Settings,
            Seen::MaxHeaderListSize(1),
            Seen::Open { stream: 3, size: 76 << 10 },
            Seen::Whole { stream: 3, size: (76 << 10) + 1 },
        ];
        (bytes.concat(), told)
    }

    #[test]
    fn settings_and_large_headers_are_told_however_reads_split_them() {
        let (bytes, told) = connection();
        assert_eq!(seen([&bytes]), told);
        for size in [1, 2, 3, 5, 6, 7, 9, 10, 1000] {
            assert_eq!(seen(bytes.chunks(size)), told, "{size}");
        }
        for split in 0..200 {
            assert_eq!(seen([&bytes[..split], &bytes[split..]]), told, "{split}");
        }
    }

    #[test]
    fn what_is_no_frame_of_a_kind_is_read_over() {
        // A setting that is cut off, and the next frame after it.
        let cut = [frame(SETTINGS, 0, 0, &[0, 6, 0, 0]), frame(SETTINGS, 0, 0, &[0, 6, 0, 0, 0, 9, 0, 6])].concat();
        for size in 1..30 {
            assert_eq!(seen(cut.chunks(size)), [Seen::Settings, Seen::Settings, Seen::MaxHeaderListSize(9)], "{size}");
        }
        // Headers that go on on another stream, or with another frame between.
        let large = vec![0; 70 << 10];
        let other = [frame(HEADERS, 0, 1, &[0]), frame(CONTINUATION, END_HEADERS, 3, &large)].concat();
        assert_eq!(seen([other]), []);
        let between = [frame(HEADERS, 0, 1, &[0]), frame(0, 0, 1, &[0]), frame(CONTINUATION, 0, 1, &large)].concat();
        assert_eq!(seen([between]), []);
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut random = random_bytes(7);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..500).map(|_| random()).collect();
            let whole = seen([&bytes]);
            assert_eq!(seen(bytes.chunks(3)), whole);
        }
    }

    /// A generator without a dependency: this file has none.
    fn random_bytes(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Small numbers are frequent, so that lengths and kinds make sense now and then.
            let byte = (state >> 33) as u8;
            if byte < 128 { byte % 10 } else { byte }
        }
    }
}
