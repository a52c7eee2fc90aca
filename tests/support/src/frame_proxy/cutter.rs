//! gRPC messages, cut out of the DATA frames of one direction of a stream.

use bytes::{Buf, Bytes, BytesMut};

/// One byte says whether the message is compressed, four say how long it is.
pub(super) const PREFIX: usize = 5;

#[derive(Debug, Default)]
pub(super) struct Cutter {
    rest: BytesMut,
}

impl Cutter {
    pub(super) fn add(&mut self, data: &[u8]) {
        self.rest.extend_from_slice(data);
    }

    /// The next whole message, with its prefix.
    pub(super) fn next(&mut self) -> Option<Bytes> {
        let mut length = self.rest.get(1..PREFIX)?;
        let whole = PREFIX + length.get_u32() as usize;
        (self.rest.len() >= whole).then(|| self.rest.split_to(whole).freeze())
    }

    /// What is left when the stream ends: nothing, unless its sender broke off.
    pub(super) fn rest(self) -> Option<Bytes> {
        (!self.rest.is_empty()).then(|| self.rest.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::Cutter;

    #[test]
    fn cuts_messages_wherever_frames_end() {
        let sent = [&[0, 0, 0, 0, 2, 1, 2][..], &[0, 0, 0, 0, 0], &[1, 0, 0, 1, 0], &[7; 256]].concat();
        for size in 1..sent.len() {
            let mut cutter = Cutter::default();
            let mut messages = Vec::new();
            for frame in sent.chunks(size) {
                cutter.add(frame);
                messages.extend(std::iter::from_fn(|| cutter.next()));
            }
            assert_eq!(messages, [&sent[..7], &sent[7..12], &sent[12..]]);
            assert_eq!(cutter.rest(), None);
        }
    }

    #[test]
    fn a_message_that_breaks_off_is_the_rest() {
        let mut cutter = Cutter::default();
        cutter.add(&[0, 0, 0, 0, 9, 1]);
        assert_eq!(cutter.next(), None);
        assert_eq!(cutter.rest().unwrap()[..], [0, 0, 0, 0, 9, 1]);
    }
}
