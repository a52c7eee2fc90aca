//! Seeing inside a channel: its servers, and how it is as a whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::error::Error;

use crate::balance::BalancedChannel;
use crate::balance::connectivity::{ChannelStatus, Connectivity};
use crate::balance::subchannel::supervisor::Link;
use crate::balance::subchannel::{LinkState, Server, ServerState, ServerStatus};

impl BalancedChannel {
    /// Each server as it is now, in the order of their addresses.
    pub fn servers(&self) -> Vec<ServerStatus> {
        let inner = &self.0.inner;
        let lanes = inner.lanes.load();
        let status = |(server, connected): &(Arc<Server>, Arc<Link>)| {
            let link = server.link();
            let state = match link.state {
                LinkState::Connecting => ServerState::Connecting,
                LinkState::Failing => ServerState::TransientFailure,
                LinkState::Ready if server.is_ejected() => ServerState::Ejected,
                LinkState::Ready => ServerState::Ready,
            };
            let in_flight = connected.in_flight();
            let (calls, failures) = server.counted();
            ServerStatus {
                address: server.address().clone(),
                state,
                since: link.since,
                in_flight,
                latency: server.cost.average(),
                calls,
                failures,
                last_error: link.error,
            }
        };
        lanes.iter().map(status).collect()
    }

    /// Waits until a server is connected. (`tower::ServiceExt::ready` returns at once: it asks whether the channel takes a call,
    /// and it always does.)
    ///
    /// # Errors
    /// When that takes longer than `within`: the error says how the servers are, with their addresses. The channel goes on all the
    /// same.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub async fn wait_until_ready(&self, within: Duration) -> Result<(), Error> {
        let mut outlook = self.0.inner.outlook.subscribe();
        let ready = |outlook: &ChannelStatus| outlook.connectivity == Connectivity::Ready;
        match timeout(within, outlook.wait_for(ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::closed("the channel")),
            Err(_) => Err(Error::timeout_because("connecting", within, self.0.inner.explain())),
        }
    }

    /// A `tokio_stream::Stream` of how the channel is as a whole, now and with each change. Whoever is slow to read it gets the
    /// latest. It does not keep the channel alive: after [`Connectivity::Shutdown`] it ends.
    pub fn connectivity(&self) -> ConnectivityStream {
        ConnectivityStream { updates: WatchStream::new(self.0.inner.outlook.subscribe()), last: None }
    }
}

/// The changes of [`Connectivity`], beginning with what it is now.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ConnectivityStream {
    updates: WatchStream<ChannelStatus>,
    last: Option<Connectivity>,
}

impl Stream for ConnectivityStream {
    type Item = Connectivity;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Connectivity>> {
        loop {
            let Some(outlook) = ready!(Pin::new(&mut self.updates).poll_next(cx)) else { return Poll::Ready(None) };
            if self.last.replace(outlook.connectivity) != Some(outlook.connectivity) {
                return Poll::Ready(self.last);
            }
        }
    }
}

impl std::fmt::Debug for ConnectivityStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectivityStream").field("last", &self.last).finish_non_exhaustive()
    }
}
