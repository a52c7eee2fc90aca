//! The maximum size of the messages of a call.
//!
//! Each message of gRPC has a prefix of five bytes: a flag, and the length of the message as it is sent. So a message that is too
//! large is known before it is sent, or before it is read.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

const PREFIX_LEN: usize = 5;

/// A limit for the length of each message, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageLimit(u32);

impl MessageLimit {
    /// No prefix has a larger length.
    const NONE: Self = Self(u32::MAX);

    pub(crate) fn of(bytes: Option<usize>) -> Self {
        bytes.map_or(Self::NONE, |bytes| Self(u32::try_from(bytes).unwrap_or(u32::MAX)))
    }

    /// What finds messages that are too large; `None` without a limit.
    #[inline]
    pub(crate) fn scanner(self) -> Option<Box<MessageScanner>> {
        (self != Self::NONE)
            .then(|| Box::new(MessageScanner { limit: self.0, prefix: [0; PREFIX_LEN], known: 0, left: 0 }))
    }

    /// The body of a request, which fails before a message that is too large.
    #[inline]
    pub(crate) fn limit_request(self, body: tonic::body::Body) -> tonic::body::Body {
        match self.scanner() {
            Some(scanner) => tonic::body::Body::new(LimitedBody { body, scanner }),
            None => body,
        }
    }
}

impl Default for MessageLimit {
    fn default() -> Self {
        Self::NONE
    }
}

/// Looks at the prefixes of messages, however their bytes are split.
#[derive(Debug)]
pub(crate) struct MessageScanner {
    limit: u32,
    /// The beginning of a prefix, and how much of it is known.
    prefix: [u8; PREFIX_LEN],
    known: usize,
    /// How many bytes of the message follow.
    left: usize,
}

/// The length of a message that is too large, and the limit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MessageTooLarge {
    pub(crate) length: u32,
    pub(crate) limit: u32,
}

impl MessageScanner {
    /// Takes the bytes that follow.
    ///
    /// # Errors
    /// If a message begins in them that is too large.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) -> Result<(), MessageTooLarge> {
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let Some((byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            self.prefix[self.known] = *byte;
            self.known += 1;
            if self.known == PREFIX_LEN {
                self.known = 0;
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                if length > self.limit {
                    return Err(MessageTooLarge { length, limit: self.limit });
                }
                self.left = length as usize;
            }
        }
    }
}

/// The body of a request with a limit.
struct LimitedBody {
    body: tonic::body::Body,
    scanner: Box<MessageScanner>,
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(Ok(data)) = &frame else { return Poll::Ready(frame) };
        let scanned = data.data_ref().map_or(Ok(()), |data| self.scanner.scan(data));
        Poll::Ready(match scanned {
            Ok(()) => frame,
            Err(MessageTooLarge { length, limit }) => {
                let text =
                    format!("a request message of {length} bytes is larger than max_request_message_bytes ({limit})");
                Some(Err(Status::resource_exhausted(text)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(length.to_be_bytes());
        message.extend(std::iter::repeat_n(7, length as usize));
        message
    }

    #[test]
    fn a_message_that_is_too_large_is_found_however_its_bytes_are_split() {
        let bytes = [message(3), message(0), message(4), message(5)].concat();
        for size in 1..=bytes.len() {
            let mut scanner = MessageLimit::of(Some(4)).scanner().unwrap();
            let found = bytes.chunks(size).map(|chunk| scanner.scan(chunk)).find(Result::is_err);
            assert_eq!(found, Some(Err(MessageTooLarge { length: 5, limit: 4 })), "{size}");
            let mut scanner = MessageLimit::of(Some(5)).scanner().unwrap();
            assert!(bytes.chunks(size).all(|chunk| scanner.scan(chunk).is_ok()), "{size}");
        }
    }

    #[test]
    fn a_limit_beyond_what_a_prefix_can_say_is_none() {
        assert!(MessageLimit::of(None).scanner().is_none());
        assert!(MessageLimit::of(Some(usize::MAX)).scanner().is_none());
        assert!(MessageLimit::of(Some(0)).scanner().unwrap().scan(&message(1)).is_err());
    }
}
