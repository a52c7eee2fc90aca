//! The layer of a client: it puts the route headers of the call that a task works for on outgoing requests.

use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use crate::balance::route::hops::context::RouteContext;
use crate::balance::route::hops::headers::RouteHeaders;

/// A layer for a client that puts the route headers of the present [`RouteContext`] on each request that does not have
/// them. Made by [`RouteHeaders::client_layer`].
///
/// It reads the context in the task that makes the call. Layers that move calls to a task of their own, such as tower's
/// `buffer`, belong inside of it. A server and its clients may pass on different headers: those that both name are
/// sent.
#[derive(Clone, Debug)]
pub struct RouteClientLayer {
    headers: RouteHeaders,
}

impl RouteClientLayer {
    /// A layer that sends these headers.
    pub fn new(headers: RouteHeaders) -> Self {
        Self { headers }
    }
}

impl<S> Layer<S> for RouteClientLayer {
    type Service = RouteClient<S>;

    fn layer(&self, inner: S) -> RouteClient<S> {
        RouteClient { inner, headers: self.headers.clone() }
    }
}

/// A channel whose requests carry the route headers on. Made by [`RouteClientLayer`].
#[derive(Clone, Debug)]
pub struct RouteClient<S> {
    inner: S,
    headers: RouteHeaders,
}

impl<S, B> Service<Request<B>> for RouteClient<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let context = RouteContext::current();
        for name in self.headers.names() {
            if let Some(value) = context.value(name)
                && !request.headers().contains_key(name)
            {
                request.headers_mut().insert(name.clone(), value.clone());
            }
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{HeaderMap, HeaderValue};
    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn kept_headers_are_sent_where_the_request_has_none() {
        let of_server = RouteHeaders::new(["x-lane", "x-tenant", "x-inner"]).unwrap();
        let of_client = RouteHeaders::new(["x-lane", "x-tenant", "x-other"]).unwrap();
        let send = |own: Option<&'static str>| {
            let mut request = Request::new(());
            if let Some(own) = own {
                request.headers_mut().insert("x-lane", HeaderValue::from_static(own));
            }
            let echo = service_fn(|request: Request<()>| async move { Ok::<_, Infallible>(request.headers().clone()) });
            let service = of_client.client_layer().layer(echo);
            async move { service.oneshot(request).await.unwrap() }
        };
        let map = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
        };
        let context =
            of_server.context(&map(&[("x-lane", "blue"), ("x-tenant", "acme"), ("x-inner", "1"), ("x-other", "2")]));
        let with = |own| context.clone().scope(send(own));
        assert_eq!(with(None).await, map(&[("x-lane", "blue"), ("x-tenant", "acme")]));
        assert_eq!(with(Some("own")).await, map(&[("x-lane", "own"), ("x-tenant", "acme")]));
        assert_eq!(with(Some("")).await, map(&[("x-lane", ""), ("x-tenant", "acme")]), "an empty one is one's own too");
        assert_eq!(send(None).await, HeaderMap::new());
        assert_eq!(RouteContext::default().scope(send(None)).await, HeaderMap::new());
    }
}
