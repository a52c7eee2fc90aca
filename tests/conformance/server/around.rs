//! What lies around the test service because generated code does not reach it: the compressed flags of requests, trailers of
//! calls that succeed, and when a call has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::codegen::{BoxFuture, Bytes};

use super::{Open, Tested};
use crate::cases::Flags;

const INITIAL: &str = "x-grpc-test-echo-initial";
const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

#[derive(Clone)]
pub(crate) struct Around<S> {
    service: S,
    server: Tested,
}

impl<S> Around<S> {
    pub(crate) fn new(service: S, server: Tested) -> Self {
        Self { service, server }
    }
}

impl<S> tower::Service<Request<Body>> for Around<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let open = self.server.enter();
        let (mut head, body) = request.into_parts();
        let (body, flags) = Flags::watch(body);
        head.extensions.insert(flags);
        let (initial, trailing) = (head.headers.get(INITIAL).cloned(), head.headers.get(TRAILING).cloned());
        let answer = self.service.call(Request::from_parts(head, body));
        Box::pin(async move {
            let (mut head, body) = answer.await?.into_parts();
            if let Some(initial) = initial {
                head.headers.insert(INITIAL, initial);
            }
            Ok(Response::from_parts(head, Body::new(Ending { body, trailing, _open: open })))
        })
    }
}

/// The body of an answer, with what is to be added to its trailers. The call is over when it is dropped.
struct Ending {
    body: Body,
    trailing: Option<HeaderValue>,
    _open: Open,
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some(trailing) = self.trailing.take()
        {
            trailers.insert(TRAILING, trailing);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
