//! Health checks of a server by this side (gRFC A17): whether it says that it serves.
//!
//! - `machine.rs`: what follows from the answers (a pure machine).
//! - `protocol.rs`: `Watch` of `grpc.health.v1.Health`, over a stream that counts nowhere.
//! - `check.rs`: the check of one connection, which the supervisor of its server polls.
//! - `log.rs`: how much of that is logged, and how loud.
//! - `mod.rs`: the service that is asked for, and the supervisor of a server with one connection.
//!
//! The health of a connection is a part of the state of its server: [`SubchannelState::Ready`] has the healthy connections alone,
//! so that neither the pool nor calls know of checks. The stream ends with the supervisor, and when the connection drains.

mod check;
mod log;
pub(crate) mod machine;
mod protocol;
#[cfg(all(test, feature = "tonic-health"))]
mod tests;

use std::pin::pin;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::{Authority, Scheme};
use tokio::sync::watch;

use crate::balance::shared::Settings;
use crate::balance::subchannel::SubchannelState;
use crate::balance::subchannel::health::check::CheckOptions;
pub(super) use crate::balance::subchannel::health::check::{Asked, ConnectionHealth};
pub(super) use crate::balance::subchannel::health::log::HealthLog;
use crate::balance::subchannel::health::log::Level;
pub(super) use crate::balance::subchannel::health::machine::Health;
use crate::balance::subchannel::health::protocol::WatchRequest;
use crate::balance::subchannel::supervisor::Supervisor;
use crate::connection::{CloseReason, Connection};

/// Whose health decides whether calls go to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CheckedHealth {
    /// It is not known yet, so that no connection is ready: the first service config is still to come.
    Undecided,
    /// Nobody's: no server is asked.
    None,
    /// This service's, and with an empty name that of each server as a whole.
    Of(Arc<str>),
}

/// What the health checks of a channel share.
pub(crate) struct HealthChecks {
    /// The supervisors follow it.
    pub(crate) service: watch::Sender<CheckedHealth>,
    /// As the requests of calls have it: `None` for the server's address.
    pub(crate) authority: Option<Authority>,
    pub(crate) user_agent: HeaderValue,
}

impl HealthChecks {
    /// Undecided, until the pool says whose health decides.
    pub(crate) fn new(settings: &Settings) -> Self {
        let (authority, user_agent) = (settings.authority.clone(), settings.user_agent.clone());
        Self { service: watch::Sender::new(CheckedHealth::Undecided), authority, user_agent }
    }

    /// Asks servers for this health from now on.
    pub(crate) fn follow(&self, wanted: CheckedHealth) {
        self.service.send_if_modified(|service| {
            let changes = *service != wanted;
            *service = wanted;
            changes
        });
    }

    /// What is asked of a server now.
    fn options(&self, service: CheckedHealth, supervisor: &Supervisor) -> Asked {
        let service = match service {
            CheckedHealth::Undecided => return Asked::Undecided,
            CheckedHealth::None => return Asked::Nothing,
            CheckedHealth::Of(service) => service,
        };
        let address = supervisor.subchannel.address();
        let own = || address.authority().parse().ok();
        let Some(authority) = self.authority.clone().or_else(own) else { return Asked::Nothing };
        let scheme = if address.is_secure() { Scheme::HTTPS } else { Scheme::HTTP };
        let request = WatchRequest { scheme, authority, user_agent: self.user_agent.clone() };
        Asked::Health(CheckOptions { service, request, answer_within: supervisor.options.connect_timeout })
    }
}

/// The state of a server for the health of its connections, the oldest first, and why it is unhealthy if it is.
pub(super) fn state_of<'a>(
    connections: &(impl Iterator<Item = (&'a Connection, &'a ConnectionHealth)> + Clone),
) -> (SubchannelState, Option<String>) {
    let of = |wanted| connections.clone().filter(move |(_, health)| health.health() == wanted);
    if of(Health::Healthy).next().is_some() {
        return (SubchannelState::Ready(of(Health::Healthy).map(|(connection, _)| connection.clone()).collect()), None);
    }
    let all = || connections.clone().map(|(connection, _)| connection.clone()).collect();
    if of(Health::Unknown).next().is_some() {
        return (SubchannelState::Checking(all()), None); // it may be healthy in a moment
    }
    let error = of(Health::Unhealthy).find_map(|(_, health)| health.error()).map(ToOwned::to_owned);
    (SubchannelState::Unhealthy(all()), error)
}

impl Supervisor {
    /// What is asked of the server, now and after each change of this.
    pub(super) fn asked(&self, services: &mut watch::Receiver<CheckedHealth>) -> Asked {
        let service = services.borrow_and_update().clone();
        self.context.health.options(service, self)
    }

    /// Publishes the only connection as its health says, and waits until it takes no more calls.
    pub(super) async fn watch_one(&mut self, connection: Connection) -> CloseReason {
        let mut closing = pin!(connection.closing());
        let mut services = self.context.health.service.subscribe();
        let mut health = ConnectionHealth::of_new(&connection, self.asked(&mut services));
        loop {
            let (state, error) = state_of(&std::iter::once((&connection, &health)));
            self.log_health(&state, error.as_deref(), health.not_supported(), health.is_confirmed());
            self.subchannel.set_state(state, error.as_deref());
            self.context.changed.notify_one();
            tokio::select! {
                biased; // an end is told first
                reason = closing.as_mut() => return reason,
                () = std::future::poll_fn(|cx| health.poll_changed(cx)) => {}
                Ok(()) = services.changed() => health.follow(&connection, self.asked(&mut services)),
            }
        }
    }

    /// Logs what the health of a server has become, before it is published. It may be ready without a server's word: nobody asks
    /// for its health any more, or it cannot be asked.
    pub(super) fn log_health(
        &mut self,
        state: &SubchannelState,
        error: Option<&str>,
        not_supported: Option<&str>,
        is_confirmed: bool,
    ) {
        let (service, server) = (&*self.context.service, self.subchannel.address());
        let log = &mut self.health_log;
        if let Some(error) = not_supported
            && !std::mem::replace(&mut log.has_warned, true)
        {
            tracing::warn!(parent: None, service, %server, error, "health not checked, the server counts as healthy");
        }
        match state {
            SubchannelState::Unhealthy(_) => match log.unhealthy(self.subchannel.now()) {
                Some(Level::Info) => tracing::info!(parent: None, service, %server, error, "server unhealthy"),
                Some(Level::Debug) => tracing::debug!(parent: None, service, %server, error, "server unhealthy"),
                None => {}
            },
            SubchannelState::Ready(_) => match log.healthy() {
                Some(Level::Info) if is_confirmed => {
                    tracing::info!(parent: None, service, %server, "server healthy again");
                }
                Some(Level::Debug) if is_confirmed => {
                    tracing::debug!(parent: None, service, %server, "server healthy again");
                }
                Some(_) => {
                    tracing::info!(parent: None, service, %server, "health not checked any more, the server gets calls again");
                }
                None => {}
            },
            _ => {}
        }
    }
}
