//! The layer of a server: it keeps the route headers of each call while its handler runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use crate::balance::route::hops::context::RouteContext;
use crate::balance::route::hops::headers::RouteHeaders;

/// A layer for a server that keeps the route headers of each call as its [`RouteContext`], while the handler runs and while the body of
/// its response is read. Made by [`RouteHeaders::server_layer`].
///
/// The context of a call replaces any other one, also if the call has none of the headers: nothing of one call comes into
/// another. Its place among other layers does not matter, but layers outside of it make their own calls without the context.
#[derive(Clone, Debug)]
pub struct RouteServerLayer {
    headers: RouteHeaders,
}

impl RouteServerLayer {
    /// A layer that keeps these headers.
    pub fn new(headers: RouteHeaders) -> Self {
        Self { headers }
    }
}

impl<S> Layer<S> for RouteServerLayer {
    type Service = RouteServer<S>;

    fn layer(&self, inner: S) -> RouteServer<S> {
        RouteServer { inner, headers: self.headers.clone() }
    }
}

/// A service whose handlers have the route headers of their calls. Made by [`RouteServerLayer`].
#[derive(Clone, Debug)]
pub struct RouteServer<S> {
    inner: S,
    headers: RouteHeaders,
}

impl<S, B, R> Service<Request<B>> for RouteServer<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<RouteBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = self.headers.context(request.headers());
        let response = context.within(|| self.inner.call(request));
        let response = context.clone().around(response);
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| RouteBody { body: Box::pin(body), context }))
        })
    }
}

/// A response body that is read with the route headers of its call: a stream may make calls of its own. Made by [`RouteServer`].
#[derive(Debug)]
pub struct RouteBody<B> {
    body: Pin<Box<B>>,
    context: RouteContext,
}

impl<B: Body> Body for RouteBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.get_mut();
        this.context.within(|| this.body.as_mut().poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
