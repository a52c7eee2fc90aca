//! The layer of a server: it keeps the route headers of each call while its handler runs.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service};

use crate::balance::route::hops::context::RouteContext;
use crate::balance::route::hops::headers::RouteHeaders;

/// A layer for a server that keeps the route headers of each call as its [`RouteContext`], while the handler runs and
/// while the body of its response is read. Made by [`RouteHeaders::server_layer`].
///
/// The context of a call replaces any other one, also if the call has none of the headers: nothing of one call comes
/// into another. Its place among other layers does not matter, but layers outside of it make their own calls without
/// the context.
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

/// A response body that is read with the route headers of its call: a stream may make calls of its own. Made by
/// [`RouteServer`].
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;

    use http::{HeaderName, HeaderValue};
    use tower::{ServiceExt, service_fn};

    use super::*;

    const LANE: HeaderName = HeaderName::from_static("x-lane");

    /// The lane of the present context.
    fn lane() -> Option<HeaderValue> {
        RouteContext::current().value(&LANE).cloned()
    }

    /// A stream of lanes: of the context in which it is read.
    struct Lanes;

    impl Body for Lanes {
        type Data = std::collections::VecDeque<u8>;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
            let lane = lane().map(|lane| lane.as_bytes().to_vec());
            Poll::Ready(Some(Ok(Frame::data(lane.unwrap_or_default().into()))))
        }
    }

    /// The call itself, the handler's future and its body have the context of their call, and nothing of one that is
    /// around them.
    #[tokio::test]
    async fn handler_and_body_have_the_context_of_their_call() {
        let headers = RouteHeaders::new(["x-lane"]).unwrap();
        let handler = service_fn(|_: Request<()>| {
            let at_call = lane();
            async move {
                tokio::task::yield_now().await;
                assert_eq!(lane(), at_call);
                Ok::<_, Infallible>(Response::builder().extension(at_call).body(Lanes).unwrap())
            }
        });
        let call = |lane: Option<&'static str>| {
            let mut request = Request::new(());
            if let Some(lane) = lane {
                request.headers_mut().insert(LANE, HeaderValue::from_static(lane));
            }
            headers.server_layer().layer(handler).oneshot(request)
        };
        let around = headers.context(&[(LANE, HeaderValue::from_static("outer"))].into_iter().collect());
        let around_again = around.clone();
        around
            .scope(async move {
                let (mut blue, mut none) = (call(Some("blue")).await.unwrap(), call(None).await.unwrap());
                assert_eq!(blue.extensions().get(), Some(&Some(HeaderValue::from_static("blue"))));
                assert_eq!(none.extensions().get(), Some(&None::<HeaderValue>));
                for (response, expected) in [(&mut blue, &b"blue"[..]), (&mut none, b"")] {
                    let frame = poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await;
                    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), expected);
                }
                assert_eq!(lane().unwrap(), "outer");
                // An empty context hides the one around it.
                assert_eq!(RouteContext::default().scope(async { lane() }).await, None);
                assert_eq!(lane().unwrap(), "outer");
                // What a task loses, and what it takes along.
                let (lost, carried) = (tokio::spawn(async { lane() }), around_again.scope(async { lane() }));
                assert_eq!(
                    (lost.await.unwrap(), tokio::spawn(carried).await.unwrap().unwrap()),
                    (None, "outer".parse().unwrap())
                );
            })
            .await;
        assert_eq!(lane(), None);
    }
}
