//! What users can see of a running channel: its servers, and its state as a whole.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

use crate::address::Address;
use crate::balance::channel::BalancedChannel;
use crate::balance::config::ServiceConfigStatus;
use crate::balance::connectivity::{ChannelStatus, ConnectivityState};
use crate::balance::pool::select::Verdict;
use crate::balance::subchannel::{ServerState, ServerStatus, Subchannel};
use crate::error::Error;

/// A server of the channel, for users. The same one is listed until anything of it changes.
pub(crate) struct Listed {
    pub(crate) address: Address,
    /// `None` while the selection leaves it out.
    pub(crate) subchannel: Option<Arc<Subchannel>>,
    pub(crate) selection: ServerSelection,
    /// Since when it has no subchannel.
    pub(crate) idle_since: Instant,
}

/// What the selection has decided of a server.
#[derive(Clone)]
pub(crate) struct ServerSelection {
    pub(crate) verdict: Verdict,
    /// Its values of the route keys. `None`: it is one of the default servers.
    pub(crate) route: Option<Arc<str>>,
}

/// In words: `other zone, lane="blue", warming at 30 %`.
impl fmt::Debug for ServerSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict.reason)?;
        if let Some(route) = &self.route {
            write!(f, ", {route}")?;
        }
        if self.verdict.factor < 1.0 {
            write!(f, ", warming at {:.0} %", self.verdict.factor * 100.0)?;
        }
        Ok(())
    }
}

impl Listed {
    /// Whether both say the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let subchannels = [self, other].map(|listed| listed.subchannel.as_ref().map(Arc::as_ptr));
        subchannels[0] == subchannels[1]
            && self.address == other.address
            && self.selection.verdict == other.selection.verdict
            && self.selection.route == other.selection.route
            && self.idle_since == other.idle_since
    }

    fn idle(&self) -> ServerStatus {
        ServerStatus {
            address: self.address.clone(),
            state: ServerState::Idle,
            state_age: self.idle_since.elapsed(),
            connections: 0,
            in_flight: 0,
            latency: None,
            attempts: 0,
            failures: 0,
            hedges: 0,
            attempt_timeouts: 0,
            last_error: None,
            selection: self.selection.clone(),
        }
    }
}

impl BalancedChannel {
    /// Returns the present status of each server, in the order of their addresses. Draining servers are left out.
    ///
    /// The counters are read one after the other while calls go on, so they may differ by a few calls.
    ///
    /// ```
    /// # fn print(channel: &tonic_etcd::BalancedChannel) {
    /// for server in channel.servers() {
    ///     let (address, state, age) = (server.address(), server.state(), server.state_age());
    ///     println!("{address} {state:?} for {age:?}, {} calls in flight", server.in_flight());
    /// }
    /// # }
    /// ```
    pub fn servers(&self) -> Vec<ServerStatus> {
        let status = |listed: &Arc<Listed>| {
            let Some(subchannel) = &listed.subchannel else { return Some(listed.idle()) };
            let status = subchannel.status();
            let state = subchannel.server_state_of(&status)?;
            let (attempts, failures) = subchannel.attempts();
            let (connections, in_flight) = subchannel.connections();
            Some(ServerStatus {
                address: subchannel.address().clone(),
                state,
                state_age: status.since.elapsed(),
                connections,
                in_flight,
                latency: subchannel.cost.latency(),
                attempts,
                failures,
                hedges: subchannel.hedges.load(Ordering::Relaxed),
                attempt_timeouts: subchannel.attempt_timeouts.load(Ordering::Relaxed),
                last_error: status.last_error,
                selection: listed.selection.clone(),
            })
        };
        self.0.shared.servers.load().iter().filter_map(status).collect()
    }

    /// Returns the service config of the channel: the document in force, its source, and why the last one was refused, if it was.
    pub fn service_config(&self) -> ServiceConfigStatus {
        self.0.shared.config.status()
    }

    /// Returns the present state of the channel as a whole.
    pub fn state(&self) -> ConnectivityState {
        self.0.shared.channel_status.borrow().state
    }

    /// Returns a `tokio_stream::Stream` of the channel's state: the present one first, then each change.
    ///
    /// A reader that is slow skips to the latest state. The stream does not keep the channel alive: it ends after
    /// [`ConnectivityState::Shutdown`].
    pub fn states(&self) -> ConnectivityStates {
        ConnectivityStates { statuses: WatchStream::new(self.0.shared.channel_status.subscribe()), last: None }
    }

    /// Waits until a server is connected, for at most the time `within`.
    ///
    /// No call needs this: calls wait by themselves. It is for programs that do not want to start without a server.
    /// `tower::ServiceExt::ready` does not wait: the channel takes calls in every state.
    ///
    /// # Errors
    /// [`Error::is_timeout`] if the time is over. The source lists the servers' states, with the address of the server that
    /// failed last; the channel goes on connecting. [`Error::is_closed`] if the runtime of the channel has ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait_until_ready(&self, within: Duration) -> Result<(), Error> {
        let mut statuses = self.0.shared.channel_status.subscribe();
        let is_ready = |status: &ChannelStatus| status.state == ConnectivityState::Ready;
        match timeout(within, statuses.wait_for(is_ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Error::closed("the channel")),
            Err(_) => Err(Error::timeout_because("connecting", within, self.0.explain_unavailable())),
        }
    }
}

/// The stream of a channel's states that [`BalancedChannel::states`] returns.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ConnectivityStates {
    statuses: WatchStream<ChannelStatus>,
    /// The state that was returned last: most statuses differ in their counts only.
    last: Option<ConnectivityState>,
}

impl Stream for ConnectivityStates {
    type Item = ConnectivityState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConnectivityState>> {
        loop {
            let Some(status) = ready!(Pin::new(&mut self.statuses).poll_next(cx)) else { return Poll::Ready(None) };
            if self.last.replace(status.state) != Some(status.state) {
                return Poll::Ready(self.last);
            }
        }
    }
}

impl fmt::Debug for ConnectivityStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectivityStates").field("last", &self.last).finish_non_exhaustive()
    }
}
