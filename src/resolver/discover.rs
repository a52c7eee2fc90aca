//! The change stream: what tower's balancers take, made from snapshots.

use std::collections::{BTreeSet, VecDeque};
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

/// Makes the endpoint of an address what the user wants it to be.
pub(super) type Configure = Arc<dyn Fn(&Address, Endpoint) -> Result<Endpoint, BoxError> + Send + Sync>;

/// How many changes may lie between us and tonic's balancer; it takes them all at each call.
const CAPACITY: usize = 1024;

/// The live servers of a service, as changes to a set: a stream of `tower::discover::Change` that any balancer takes.
///
/// Each server address is inserted when the first etcd key names it and removed when the last one is gone; it is inserted
/// a second time only when its endpoint differs, which is when it changes between `http` and `https`. In one
/// step of the service inserts come before removes; the one remove that may come among them is of a server whose new
/// endpoint cannot be made. A reader that sleeps skips to the latest state and misses no
/// server. Never fails: tower's `Balance` would end for good on an error. An address that cannot be made an endpoint,
/// as where the configuration fails or panics, is left out and reported as a `tracing` warning.
///
/// Ends only with the runtime that the resolver works on.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ChangeStream {
    updates: WatchStream<View>,
    servers: Servers,
    /// What the reader was told of and not told to remove.
    emitted: BTreeSet<ServerKey>,
    pending: VecDeque<Change<ServerKey, Address>>,
    configure: Option<Configure>,
    /// Keeps the watch going.
    _service: Arc<WatchedService>,
}

impl ChangeStream {
    pub(super) fn new(service: Arc<WatchedService>, configure: Option<Configure>) -> Self {
        let updates = WatchStream::new(service.view());
        Self {
            updates,
            servers: Servers::default(),
            emitted: BTreeSet::new(),
            pending: VecDeque::new(),
            configure,
            _service: service,
        }
    }

    /// The change for the reader, if there is one to be told.
    fn to_endpoint_change(&mut self, change: Change<ServerKey, Address>) -> Option<Change<ServerKey, Endpoint>> {
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
                // What an error of the user's says is the user's code, too.
                let error = catch(|| error.to_string()).unwrap_or_else(|panic| format!("its text panicked: {panic}"));
                tracing::warn!(%address, error, "server left out: its address cannot be made an endpoint");
                self.remove_emitted(key)
            }
        }
    }

    fn remove_emitted(&mut self, key: ServerKey) -> Option<Change<ServerKey, Endpoint>> {
        self.emitted.remove(&key).then_some(Change::Remove(key))
    }

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
                if let Some(change) = this.to_endpoint_change(change) {
                    return Poll::Ready(Some(Ok(change)));
                }
            }
            match ready!(Pin::new(&mut this.updates).poll_next(cx)) {
                Some(view) => this.pending.extend(this.servers.advance(&view.snapshot)),
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
    /// The servers as a stream of changes, beginning with those that are known now.
    pub fn discover(&self) -> ChangeStream {
        ChangeStream::new(self.service.clone(), self.configure.clone())
    }

    /// tonic's own balanced channel over the servers, for those who need the concrete `tonic::transport::Channel`;
    /// [`Resolution::channel`] is the recommended one.
    ///
    /// The channel keeps the resolution alive and ends with its last clone. It is tonic's, with tonic's ways: it picks at
    /// random, keeps a dead server in rotation until etcd drops it, and waits without end while the set is empty.
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

/// Feeds the channel for as long as anyone holds it.
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
