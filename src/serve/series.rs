//! The series of a server, one set for each of its services. They end with the server.

use std::sync::Arc;

use crate::metrics::own::{SERVER_CONNECTIONS, SERVER_STATE, SERVICE, STATE};
use crate::metrics::{Bound, Metrics, UpDownCounter};
use crate::serve::state::ServeState;

/// The states that are counted, by their position in [`position`].
const STATES: [&str; 4] = ["starting", "serving", "leaving", "draining"];

/// Where a state stands in [`STATES`]. `None` for a server that has stopped.
fn position(state: &ServeState) -> Option<usize> {
    Some(match state {
        ServeState::Starting { .. } => 0,
        ServeState::Serving => 1,
        ServeState::Leaving => 2,
        ServeState::Draining { .. } => 3,
        ServeState::Stopped { .. } => return None,
    })
}

/// The series of a server.
pub(super) struct ServerSeries(Vec<ServiceSeries>);

/// Those of one of its services.
struct ServiceSeries {
    states: [UpDownCounter; STATES.len()],
    connections: UpDownCounter,
}

/// An open connection, as the series count it until it is dropped.
pub(super) struct CountedConnection(Arc<ServerSeries>);

impl ServerSeries {
    /// Binds the series, which calls a user's code.
    pub(super) fn new<'a>(metrics: Option<&Metrics>, services: impl Iterator<Item = &'a str>) -> Self {
        let of_service = |service: &str| {
            let of_state = |state| Bound::new(metrics, &SERVER_STATE, &[(SERVICE, service), (STATE, state)]);
            ServiceSeries {
                states: STATES.map(|state| UpDownCounter::new(of_state(state))),
                connections: UpDownCounter::new(Bound::new(metrics, &SERVER_CONNECTIONS, &[(SERVICE, service)])),
            }
        };
        Self(services.map(of_service).collect())
    }

    /// Counts the server in this state alone. Called by the server's own future, one call after the other.
    pub(super) fn set_state(&self, state: &ServeState) {
        let now = position(state);
        for service in &self.0 {
            service.states.iter().enumerate().for_each(|(at, series)| series.set(i64::from(now == Some(at))));
        }
    }

    /// Counts a connection.
    pub(super) fn connected(self: &Arc<Self>) -> CountedConnection {
        self.0.iter().for_each(|service| service.connections.add(1));
        CountedConnection(self.clone())
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.0.0.iter().for_each(|service| service.connections.add(-1));
    }
}
