//! PURE: finds in the frames of a connection what h2 does not tell: the server's SETTINGS, and the
//! sizes of headers on the wire.
//!
//! The scanner sees the bytes that h2 is given and changes none. They begin with a frame (RFC 9113,
//! 3.4: a server's preface is its SETTINGS), so the header of each frame lies where the frame
//! before it ends, however reads split them. Bytes that are no HTTP/2 are scanned as frames too,
//! without harm: h2 closes the connection.
//!
//! A frame is a header of nine bytes and a payload (RFC 9113, 4.1):
//!
//! ```text
//!  length: 3 bytes │ type: 1 │ flags: 1 │ stream id: 4 │ payload: length bytes
//! ```
//!
//! Headers are one HEADERS frame and any number of CONTINUATION frames of the same stream, the last
//! of them with the flag `END_HEADERS`. Only frame headers and SETTINGS are looked at; payloads are
//! skipped.

/// What the scanner has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameEvent {
    /// A SETTINGS frame of the server's begins.
    Settings,
    /// The server's SETTINGS say how many bytes of headers it accepts.
    MaxHeaderListSize(u32),
    /// `size` bytes of a stream's headers have begun to come, and more follow. Only for large
    /// headers.
    LargeHeadersPart { stream: u32, size: u64 },
    /// The last of a stream's headers has begun to come. Only for large headers.
    LargeHeadersEnd { stream: u32, size: u64 },
}

/// Headers up to this size on the wire, in bytes, make no event. Larger ones are rare, and events
/// take a lock.
const LARGE: u64 = 64 << 10;

/// Numbers of RFC 9113: the size of a frame header (4.1), types of frames (6), their flags, and a
/// setting (6.5.2).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];
/// The size of one setting: its id and its value.
const SETTING: usize = 6;

/// The place in the frames up to which a connection was scanned.
#[derive(Debug, Default)]
pub(super) struct FrameScanner {
    /// The beginning of a frame header or of a setting, if a read ended within it.
    partial: [u8; FRAME_HEADER],
    partial_len: usize,
    /// How many bytes of the frame's payload follow.
    payload_left: usize,
    is_settings: bool,
    /// The stream whose headers go on in the next frame, and the size of those so far.
    headers: Option<(u32, u64)>,
}

impl FrameScanner {
    /// Scans the bytes that were read next.
    pub(super) fn scan(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(FrameEvent)) {
        loop {
            if self.payload_left == 0 && self.partial_len == 0 && self.headers.is_none() {
                bytes = self.skip_frames(bytes);
            }
            if bytes.is_empty() {
                return;
            }
            bytes = self.step(bytes, &mut on_event);
        }
    }

    /// The fast path: skips frames without events, which almost all are. Returns the bytes from the
    /// first frame that may have one, or whose header is incomplete.
    fn skip_frames<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while let Some(([a, b, c, kind, flags, ..], rest)) = bytes.split_first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let may_have_event = match *kind {
                HEADERS => flags & END_HEADERS == 0 || length as u64 > LARGE,
                SETTINGS => true,
                _ => false,
            };
            if may_have_event {
                return bytes;
            }
            let Some(rest) = rest.get(length..) else {
                self.payload_left = length - rest.len();
                self.is_settings = false;
                return &[];
            };
            bytes = rest;
        }
        bytes
    }

    /// Takes a frame header, a setting, or payload to skip. Returns the bytes after it.
    fn step<'a>(&mut self, mut bytes: &'a [u8], on_event: &mut impl FnMut(FrameEvent)) -> &'a [u8] {
        if self.payload_left == 0 {
            if let Some(header) = self.take::<FRAME_HEADER>(&mut bytes) {
                self.begin_frame(header, on_event);
            }
        } else if self.is_settings && self.payload_left + self.partial_len >= SETTING {
            let before = bytes.len();
            let setting = self.take::<SETTING>(&mut bytes);
            self.payload_left -= before - bytes.len();
            if let Some([id @ .., a, b, c, d]) = setting
                && id == MAX_HEADER_LIST_SIZE
            {
                on_event(FrameEvent::MaxHeaderListSize(u32::from_be_bytes([a, b, c, d])));
            }
        } else {
            // Also the end of SETTINGS that is no whole setting: h2 refuses such a frame.
            let skipped = self.payload_left.min(bytes.len());
            self.payload_left -= skipped;
            bytes = &bytes[skipped..];
        }
        bytes
    }

    /// Takes the next `N` bytes, or keeps what there is of them for the next read.
    fn take<const N: usize>(&mut self, bytes: &mut &[u8]) -> Option<[u8; N]> {
        if self.partial_len == 0
            && let Some((whole, rest)) = bytes.split_first_chunk::<N>()
        {
            *bytes = rest;
            return Some(*whole);
        }
        while self.partial_len < N {
            let (first, rest) = bytes.split_first()?;
            self.partial[self.partial_len] = *first;
            self.partial_len += 1;
            *bytes = rest;
        }
        self.partial_len = 0;
        self.partial.first_chunk().copied()
    }

    /// Takes in the header of a frame.
    fn begin_frame(&mut self, header: [u8; FRAME_HEADER], on_event: &mut impl FnMut(FrameEvent)) {
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.payload_left = length as usize;
        self.is_settings = kind == SETTINGS;
        if self.is_settings && flags & ACK == 0 {
            on_event(FrameEvent::Settings);
        }
        let stream = u32::from_be_bytes(stream) & !(1 << 31); // the highest bit is reserved
        let size = match (kind, self.headers.take()) {
            (HEADERS, _) => length.into(),
            (CONTINUATION, Some((of, size))) if of == stream => size.saturating_add(length.into()),
            _ => return,
        };
        let is_last = flags & END_HEADERS != 0;
        if !is_last {
            self.headers = Some((stream, size));
        }
        if size > LARGE {
            let (end, part) =
                (FrameEvent::LargeHeadersEnd { stream, size }, FrameEvent::LargeHeadersPart { stream, size });
            on_event(if is_last { end } else { part });
        }
    }
}

#[cfg(any(test, tonic_etcd_fuzzing))]
pub(crate) mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn seen(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Vec<FrameEvent> {
        let (mut scanner, mut seen) = (FrameScanner::default(), Vec::new());
        parts.into_iter().for_each(|part| scanner.scan(part.as_ref(), |what| seen.push(what)));
        seen
    }

    /// SETTINGS with two of them, DATA, SETTINGS once more, headers of three frames, headers of
    /// one.
    fn connection() -> (Vec<u8>, Vec<FrameEvent>) {
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
            FrameEvent::Settings,
            FrameEvent::MaxHeaderListSize(16384),
            FrameEvent::Settings,
            FrameEvent::MaxHeaderListSize(1),
            FrameEvent::LargeHeadersPart { stream: 3, size: 76 << 10 },
            FrameEvent::LargeHeadersEnd { stream: 3, size: (76 << 10) + 1 },
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
            assert_eq!(
                seen(cut.chunks(size)),
                [FrameEvent::Settings, FrameEvent::Settings, FrameEvent::MaxHeaderListSize(9)],
                "{size}"
            );
        }
        // Headers that go on on another stream, or with another frame between.
        let large = vec![0; 70 << 10];
        let other = [frame(HEADERS, 0, 1, &[0]), frame(CONTINUATION, END_HEADERS, 3, &large)].concat();
        assert_eq!(seen([other]), []);
        let between = [frame(HEADERS, 0, 1, &[0]), frame(0, 0, 1, &[0]), frame(CONTINUATION, 0, 1, &large)].concat();
        assert_eq!(seen([between]), []);
    }

    /// What the scanner must find in bytes that are there at once.
    fn expected(bytes: &[u8]) -> Vec<FrameEvent> {
        let (mut found, mut rest, mut headers) = (Vec::new(), bytes, None);
        while let Some(([a, b, c, kind, flags, stream @ ..], after)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            let (payload, next) = after.split_at(after.len().min(length as usize));
            let stream = u32::from_be_bytes(*stream) & (u32::MAX >> 1);
            rest = next;
            if *kind == SETTINGS {
                found.extend((flags & ACK == 0).then_some(FrameEvent::Settings));
                let limits = payload.chunks_exact(SETTING).filter(|setting| setting[..2] == MAX_HEADER_LIST_SIZE);
                let value = |setting: &[u8]| u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                found.extend(limits.map(|setting| FrameEvent::MaxHeaderListSize(value(setting))));
            }
            let before = headers.take().filter(|(of, _)| *kind == CONTINUATION && *of == stream);
            let size = u64::from(length) + before.map_or(0, |(_, size)| size);
            if *kind != HEADERS && before.is_none() {
                continue;
            }
            let is_last = flags & END_HEADERS != 0;
            headers = (!is_last).then_some((stream, size));
            if size > LARGE {
                found.push(if is_last {
                    FrameEvent::LargeHeadersEnd { stream, size }
                } else {
                    FrameEvent::LargeHeadersPart { stream, size }
                });
            }
        }
        found
    }

    /// The fuzz target: however reads split the bytes, and whatever they are, the same is found.
    pub(crate) fn fuzz(bytes: &[u8]) {
        let whole = seen([bytes]);
        assert_eq!(whole, expected(bytes));
        for size in [1, 2, 5, 7, 9, 13, 64] {
            assert_eq!(seen(bytes.chunks(size)), whole, "{size}");
        }
        // Payloads are long, and fuzzers' inputs short: the first byte of each group of three is a frame's kind, the others say
        // how long it is and which flags and stream it has.
        let large = vec![0; 40 << 10];
        let frames = bytes.chunks_exact(3).take(5).flat_map(|group| {
            let [kind, length, rest] = [group[0] % 10, group[1], group[2]];
            let length = if length < 128 { usize::from(length) } else { usize::from(length - 127) * 320 };
            frame(kind, rest & 5, u32::from(rest >> 3) % 3, &large[..length])
        });
        let frames: Vec<u8> = frames.collect();
        assert_eq!(seen([&frames]), expected(&frames));
        assert_eq!(seen(frames.chunks(4_099)), expected(&frames));
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut random = random_bytes(7);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..500).map(|_| random()).collect();
            fuzz(&bytes);
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
