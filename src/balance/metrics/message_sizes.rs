//! PURE: the sizes of messages in the bytes of a body, however those are split.
//!
//! Each message of gRPC has a prefix of five bytes: a flag, and the length of the message as it is sent.

const PREFIX_LEN: u8 = 5;

/// Where in the messages of a body one is.
/// Packed, because the future of a call has no room.
#[derive(Clone, Copy, Debug, Default)]
#[repr(Rust, packed)]
pub(crate) struct MessageSizes {
    /// How many bytes of a prefix have come. All of them within a message.
    known: u8,
    /// The length as far as it has come; within a message what is left of it.
    length: u32,
}

impl MessageSizes {
    /// Takes the bytes that follow, and returns how many of them belong to messages and not to prefixes.
    #[inline]
    pub(crate) fn count(&mut self, data: &[u8]) -> u64 {
        // One whole message: what generated clients and servers send.
        if self.known == 0
            && let [_, a, b, c, d, message @ ..] = data
            && u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len()
        {
            return message.len() as u64;
        }
        self.count_parts(data)
    }

    fn count_parts(&mut self, mut data: &[u8]) -> u64 {
        let mut count = 0;
        loop {
            if self.known == PREFIX_LEN {
                let part = data.len().min(self.length as usize);
                data = &data[part..];
                count += part as u64;
                self.length -= part as u32; // at most as much
                if self.length > 0 {
                    return count;
                }
                self.known = 0;
            }
            let Some((byte, rest)) = data.split_first() else { return count };
            data = rest;
            if self.known > 0 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.known += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        [&[0], &length.to_be_bytes()[..], &vec![255; length as usize]].concat()
    }

    #[test]
    fn messages_are_counted_however_their_bytes_are_split() {
        let bytes = [message(3), message(0), message(300), message(0), message(1)].concat();
        for size in 1..=bytes.len() {
            let mut sizes = MessageSizes::default();
            assert_eq!(bytes.chunks(size).map(|chunk| sizes.count(chunk)).sum::<u64>(), 304, "{size}");
            assert_eq!(sizes.count(&message(7)), 7, "{size}");
        }
    }

    #[test]
    fn what_has_come_of_a_message_counts() {
        let mut sizes = MessageSizes::default();
        let bytes = message(100);
        let counted = [sizes.count(&bytes[..4]), sizes.count(&bytes[4..10]), sizes.count(&bytes[10..50])];
        assert_eq!(counted, [0, 5, 40]);
        assert_eq!(sizes.count(&[]), 0);
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut sizes = MessageSizes::default();
        for length in [1, 2, 7, 1_000] {
            assert!(sizes.count(&vec![255; length]) <= length as u64);
        }
    }
}
