//! A request's body on its way out, which remembers what has left so that it can be sent once more.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

/// Why a body is to be sent once more.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum RewindReason {
    /// Then its first frame is there whatever its size: h2 holds it as long.
    NeverProcessed,
    Declared,
}

/// Keeps what was read of a body, up to a limit, and can begin again from there.
pub(crate) struct Replay<B> {
    body: B,
    /// What has left, in order.
    kept: Kept,
    /// The next of it to leave again.
    next: usize,
    size: usize,
    limit: usize,
    ended: bool,
}

/// Most calls send one frame of data: it needs no list.
enum Kept {
    First(Option<Bytes>),
    Many(Vec<Bytes>),
    /// More than may be kept has left, or nobody would ask again.
    Gone,
}

impl Kept {
    fn get(&self, index: usize) -> Option<&Bytes> {
        match self {
            Self::First(first) => first.as_ref().filter(|_| index == 0),
            Self::Many(list) => list.get(index),
            Self::Gone => None,
        }
    }

    fn push(&mut self, data: Bytes) {
        match self {
            Self::First(first @ None) => *first = Some(data),
            Self::First(Some(first)) => *self = Self::Many(vec![std::mem::take(first), data]),
            Self::Many(list) => list.push(data),
            Self::Gone => {}
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Replay<B> {
    pub(crate) fn new(body: B, limit: usize) -> Self {
        Self { body, kept: Kept::First(None), next: 0, size: 0, limit, ended: false }
    }

    /// Lets it begin again.
    ///
    /// # Errors
    /// When that is impossible, because more has left than was kept.
    pub(crate) fn rewind(&mut self, why: RewindReason) -> Result<(), ()> {
        self.next = 0;
        let too_much = why == RewindReason::Declared && self.size > self.limit;
        if too_much || matches!(self.kept, Kept::Gone) { Err(()) } else { Ok(()) }
    }

    /// Nobody will ask for it again.
    pub(crate) fn commit(&mut self) {
        if self.kept.get(self.next).is_none() {
            self.kept = Kept::Gone;
        } else {
            self.limit = 0; // what is still to leave again is needed; nothing more is
        }
    }
}

impl<B: Body<Data = Bytes, Error = Status> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(data) = this.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(data) if matches!(this.kept, Kept::Gone) || data.is_empty() => {}
                Some(data) if this.size == 0 || this.size + data.len() <= this.limit => {
                    this.size += data.len();
                    this.next += 1;
                    this.kept.push(data.clone());
                }
                // Too much, or trailers, which no gRPC client sends.
                _ => this.kept = Kept::Gone,
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

    fn body(frames: &[&'static str], limit: usize) -> Replay<Frames> {
        Replay::new(Frames(frames.iter().map(|text| Bytes::from_static(text.as_bytes())).collect()), limit)
    }

    fn read(body: &mut Replay<Frames>, most: usize) -> String {
        let mut text = String::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..most {
            let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *body).poll_frame(&mut cx) else { break };
            text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
        text
    }

    #[test]
    fn begins_again_from_any_point() {
        let mut body = body(&["a", "", "b", "c"], 3);
        for most in [0, 1, 2, 9, 3, 9] {
            let all = read(&mut body, most);
            assert!("abc".starts_with(&all));
            assert_eq!(body.rewind(RewindReason::Declared), Ok(()));
        }
        assert_eq!(read(&mut body, 9), "abc");
        assert!(body.is_end_stream());
    }

    #[test]
    fn nothing_is_lost_when_the_limit_is_passed() {
        let mut body = body(&["aa", "bb", "cc"], 3);
        assert_eq!(read(&mut body, 1), "aa");
        assert_eq!(body.rewind(RewindReason::Declared), Ok(()));
        assert_eq!(read(&mut body, 9), "aabbcc");
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Err(()));
    }

    #[test]
    fn one_large_frame_is_sent_again_where_nobody_has_processed_it() {
        let mut body = body(&["aaaa"], 3);
        assert_eq!(read(&mut body, 9), "aaaa");
        assert_eq!(body.rewind(RewindReason::Declared), Err(()));
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Ok(()));
        assert_eq!(read(&mut body, 9), "aaaa");
    }

    #[test]
    fn committed_in_the_middle_of_a_second_time_it_still_sends_all() {
        let mut body = body(&["a", "b", "c"], 9);
        read(&mut body, 2);
        body.rewind(RewindReason::Declared).unwrap();
        assert_eq!(read(&mut body, 1), "a");
        body.commit();
        assert_eq!(read(&mut body, 9), "bc");
        assert_eq!(body.rewind(RewindReason::NeverProcessed), Err(()));
    }
}
