//! [`RouteContext`]: the headers of the call that a task works for.

use std::future::Future;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static CONTEXT: RouteContext;
}

/// The route headers of the incoming call that a task works for.
///
/// The layer of a server ([`RouteHeaders::server_layer`](crate::RouteHeaders::server_layer)) keeps them while a handler
/// runs and, if its response is a stream, while that is read: everything that the handler awaits itself has them,
/// `join!` and `select!` included.
///
/// **`tokio::spawn` loses them**, as every task-local, and so do `JoinSet`, `spawn_blocking`, and tasks of one's own
/// that are sent messages. Calls that are made there go out without the headers: to the default servers. Take the
/// context along:
///
/// ```
/// # use greeter_proto::{HelloRequest, greeter_client::GreeterClient};
/// # use tonic_etcd::{BalancedChannel, RouteClient, RouteContext};
/// # async fn handler(mut greeter: GreeterClient<RouteClient<BalancedChannel>>) {
/// let later = async move { greeter.say_hello(HelloRequest { name: "later".into() }).await };
/// tokio::spawn(RouteContext::current().scope(later)); // `current` is called here, in the handler's task
/// # }
/// ```
///
/// Cheap to clone. `Debug` shows the names and not the values.
#[derive(Clone, Default)]
pub struct RouteContext {
    /// `None` for no header, which costs no allocation.
    headers: Option<Arc<[(HeaderName, HeaderValue)]>>,
}

impl RouteContext {
    /// Returns the context of the present task; an empty one outside of a handler.
    pub fn current() -> Self {
        CONTEXT.try_with(Self::clone).unwrap_or_default()
    }

    /// Runs a future with this context in place of the one that it is awaited in. An empty context makes calls without
    /// route headers.
    ///
    /// # Cancel safety
    /// As that of the future. It is dropped with this context too.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> + use<F> {
        self.around(future)
    }

    /// Whether there are no headers.
    pub fn is_empty(&self) -> bool {
        self.headers.is_none()
    }

    pub(super) fn of(headers: impl Iterator<Item = (HeaderName, HeaderValue)>) -> Self {
        let mut headers = headers.peekable();
        if headers.peek().is_none() {
            return Self::default();
        }
        Self { headers: Some(headers.collect()) }
    }

    /// [`RouteContext::scope`], as a type with a name.
    pub(super) fn around<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        CONTEXT.scope(self, future)
    }

    /// Runs a function with this context.
    pub(super) fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        CONTEXT.sync_scope(self.clone(), run)
    }

    /// The value of a header.
    pub(super) fn value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.iter().flat_map(|headers| headers.iter()).find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

impl std::fmt::Debug for RouteContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.headers.iter().flat_map(|headers| headers.iter()).map(|(name, _)| name);
        f.debug_set().entries(names).finish()
    }
}
