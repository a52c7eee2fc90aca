//! [`ChangeStream`]: changes for tower's balancers, made from snapshots; and tonic's own balanced
//! channel.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tower::discover::Change;

use crate::address::Address;
use crate::error::{BoxError, Error};
use crate::panics::catch;
use crate::resolver::servers::{ServerKey, Servers};
use crate::resolver::task::View;
use crate::resolver::{Resolution, WatchedService};

/// The user's function that configures the endpoint of an address.
pub(super) type Configure = Arc<dyn Fn(&Address, Endpoint) -> Result<Endpoint, BoxError> + Send + Sync>;

/// Changes that wait for tonic's balancer, which takes all of them at each call.
const CAPACITY: usize = 1024;

/// The servers of a service as a stream of `tower::discover::Change`, which any tower balancer
/// takes.
///
/// - A server address is inserted when the first etcd key names it, and removed when the last such
///   key is gone. A server is inserted again only if its endpoint differs, which means that it
///   changed between `http` and `https`.
/// - Within one change of the service, inserts come before removes, so that a set that is replaced
///   is never empty. The exception is the removal of a server whose new endpoint cannot be made: it
///   may come earlier.
/// - A slow reader gets the differences to the latest state at once, and misses no server.
/// - The stream never gives an error: tower's `Balance` would end for good. If no endpoint can be
///   made of an address, also because the configuration fails or panics, the address is left out
///   and logged at WARN.
///
/// The stream ends when the runtime of the watch ends.
///
/// # Cancel safety
/// Dropping a pending `next` loses no change.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ChangeStream {
    /// The views of the service.
    updates: WatchStream<View>,
    /// The servers of the last view.
    servers: Servers,
    /// The servers that the reader has: inserted and not removed. Never walked over.
    emitted: HashSet<ServerKey>,
    /// Changes that the reader has not taken.
    pending: VecDeque<Change<ServerKey, Address>>,
    /// The user's function.
    configure: Option<Configure>,
    /// Keeps the watch alive.
    _service: Arc<WatchedService>,
}

impl ChangeStream {
    /// A stream that starts with the present servers.
    pub(super) fn new(service: Arc<WatchedService>, configure: Option<Configure>) -> Self {
        let updates = WatchStream::new(service.view());
        Self {
            updates,
            servers: Servers::default(),
            emitted: HashSet::new(),
            pending: VecDeque::new(),
            configure,
            _service: service,
        }
    }

    /// The change for the reader; `None` if there is nothing to tell.
    fn endpoint_change(&mut self, change: Change<ServerKey, Address>) -> Option<Change<ServerKey, Endpoint>> {
        let (key, address) = match change {
            Change::Remove(key) => return self.remove_emitted(key),
            Change::Insert(key, address) => (key, address),
        };
        match self.endpoint(&address) {
            Ok(endpoint) => {
                self.emitted.insert(key.clone());
                Some(Change::Insert(key, endpoint))
            }
            Err(error) => {
                // The text of a user's error is the user's code too, and may panic.
                let error = catch(|| error.to_string()).unwrap_or_else(|panic| format!("its text panicked: {panic}"));
                tracing::warn!(%address, error, "server left out: its endpoint cannot be made");
                self.remove_emitted(key)
            }
        }
    }

    /// The remove of a server, if the reader has it.
    fn remove_emitted(&mut self, key: ServerKey) -> Option<Change<ServerKey, Endpoint>> {
        self.emitted.remove(&key).then_some(Change::Remove(key))
    }

    /// The endpoint of an address, configured by the user's function.
    ///
    /// # Errors
    /// When the address is `https` without a TLS feature, or the function fails or panics.
    fn endpoint(&self, address: &Address) -> Result<Endpoint, BoxError> {
        if address.is_secure() && cfg!(not(feature = "_tls")) {
            return Err("https needs tonic-etcd's feature \"tls-ring\" or \"tls-aws-lc\", and roots to trust".into());
        }
        let scheme = if address.is_secure() { "https" } else { "http" };
        let endpoint = match address.unix_path() {
            Some(path) => Endpoint::from_shared(format!("unix://{path}"))?,
            None => Endpoint::from_shared(format!("{scheme}://{}", address.authority()))?,
        };
        match &self.configure {
            Some(configure) => catch(|| configure(address, endpoint))
                .unwrap_or_else(|panic| Err(format!("the endpoint's configuration panicked: {panic}").into())),
            #[cfg(feature = "_tls")]
            None if address.is_secure() => {
                Ok(endpoint.tls_config(tonic::transport::ClientTlsConfig::new().with_enabled_roots())?)
            }
            None => Ok(endpoint),
        }
    }
}

impl Stream for ChangeStream {
    type Item = Result<Change<ServerKey, Endpoint>, Infallible>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            while let Some(change) = this.pending.pop_front() {
                if let Some(change) = this.endpoint_change(change) {
                    return Poll::Ready(Some(Ok(change)));
                }
            }
            match ready!(Pin::new(&mut this.updates).poll_next(cx)) {
                Some(view) => this.pending.extend(this.servers.advance(view.for_balancers)),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl std::fmt::Debug for ChangeStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangeStream").finish_non_exhaustive()
    }
}

impl Resolution {
    /// The servers as a stream of changes, starting with those that are known now. A server that etcd no
    /// longer lists is removed at once, also if its loss is doubtful:
    /// [`MassLoss::delay_removals`](crate::MassLoss::delay_removals) can delay that.
    pub fn discover(&self) -> ChangeStream {
        ChangeStream::new(self.service.clone(), self.configure.clone())
    }

    /// tonic's own balanced channel over the servers, for those who need the concrete
    /// `tonic::transport::Channel`. [`Resolution::channel`] is recommended.
    ///
    /// The channel keeps the resolution alive until its last clone is dropped. It is not a
    /// [`BalancedChannel`](crate::BalancedChannel): it picks at random, keeps a dead server until
    /// etcd drops the server, and lets calls wait without limit while there is no server.
    ///
    /// # Errors
    /// Outside a tokio runtime.
    pub fn balance_channel(&self) -> Result<Channel, Error> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| Error::no_runtime("a balanced channel"))?;
        let (channel, changes) = Channel::balance_channel(CAPACITY);
        runtime.spawn(feed(self.discover(), changes));
        Ok(channel)
    }
}

type Changes = tokio::sync::mpsc::Sender<tonic::transport::channel::Change<ServerKey, Endpoint>>;

/// Feeds the channel while anyone holds it.
async fn feed(mut discover: ChangeStream, changes: Changes) {
    loop {
        let change = tokio::select! {
            () = changes.closed() => return,
            change = discover.next() => change,
        };
        let change = match change {
            Some(Ok(Change::Insert(key, endpoint))) => tonic::transport::channel::Change::Insert(key, endpoint),
            Some(Ok(Change::Remove(key))) => tonic::transport::channel::Change::Remove(key),
            None => return,
        };
        if changes.send(change).await.is_err() {
            return;
        }
    }
}
