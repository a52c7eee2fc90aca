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
        (self != Self::NONE).then(|| {
            Box::new(MessageScanner { limit: self.0, prefix: [0; PREFIX_LEN], known: 0, left: 0, too_large: None })
        })
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
    /// The message that is too large, once there is one. Nothing follows it.
    too_large: Option<MessageTooLarge>,
}

/// The length of a message that is too large, and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageTooLarge {
    pub(crate) length: u32,
    pub(crate) limit: u32,
}

impl MessageScanner {
    /// Takes the bytes that follow, and cuts off a message that is too large, and what follows it.
    ///
    /// # Errors
    /// If nothing is left of them; the messages before the one that is too large were given out then.
    pub(crate) fn admit(&mut self, data: &mut Bytes) -> Result<(), MessageTooLarge> {
        if self.too_large.is_none() {
            let Err((before, too_large)) = self.scan(data) else { return Ok(()) };
            self.too_large = Some(too_large);
            data.truncate(before);
            if !data.is_empty() {
                return Ok(());
            }
        }
        self.too_large().map_or(Ok(()), Err)
    }

    /// The message that is too large: what was before it was given out.
    pub(crate) fn too_large(&self) -> Option<MessageTooLarge> {
        self.too_large
    }

    /// Returns the message that is too large, if one begins in the bytes that follow, and how many are before it.
    fn scan(&mut self, all: &[u8]) -> Result<(), (usize, MessageTooLarge)> {
        let (mut bytes, mut begins) = (all, 0);
        loop {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            if self.known == 0 {
                begins = all.len() - bytes.len();
            }
            let Some((byte, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            self.prefix[self.known] = *byte;
            self.known += 1;
            if self.known == PREFIX_LEN {
                self.known = 0;
                let [_, length @ ..] = self.prefix;
                let length = u32::from_be_bytes(length);
                if length > self.limit {
                    return Err((begins, MessageTooLarge { length, limit: self.limit }));
                }
                self.left = length as usize;
            }
        }
    }
}

/// The body of a request with a limit. What is before a message that is too large is sent.
struct LimitedBody {
    body: tonic::body::Body,
    scanner: Box<MessageScanner>,
}

impl Body for LimitedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let admitted = match this.scanner.too_large() {
            Some(too_large) => Err(too_large),
            None => match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(mut frame)) => {
                    let admitted = frame.data_mut().map_or(Ok(()), |data| this.scanner.admit(data));
                    admitted.map(|()| Some(Ok(frame)))
                }
                end => Ok(end),
            },
        };
        Poll::Ready(admitted.unwrap_or_else(|MessageTooLarge { length, limit }| {
            let text =
                format!("a request message of {length} bytes is larger than max_request_message_bytes ({limit})");
            Some(Err(Status::resource_exhausted(text)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.scanner.too_large().is_none() && self.body.is_end_stream()
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
        let before = [message(3), message(0), message(4)].concat();
        let bytes = [&before[..], &message(5), &message(1)].concat();
        for size in 1..=bytes.len() {
            let mut scanner = MessageLimit::of(Some(4)).scanner().unwrap();
            let (mut admitted, mut found) = (Vec::new(), None);
            for chunk in bytes.chunks(size) {
                let mut data = Bytes::copy_from_slice(chunk);
                match scanner.admit(&mut data) {
                    Ok(()) => admitted.extend_from_slice(&data),
                    Err(too_large) => found = Some(too_large),
                }
                assert!(found.is_none() || scanner.too_large() == found);
            }
            assert_eq!(scanner.too_large(), Some(MessageTooLarge { length: 5, limit: 4 }), "{size}");
            assert!(admitted.starts_with(&before) && admitted.len() < before.len() + PREFIX_LEN, "{size}");
            let mut scanner = MessageLimit::of(Some(5)).scanner().unwrap();
            let admits = |chunk: &[u8]| {
                let mut data = Bytes::copy_from_slice(chunk);
                scanner.admit(&mut data).is_ok() && data == chunk
            };
            assert!(bytes.chunks(size).all(admits), "{size}");
        }
    }

    struct Frames(std::collections::VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    #[test]
    fn the_messages_of_a_request_before_one_that_is_too_large_are_sent() {
        let before = [message(3), message(4)].concat();
        let frames = [before.clone(), [message(1), message(5), message(1)].concat(), message(2)].map(Bytes::from);
        let mut body = MessageLimit::of(Some(4)).limit_request(tonic::body::Body::new(Frames(frames.into())));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut next = || match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => frame.map(|frame| frame.into_data().unwrap()).map_err(|status| status.code()),
            other => panic!("{other:?}"),
        };
        assert_eq!((next().unwrap(), next().unwrap()), (before.into(), message(1).into()));
        assert_eq!((next(), next()), (Err(tonic::Code::ResourceExhausted), Err(tonic::Code::ResourceExhausted)));
    }

    #[test]
    fn a_limit_beyond_what_a_prefix_can_say_is_none() {
        assert!(MessageLimit::of(None).scanner().is_none());
        assert!(MessageLimit::of(Some(usize::MAX)).scanner().is_none());
        assert!(MessageLimit::of(Some(0)).scanner().unwrap().admit(&mut message(1).into()).is_err());
    }
}
