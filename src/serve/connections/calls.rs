//! The layer that counts calls around the router: over TLS the bytes of a connection do not show
//! them.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

/// The two addresses of a TCP connection. They identify it: no two open connections have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SocketPair {
    /// The server's end.
    local: SocketAddr,
    /// The client's end.
    remote: SocketAddr,
}

impl SocketPair {
    /// The pair, if tonic knows both addresses.
    pub(super) fn of(info: &TcpConnectInfo) -> Option<Self> {
        Some(Self { local: info.local_addr?, remote: info.remote_addr? })
    }
}

/// A layer that counts each call of a server, from the end of its request headers to the end of its
/// response body. Made by [`Serve::count_calls`](crate::serve::Serve::count_calls), for the router
/// of that `Serve` only.
#[derive(Clone, Debug)]
pub struct CountCallsLayer {
    counter: Arc<CallCounter>,
}

/// The calls in flight of one server, if the layer is used.
#[derive(Debug, Default)]
pub(crate) struct CallCounter {
    /// The layer was made, so new connections are counted.
    used: AtomicBool,
    /// The open TCP connections whose calls are counted.
    connections: Mutex<HashMap<SocketPair, Arc<CallCount>>>,
    /// The calls of connections that do not tell their addresses.
    others: Arc<CallCount>,
}

/// The calls in flight of one connection, and how many calls have begun or ended.
#[derive(Debug, Default)]
pub(super) struct CallCount {
    /// The calls in flight.
    in_flight: AtomicUsize,
    /// Shows that something has happened between two looks, also if the number is the same again.
    changes: AtomicUsize,
}

impl CallCount {
    /// The calls in flight now.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// How many calls have begun or ended since the connection was accepted.
    pub(super) fn changes(&self) -> usize {
        self.changes.load(Ordering::Acquire)
    }

    /// Sets the calls in flight, for connections whose bytes tell.
    pub(super) fn set(&self, in_flight: usize) {
        if self.in_flight.swap(in_flight, Ordering::AcqRel) != in_flight {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Counts a call until the guard is dropped.
    fn begin(self: &Arc<Self>) -> CallGuard {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        CallGuard(self.clone())
    }
}

/// Counts a call as in flight until it is dropped.
pub(super) struct CallGuard(Arc<CallCount>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl CallCounter {
    /// Makes the layer. From here on new connections are counted, so it must be made before the
    /// server accepts.
    pub(crate) fn layer(self: &Arc<Self>) -> CountCallsLayer {
        self.used.store(true, Ordering::Release);
        CountCallsLayer { counter: self.clone() }
    }

    /// Whether the layer was made.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire)
    }

    /// Begins to count the calls of a new connection.
    pub(super) fn add_connection(self: &Arc<Self>, pair: Option<SocketPair>) -> CountedConnection {
        let count = pair.map_or_else(
            || self.others.clone(),
            |pair| {
                let count = Arc::new(CallCount::default());
                self.connections().insert(pair, count.clone());
                count
            },
        );
        CountedConnection { counter: self.clone(), pair, count }
    }

    /// Counts a call of the connection with these addresses, or of the others if it is not known.
    pub(super) fn begin(&self, pair: Option<SocketPair>) -> CallGuard {
        let count = pair.and_then(|pair| self.connections().get(&pair).cloned());
        count.as_ref().unwrap_or(&self.others).begin()
    }

    /// Locks the map for a moment.
    fn connections(&self) -> MutexGuard<'_, HashMap<SocketPair, Arc<CallCount>>> {
        // Nothing panics while it is held.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose calls are counted until it is dropped.
pub(super) struct CountedConnection {
    counter: Arc<CallCounter>,
    pair: Option<SocketPair>,
    count: Arc<CallCount>,
}

impl CountedConnection {
    /// The counter of its calls.
    pub(super) fn count(&self) -> &Arc<CallCount> {
        &self.count
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let Some(pair) = self.pair else { return };
        let mut connections = self.counter.connections();
        // A new connection may have the same addresses by now: hyper drops the socket after the system has closed it.
        if connections.get(&pair).is_some_and(|count| Arc::ptr_eq(count, &self.count)) {
            connections.remove(&pair);
        }
    }
}

impl<S> Layer<S> for CountCallsLayer {
    type Service = CountCalls<S>;

    fn layer(&self, inner: S) -> CountCalls<S> {
        CountCalls { inner, counter: self.counter.clone() }
    }
}

/// A service whose calls are counted. Made by [`CountCallsLayer`].
#[derive(Clone, Debug)]
pub struct CountCalls<S> {
    inner: S,
    counter: Arc<CallCounter>,
}

impl<S, B, R> Service<Request<B>> for CountCalls<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<CountedBody<R>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let guard = self.counter.begin(request.extensions().get().and_then(SocketPair::of));
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| CountedBody { body: Box::pin(body), _guard: guard }))
        })
    }
}

/// A response body. Its call is in flight until it is dropped.
pub struct CountedBody<B> {
    body: Pin<Box<B>>,
    _guard: CallGuard,
}

impl<B: Body> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
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

    use tower::{ServiceExt, service_fn};

    use super::*;

    fn request(pair: Option<SocketPair>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(SocketPair { local, remote }) = pair {
            let info = TcpConnectInfo { local_addr: Some(local), remote_addr: Some(remote) };
            request.extensions_mut().insert(info);
        }
        request
    }

    /// F23: a call belongs to its connection until its answer's body is gone.
    #[tokio::test]
    async fn calls_are_counted_where_they_belong() {
        let calls = Arc::<CallCounter>::default();
        assert!(!calls.is_used());
        let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(tonic::body::Body::empty())) });
        let service = calls.layer().layer(answer);
        assert!(calls.is_used());
        let at = |port| SocketPair { local: ([127, 0, 0, 1], 1).into(), remote: ([127, 0, 0, 1], port).into() };
        let (one, other, unknown) =
            (calls.add_connection(Some(at(2))), calls.add_connection(Some(at(3))), calls.add_connection(None));
        let counts = || [one.count().in_flight(), other.count().in_flight(), unknown.count().in_flight()];
        let answers = [
            service.clone().oneshot(request(Some(at(2)))).await.unwrap(),
            service.clone().oneshot(request(Some(at(2)))).await.unwrap(),
            service.clone().oneshot(request(None)).await.unwrap(),
            service.clone().oneshot(request(Some(at(4)))).await.unwrap(),
        ];
        assert_eq!(counts(), [2, 0, 2]);
        let before = one.count().changes();
        drop(answers);
        assert_eq!(counts(), [0, 0, 0]);
        assert_eq!(one.count().changes(), before + 2);
        // One that is dropped before it is answered.
        drop(service.oneshot(request(Some(at(3)))));
        assert_eq!(counts(), [0, 0, 0]);
        let again = calls.add_connection(Some(at(2)));
        drop(one);
        drop(calls.begin(Some(at(2))));
        assert_eq!(again.count().changes(), 2, "the new one stands");
        drop((again, other));
        assert!(calls.connections().is_empty());
    }
}
