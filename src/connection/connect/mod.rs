//! From an address to a connection.
//!
//! [`Transport::connect`] takes these steps, within one deadline:
//! 1. ask for the present TLS settings ([`tls`]), if the [`destination`] is `https`;
//! 2. make a [`socket`], or call a [`connector`] of the user's;
//! 3. do the TLS handshake over it;
//! 4. do the HTTP/2 [`handshake`], which starts the connection's driver.
//!
//! Each step that takes too long is named in the error. [`panics`] keeps panics of the user's code
//! (a connector, a certificate verifier, a function that gives TLS settings) from ending the task
//! that connects.
//!
//! A connection is made for each attempt anew: names are resolved, files are checked, the user's
//! functions are called. Nothing here backs off or tries again; the supervisors of `balance` and
//! `etcd` do.

pub(super) mod connector;
pub(super) mod destination;
mod handshake;
pub(super) mod panics;
mod socket;
#[cfg(feature = "_tls")]
pub(super) mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::connection::capacity::CapacityListener;
use crate::connection::connect::connector::{Connector, Io};
use crate::connection::connect::destination::{Destination, PeerAddress};
use crate::connection::connect::socket::{connect_tcp, connect_unix};
#[cfg(feature = "_tls")]
use crate::connection::connect::tls::Tls;
use crate::connection::failure::Failure;
use crate::connection::handle::Connection;
use crate::connection::options::Options;

/// How connections are made. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Transport {
    /// In place of TCP and Unix sockets.
    pub(crate) connector: Option<Connector>,
    /// For `https` destinations.
    #[cfg(feature = "_tls")]
    pub(crate) tls: Option<Tls>,
}

impl Transport {
    /// Connects within the connect timeout, plus the settings timeout if there is one. Names are
    /// resolved each time.
    ///
    /// `capacity_listener` is told of streams that become available.
    ///
    /// # Errors
    /// [`FailureKind::NotSent`](crate::connection::FailureKind::NotSent). A timeout says which step
    /// was missing: a server that accepts and sends nothing is another fault than one that cannot
    /// be reached.
    ///
    /// # Cancel safety
    /// A dropped future closes what it has opened. A function of the user's that gives TLS settings
    /// may run on, on its own thread.
    pub(crate) async fn connect(
        &self,
        to: &Destination,
        options: &Options,
        capacity_listener: Arc<dyn CapacityListener>,
    ) -> Result<Connection, Failure> {
        // Before anything is reached: `https` must never be called in plain text.
        #[cfg(feature = "_tls")]
        let lacks_tls = to.secure && self.tls.is_none();
        #[cfg(not(feature = "_tls"))]
        let lacks_tls = to.secure;
        if lacks_tls {
            return Err(Failure::not_connected(NO_TLS));
        }
        let total = options.connect_timeout + options.settings_timeout.unwrap_or_default();
        let limits = ConnectLimits { deadline: Instant::now() + total, total };
        // Before the socket too: no server should wait for a handshake while files are read.
        #[cfg(feature = "_tls")]
        let tls = match &self.tls {
            Some(tls) if to.secure => Some(limits.step("no TLS settings", tls.client()).await?),
            _ => None,
        };
        let io = limits.step("no connection", self.open(to, options)).await?;
        #[cfg(feature = "_tls")]
        if let Some(tls) = tls {
            let io = limits.step("accepted, but no TLS handshake", tls.handshake(io, &to.address)).await?;
            return Connection::handshake(io, options, limits.settings(options), capacity_listener).await;
        }
        Connection::handshake(io, options, limits.settings(options), capacity_listener).await
    }

    /// Opens the stream of bytes to the server.
    async fn open(&self, to: &Destination, options: &Options) -> Result<Box<dyn Io>, String> {
        if let Some(connector) = &self.connector {
            return connector.connect(to.uri().map_err(|error| error.to_string())?).await;
        }
        match &to.address {
            PeerAddress::Tcp(host, port) => match connect_tcp(host, *port, options).await {
                Ok(socket) => Ok(Box::new(socket)),
                Err(error) => Err(error.to_string()),
            },
            PeerAddress::Unix(path) => match connect_unix(path).await {
                Ok(socket) => Ok(Box::new(socket)),
                Err(error) => Err(format!("{}: {error}", path.display())),
            },
        }
    }
}

/// The time for all steps of connecting.
#[derive(Clone, Copy)]
struct ConnectLimits {
    deadline: Instant,
    /// For error texts.
    total: Duration,
}

impl ConnectLimits {
    /// Runs one step. `missing` says what there is not, should the time end here.
    async fn step<V>(&self, missing: &str, step: impl Future<Output = Result<V, String>>) -> Result<V, Failure> {
        let done = timeout_at(self.deadline, step).await;
        let done = done.unwrap_or_else(|_| Err(format!("{missing} within {} ms", self.total.as_millis())));
        done.map_err(Failure::not_connected)
    }

    /// The time that remains for the server's SETTINGS.
    fn settings(&self, options: &Options) -> Duration {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        options.settings_timeout.map_or(remaining, |timeout| timeout.min(remaining))
    }
}

const NO_TLS: &str = "the server is written as https, and this channel has no TLS settings, so it is not called: \
                      set BalancedChannelBuilder::tls (feature \"tls-ring\" or \"tls-aws-lc\")";
