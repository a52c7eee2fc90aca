//! Calls, counted around the router: what the bytes of TLS do not tell.

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

/// The two ends of a TCP connection: no two that are open have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Pair {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Pair {
    pub(crate) fn of(info: &TcpConnectInfo) -> Option<Self> {
        Some(Self { local: info.local_addr?, remote: info.remote_addr? })
    }
}

/// A layer that tells [`Serve`](crate::serve::Serve) of each call, from its head to the end of its answer: made by
/// [`Serve::count_calls`](crate::serve::Serve::count_calls).
#[derive(Clone, Debug)]
pub struct CountCalls {
    calls: Arc<Calls>,
}

/// The calls in flight, where they are counted.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    counted: AtomicBool,
    connections: Mutex<HashMap<Pair, Arc<Count>>>,
    /// Those of connections whose ends are not known.
    others: Arc<Count>,
}

/// Calls in flight, and how many have begun or ended.
#[derive(Debug, Default)]
pub(crate) struct Count {
    now: AtomicUsize,
    changes: AtomicUsize,
}

impl Count {
    pub(crate) fn now(&self) -> usize {
        self.now.load(Ordering::Acquire)
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, now: usize) {
        if self.now.swap(now, Ordering::AcqRel) != now {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn begin(self: &Arc<Self>) -> InFlight {
        self.now.fetch_add(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }
}

/// A call in flight, until it is dropped.
pub(crate) struct InFlight(Arc<Count>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::AcqRel);
        self.0.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Calls {
    pub(crate) fn layer(self: &Arc<Self>) -> CountCalls {
        self.counted.store(true, Ordering::Release);
        CountCalls { calls: self.clone() }
    }

    /// Whether they are counted.
    pub(crate) fn are_counted(&self) -> bool {
        self.counted.load(Ordering::Acquire)
    }

    /// Where the calls of a new connection are counted.
    pub(crate) fn connect(self: &Arc<Self>, pair: Option<Pair>) -> Connected {
        let count = pair.map_or_else(
            || self.others.clone(),
            |pair| {
                let count = Arc::new(Count::default());
                self.connections().insert(pair, count.clone());
                count
            },
        );
        Connected { calls: self.clone(), pair, count }
    }

    pub(crate) fn begin(&self, pair: Option<Pair>) -> InFlight {
        let count = pair.and_then(|pair| self.connections().get(&pair).cloned());
        count.as_ref().unwrap_or(&self.others).begin()
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<Pair, Arc<Count>>> {
        // Nothing panics while it is held.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose calls are counted, until it is dropped.
pub(crate) struct Connected {
    calls: Arc<Calls>,
    pair: Option<Pair>,
    count: Arc<Count>,
}

impl Connected {
    pub(crate) fn count(&self) -> &Arc<Count> {
        &self.count
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let Some(pair) = self.pair else { return };
        let mut connections = self.calls.connections();
        // The ends may have been taken by a new connection meanwhile.
        if connections.get(&pair).is_some_and(|count| Arc::ptr_eq(count, &self.count)) {
            connections.remove(&pair);
        }
    }
}

impl<S> Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.calls.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: Arc<Calls>,
}

impl<S, B, R> Service<Request<B>> for Counted<S>
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
        let in_flight = self.calls.begin(request.extensions().get().and_then(Pair::of));
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| CountedBody { body: Box::pin(body), _in_flight: in_flight }))
        })
    }
}

/// An answer's body; its call ends with it.
pub struct CountedBody<B> {
    body: Pin<Box<B>>,
    _in_flight: InFlight,
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

    fn request(pair: Option<Pair>) -> Request<()> {
        let mut request = Request::new(());
        if let Some(Pair { local, remote }) = pair {
            let info = TcpConnectInfo { local_addr: Some(local), remote_addr: Some(remote) };
            request.extensions_mut().insert(info);
        }
        request
    }

    /// F23: a call belongs to its connection until its answer's body is gone.
    #[tokio::test]
    async fn calls_are_counted_where_they_belong() {
        let calls = Arc::<Calls>::default();
        assert!(!calls.are_counted());
        let answer = service_fn(|_| async { Ok::<_, Infallible>(Response::new(tonic::body::Body::empty())) });
        let service = calls.layer().layer(answer);
        assert!(calls.are_counted());
        let at = |port| Pair { local: ([127, 0, 0, 1], 1).into(), remote: ([127, 0, 0, 1], port).into() };
        let (one, other, unknown) = (calls.connect(Some(at(2))), calls.connect(Some(at(3))), calls.connect(None));
        let counts = || [one.count().now(), other.count().now(), unknown.count().now()];
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
        let again = calls.connect(Some(at(2)));
        drop(one);
        drop(calls.begin(Some(at(2))));
        assert_eq!(again.count().changes(), 2, "the new one stands");
        drop((again, other));
        assert!(calls.connections().is_empty());
    }
}
