//! The connections of a channel (gRFC A94). Attempts that are given up, because the turn of others has come or because nobody wants
//! the connection any more, are not counted.

use std::sync::{Arc, OnceLock};

use crate::address::Address;
use crate::balance::metrics::MetricsContext;
use crate::connection::{Disconnect, Reason};
use crate::metrics::{Counter, UpDownCounter, grpc};

/// The connections of all servers, or of one where series have its labels.
pub(crate) struct Connections {
    context: Arc<MetricsContext>,
    /// The zone and the address of the server.
    server: Option<(Box<str>, String)>,
    pub(super) succeeded: Counter,
    pub(super) failed: Counter,
    open: UpDownCounter,
    /// By reason, in the order of [`LABELS`]. Each is made by the first of them.
    pub(super) disconnections: [OnceLock<Box<Counter>>; LABELS.len()],
}

/// What `grpc.disconnect_error` may be. Codes of GOAWAY are those of RFC 9113, by their numbers.
pub(super) const LABELS: [&str; 20] = [
    "GOAWAY NO_ERROR",
    "GOAWAY PROTOCOL_ERROR",
    "GOAWAY INTERNAL_ERROR",
    "GOAWAY FLOW_CONTROL_ERROR",
    "GOAWAY SETTINGS_TIMEOUT",
    "GOAWAY STREAM_CLOSED",
    "GOAWAY FRAME_SIZE_ERROR",
    "GOAWAY REFUSED_STREAM",
    "GOAWAY CANCEL",
    "GOAWAY COMPRESSION_ERROR",
    "GOAWAY CONNECT_ERROR",
    "GOAWAY ENHANCE_YOUR_CALM",
    "GOAWAY INADEQUATE_SECURITY",
    "GOAWAY HTTP_1_1_REQUIRED",
    "subchannel shutdown",
    "connection reset",
    "connection timed out",
    "connection aborted",
    "socket error",
    "unknown",
];

/// The index of a reason in [`LABELS`]. `None`: this side has no more use for the server or the connection.
fn index_of(reason: Option<Disconnect>) -> usize {
    match reason {
        // Unknown codes may be taken for this one (RFC 9113, 7).
        Some(Disconnect::GoAway(reason)) if u32::from(reason) > u32::from(Reason::HTTP_1_1_REQUIRED) => 2,
        Some(Disconnect::GoAway(reason)) => u32::from(reason) as usize,
        None => 14,
        Some(Disconnect::Reset) => 15,
        Some(Disconnect::TimedOut) => 16,
        Some(Disconnect::Aborted) => 17,
        Some(Disconnect::Socket) => 18,
        Some(Disconnect::Unknown) => 19,
    }
}

impl Connections {
    /// Those of the channel. Without series, where those have labels of servers.
    pub(super) fn of_channel(context: Arc<MetricsContext>) -> Self {
        Self::new(context, None)
    }

    /// Those of one server, where series have its labels.
    pub(crate) fn of_server(&self, address: &Address, zone: Option<&str>) -> Option<Arc<Self>> {
        let server = || (zone.unwrap_or_default().into(), address.to_string());
        self.context.is_by_server().then(|| Arc::new(Self::new(self.context.clone(), Some(server()))))
    }

    /// Binds series: this runs the recorder's code.
    fn new(context: Arc<MetricsContext>, server: Option<(Box<str>, String)>) -> Self {
        let bind = |instrument| match &server {
            Some((zone, address)) => context.bind(instrument, &[(grpc::LOCALITY, zone), (grpc::SERVER, address)]),
            None => context.bind_without_server(instrument, &[]),
        };
        let (succeeded, failed) = (bind(&grpc::CONNECTIONS_SUCCEEDED), bind(&grpc::CONNECTIONS_FAILED));
        let open = UpDownCounter::new(bind(&grpc::OPEN_CONNECTIONS));
        let disconnections = [const { OnceLock::new() }; LABELS.len()];
        let (succeeded, failed) = (Counter::new(succeeded), Counter::new(failed));
        Self { context, server, succeeded, failed, open, disconnections }
    }

    fn disconnected(&self, index: usize) {
        let counter = super::method::get_or_make(&self.disconnections[index], || {
            let error = (grpc::DISCONNECT_ERROR, LABELS[index]);
            Counter::new(match &self.server {
                Some((zone, address)) => {
                    let labels = [error, (grpc::LOCALITY, zone), (grpc::SERVER, address)];
                    self.context.bind(&grpc::DISCONNECTIONS, &labels)
                }
                None => self.context.bind_without_server(&grpc::DISCONNECTIONS, &[error]),
            })
        });
        self.open.add(-1);
        counter.add(1);
    }
}

/// Who counts the connections of one server: its channel, and the server itself where series have its labels.
#[derive(Clone)]
pub(crate) struct ServerConnections([Option<Arc<Connections>>; 2]);

impl ServerConnections {
    pub(crate) fn new(of_channel: Arc<Connections>, address: &Address, zone: Option<&str>) -> Self {
        let of_server = of_channel.of_server(address, zone);
        Self([Some(of_channel), of_server])
    }

    /// An attempt to connect has failed.
    pub(crate) fn failed(&self) {
        self.0.iter().flatten().for_each(|connections| connections.failed.add(1));
    }

    /// An attempt has given a connection. It counts as open until the guard goes.
    pub(crate) fn succeeded(&self) -> OpenConnection {
        for connections in self.0.iter().flatten() {
            connections.succeeded.add(1);
            connections.open.add(1);
        }
        OpenConnection { connections: self.clone(), reason: None }
    }
}

/// A connection that takes calls.
pub(crate) struct OpenConnection {
    connections: ServerConnections,
    reason: Option<Disconnect>,
}

impl OpenConnection {
    /// The connection takes no more calls, for this reason. Dropped otherwise, it is not wanted any more.
    pub(crate) fn ended(mut self, reason: Disconnect) {
        self.reason = Some(reason);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let index = index_of(self.reason);
        self.connections.0.iter().flatten().for_each(|connections| connections.disconnected(index));
    }
}
