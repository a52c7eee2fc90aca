//! A response that is held back until its status is known, so that its call can still be retried.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use tonic::Code;

use crate::balance::call::replay::ReplayBody;
use crate::balance::call::response_body::{BodyError, ReadAhead, ResponseBody};
use crate::balance::call::retry::Pushback;
use crate::balance::pool::ready::ReadySubchannel;

/// How many bytes of a response are held back at most until its status has come. It is the default limit of a message in gRPC.
const MAX_BUFFERED: usize = 4 << 20;

/// What the end of a response says.
pub(super) type ReadStatus = Result<(Code, Pushback), BodyError>;

/// A response that has begun, with what its call needs to go on after it.
pub(super) struct HeldBack {
    pub(super) response: Response<ResponseBody>,
    /// For another attempt.
    pub(super) request: Option<ReplayBody>,
    pub(super) server: Arc<ReadySubchannel>,
    ahead: ReadAhead,
}

impl HeldBack {
    pub(super) fn new(
        response: Response<ResponseBody>,
        request: Option<ReplayBody>,
        server: Arc<ReadySubchannel>,
    ) -> Self {
        Self { response, request, server, ahead: ReadAhead::default() }
    }

    /// Reads the response until its status is known, or until it has to be passed on, which is as OK. Most responses are there as
    /// a whole when their head is.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ReadStatus> {
        let body = self.response.body_mut();
        Poll::Ready(match ready!(body.poll_ahead(&mut self.ahead, MAX_BUFFERED, cx)) {
            Ok(()) => {
                let code = body.code().unwrap_or(Code::Ok);
                let trailers = if code == Code::Ok { None } else { body.read_trailers() };
                Ok((code, trailers.map_or(Pushback::None, Pushback::from_headers)))
            }
            Err(error) => Err(error),
        })
    }
}
