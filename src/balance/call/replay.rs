//! The body of a request, which keeps what was sent for a retry.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use crate::balance::method_config::message_limit::MessageLimit;
use crate::balance::metrics::MessageSizes;
use crate::connection::SentCounter;
use crate::panics::catch;

/// The kind of a retry. It decides how much of the body may have been sent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum RewindReason {
    /// No server has processed it. The size of the first frame does not matter: it costs nothing to keep, because h2 holds it
    /// until it is sent.
    NeverProcessed,
    /// The retry policy retries the call. No more than the limit was sent.
    Retry,
}

/// The body of a request that passes frames on and keeps them, up to a limit.
///
/// It first sends the kept frames from `next` on, and then reads on in `body`. Frames are kept in order and without gaps, or not
/// at all: once one is missing, the body cannot be rewound.
pub(crate) struct ReplayBody {
    body: tonic::body::Body,
    kept: KeptFrames,
    /// Index of the next kept frame to send. Behind the last one, `body` is read.
    next: u16,
    /// `body` has ended or failed.
    ended: bool,
    /// Bytes of all kept frames, and how many are kept at most. Short, because the future of a call has no room.
    size: u32,
    limit: u32,
    /// Finds messages in what is sent.
    messages: MessageSizes,
    /// Bytes of messages that were given out since the body has begun, or was begun anew. For metrics.
    sent: u64,
    /// Counts what is given out from now on, in place of `sent`.
    counter: Option<SentCounter>,
}

/// The frames that were sent. Most calls send one frame of data: it needs no list.
#[derive(Clone)]
enum KeptFrames {
    First(Option<Bytes>),
    Many(Vec<Bytes>),
    /// More than the limit was sent, or the call is not retried any more.
    Dropped,
}

impl KeptFrames {
    fn get(&self, index: u16) -> Option<&Bytes> {
        match self {
            Self::First(first) => first.as_ref().filter(|_| index == 0),
            Self::Many(list) => list.get(usize::from(index)),
            Self::Dropped => None,
        }
    }

    fn push(&mut self, data: Bytes) {
        match self {
            Self::First(first @ None) => *first = Some(data),
            Self::First(Some(first)) => *self = Self::Many(vec![std::mem::take(first), data]),
            Self::Many(list) => list.push(data),
            Self::Dropped => {}
        }
    }
}

impl ReplayBody {
    /// Wraps a body. `limit` is the number of bytes to keep, 4 GiB at most and in no more than 65,535 frames; the first
    /// frame is kept even if it is larger.
    pub(crate) fn new(body: tonic::body::Body, limit: usize) -> Self {
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        let (kept, messages) = (KeptFrames::First(None), MessageSizes::default());
        Self { body, kept, next: 0, size: 0, limit, ended: false, messages, sent: 0, counter: None }
    }

    /// The bytes of messages that were given out before a task has begun to send the body.
    #[inline]
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    #[inline]
    fn count(&mut self, data: &[u8]) {
        let count = self.messages.count(data);
        match &self.counter {
            None => self.sent += count,
            Some(counter) => counter.add(count),
        }
    }

    /// Limits the messages that are still to be read.
    pub(crate) fn limit_messages(&mut self, limit: MessageLimit) {
        let body = std::mem::replace(&mut self.body, tonic::body::Body::empty());
        self.body = limit.limit_request(body);
    }

    /// Starts again from the first frame.
    ///
    /// # Errors
    /// When more was sent than is kept.
    pub(crate) fn rewind(&mut self, reason: RewindReason) -> Result<(), ()> {
        (self.next, self.messages, self.sent) = (0, MessageSizes::default(), 0);
        let too_large = reason == RewindReason::Retry && self.size > self.limit;
        if too_large || matches!(self.kept, KeptFrames::Dropped) { Err(()) } else { Ok(()) }
    }

    /// Returns the same request once more, for an attempt beside this one. `None` if it was not read to its end yet, or if more
    /// was sent than is kept.
    pub(crate) fn copy(&self) -> Option<Self> {
        let is_kept = self.size <= self.limit && !matches!(self.kept, KeptFrames::Dropped);
        // The body is the user's, and may panic.
        let is_read = || self.ended || catch(|| self.body.is_end_stream()).unwrap_or(false);
        (is_kept && is_read()).then(|| Self {
            body: tonic::body::Body::empty(),
            kept: self.kept.clone(),
            next: 0,
            size: self.size,
            limit: self.limit,
            ended: true,
            messages: MessageSizes::default(),
            sent: 0,
            counter: None,
        })
    }

    /// Stops keeping frames: the response has begun while the request is still being sent, and the call is not retried. A task
    /// sends the rest, and `counter` counts it.
    pub(crate) fn commit(&mut self, counter: SentCounter) {
        self.counter = Some(counter);
        if self.kept.get(self.next).is_none() {
            self.kept = KeptFrames::Dropped;
        } else {
            self.limit = 0; // the frames that are still to be sent a second time are needed; no further one is kept
        }
    }
}

impl Body for ReplayBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(data) = this.kept.get(this.next).cloned() {
            this.next += 1;
            this.count(&data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref().inspect(|data| this.count(data)) {
                Some(data) if matches!(this.kept, KeptFrames::Dropped) || data.is_empty() => {}
                Some(data)
                    if this.size == 0
                        || this.size as usize + data.len() <= this.limit as usize && this.next < u16::MAX =>
                {
                    this.size = u32::try_from(this.size as usize + data.len()).unwrap_or(u32::MAX);
                    this.next += 1;
                    this.kept.push(data.clone());
                }
                // Beyond the limit, or trailers of a request, which gRPC does not have.
                _ => this.kept = KeptFrames::Dropped,
            },
            None | Some(Err(_)) => this.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.kept.get(self.next).is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Frames(Vec<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let next = (!self.0.is_empty()).then(|| self.0.remove(0));
            Poll::Ready(next.map(|data| Ok(Frame::data(data))))
        }
    }

    fn body(frames: &[&'static str], limit: usize) -> ReplayBody {
        let frames = frames.iter().map(|text| Bytes::from_static(text.as_bytes())).collect();
        ReplayBody::new(tonic::body::Body::new(Frames(frames)), limit)
    }

    fn read(body: &mut ReplayBody, most: usize) -> String {
        let mut text = String::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..most {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) else { break };
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        text
    }

    #[test]
    fn is_sent_again_from_any_point() {
        let mut body = body(&["a", "", "b", "c"], 3);
        for most in [0, 1, 2, 9, 3, 9] {
            let all = read(&mut body, most);
            assert!("abc".starts_with(&all));
            assert_eq!(body.rewind(RewindReason::Retry), Ok(()));
        }
        assert_eq!(read(&mut body, 9), "abc");
        assert!(body.is_end_stream());
    }

    #[test]
    fn nothing_is_lost_when_the_limit_is_passed() {
        let mut body = body(&["aa", "bb", "cc"], 3);
        assert_eq!(read(&mut body, 1), "aa");
        assert_eq!(body.rewind(RewindReason::Retry), Ok(()));
        assert_eq!(read(&mut body, 9), "aabbcc");
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Err(()));
    }

    #[test]
    fn one_large_frame_is_sent_again_where_no_server_has_processed_it() {
        let mut body = body(&["aaaa"], 3);
        assert_eq!(read(&mut body, 9), "aaaa");
        assert_eq!(body.rewind(RewindReason::Retry), Err(()));
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Ok(()));
        assert_eq!(read(&mut body, 9), "aaaa");
    }

    #[test]
    fn a_request_is_copied_once_it_was_read_and_is_kept() {
        let mut body = body(&["a", "b"], 2);
        read(&mut body, 2);
        assert!(body.copy().is_none(), "its end is not known");
        read(&mut body, 1);
        let mut copy = body.copy().unwrap();
        assert_eq!(read(&mut copy, 9), "ab");
        assert!(copy.is_end_stream());
        assert_eq!(copy.rewind(RewindReason::Retry), Ok(()));
        assert_eq!(read(&mut copy.copy().unwrap(), 9), "ab");
        let mut large = super::tests::body(&["aaa"], 2);
        read(&mut large, 9);
        assert!(large.copy().is_none(), "one large frame is kept only for a call that no server has processed");
    }

    #[test]
    fn a_body_that_is_committed_in_a_second_pass_still_sends_all() {
        let mut body = body(&["a", "b", "c"], 9);
        read(&mut body, 2);
        body.rewind(RewindReason::Retry).unwrap();
        assert_eq!(read(&mut body, 1), "a");
        body.commit(SentCounter::default());
        assert_eq!(read(&mut body, 9), "bc");
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Err(()));
    }
}
