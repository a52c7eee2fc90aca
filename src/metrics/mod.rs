//! Metrics: which instruments there are, and where their values go.
//!
//! A [`Recorder`] takes the values. This crate has none of its own, and depends on no telemetry crate: the crate
//! `tonic-etcd-metrics` records into the facade [`metrics`](https://docs.rs/metrics), and `examples/observability` shows one for
//! OpenTelemetry. The builders of channels, resolvers, registrars and servers take a recorder, or [`Metrics`], which says which
//! optional ones are recorded too.
//!
//! Without a recorder the same numbers can be pulled: `stats()` of a channel, a resolution and a registrar.
//!
//! `grpc.method` is the name that a generated client carries in the request's extensions ([`tonic::GrpcMethod`]): `pkg.Service/Method`.
//! All other calls are `other`, so that a program which makes names up makes no series (gRFC A66). `grpc.target` is the
//! [`Target`](crate::Target) as a URI, `etcd:///greeter`, and `discover:///NAME` for a channel of
//! [`build_with_discovery`](crate::BalancedChannelBuilder::build_with_discovery). `grpc.status` is the code as gRPC writes it.
//!
//! # gRPC's instruments
//!
//! Names, units, labels and bounds are those of gRFC A66, and of A91, A94 and A96 for the experimental ones (A79), which are off
//! unless [`Metrics::experimental`] asks for them. `grpc.server.*` belongs to the server, which is tonic's: this crate does not
//! record them.
//!
//! | name | kind | unit | labels | what |
//! |---|---|---|---|---|
//! | `grpc.client.attempt.started` | Counter | `{attempt}` | `grpc.method`, `grpc.target` | Attempts of calls that have begun, including those that have not ended. |
//! | `grpc.client.attempt.duration` | Histogram | `s` | `grpc.method`, `grpc.target`, `grpc.status`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Time from the beginning of an attempt, the wait for a server included, to its end. |
//! | `grpc.client.attempt.sent_total_compressed_message_size` | Histogram | `By` | `grpc.method`, `grpc.target`, `grpc.status`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Bytes of all request messages of an attempt, compressed, without their prefixes. |
//! | `grpc.client.attempt.rcvd_total_compressed_message_size` | Histogram | `By` | `grpc.method`, `grpc.target`, `grpc.status`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Bytes of all response messages of an attempt, compressed, without their prefixes. |
//! | `grpc.client.call.duration` | Histogram | `s` | `grpc.method`, `grpc.target`, `grpc.status` | Time from the beginning of a call to its end, all attempts and pauses included. |
//! | `grpc.client.call.retries` (experimental) | Histogram | `{retry}` | `grpc.method`, `grpc.target` | Retries of a call; calls without one are not recorded. |
//! | `grpc.client.call.transparent_retries` (experimental) | Histogram | `{transparent_retry}` | `grpc.method`, `grpc.target` | Transparent retries of a call; calls without one are not recorded. |
//! | `grpc.client.call.hedges` (experimental) | Histogram | `{hedge}` | `grpc.method`, `grpc.target` | Hedges of a call; calls without one are not recorded. |
//! | `grpc.client.call.retry_delay` (experimental) | Histogram | `s` | `grpc.method`, `grpc.target` | Time of a call in which none of its attempts was active; calls without any are not recorded. |
//! | `grpc.subchannel.disconnections` (experimental) | Counter | `{disconnection}` | `grpc.target`, `grpc.disconnect_error`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Connections to servers that have ended. |
//! | `grpc.subchannel.connection_attempts_succeeded` (experimental) | Counter | `{attempt}` | `grpc.target`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Attempts to connect to a server that have succeeded. |
//! | `grpc.subchannel.connection_attempts_failed` (experimental) | Counter | `{attempt}` | `grpc.target`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Attempts to connect to a server that have failed. |
//! | `grpc.subchannel.open_connections` (experimental) | UpDownCounter | `{connection}` | `grpc.target`, `grpc.lb.locality` (optional), `tonic_etcd.server` (optional) | Connections to servers that are open. |
//! | `grpc.lb.outlier_detection.ejections_enforced` (experimental) | Counter | `{ejection}` | `grpc.target`, `grpc.lb.outlier_detection.detection_method` | Ejections of servers that were carried out. |
//! | `grpc.lb.outlier_detection.ejections_unenforced` (experimental) | Counter | `{ejection}` | `grpc.target`, `grpc.lb.outlier_detection.detection_method`, `grpc.lb.outlier_detection.unenforced_reason` | Ejections of servers that were due and not carried out. |
//!
//! A call counts from its first poll to the end of its response: the trailers, an error, or the drop of its future or of the
//! response's body, which is `CANCELLED`. A stream that is not read to its end is cancelled so, as in gRPC. Every call has at least one
//! attempt, which begins with it. One that never has a server ends with its call, and has empty strings for the labels of the server.
//! An attempt that loses against a hedge, or is given up after its time, is `CANCELLED`; what takes the place of the latter is a
//! retry. `attempt.started` is the sum of calls, retries, transparent retries and hedges, those of calls in flight included. The sizes
//! of requests count what was handed to the connection.
//!
//! `grpc.disconnect_error` is one of gRFC A94's values. A connection that was closed because the server did not answer a PING is
//! `connection timed out`; one that the server closed without GOAWAY, or that ends with an error of HTTP/2 or TLS, is `unknown`. Of a
//! connection to a server, `grpc.lb.locality` is the zone that it had when the channel learned of it.
//!
//! `grpc.lb.outlier_detection.detection_method` is `success_rate` or `failure_percentage`, as in gRFC A91, or `consecutive_failures`,
//! which gRPC does not have. `grpc.lb.outlier_detection.unenforced_reason` is always `max_ejection_overflow`: too many servers were
//! ejected, or no other was left. A server with too many consecutive failures counts there once, until one of its calls ends with OK.
//! There is no percentage of enforcement.
//!
//! # This crate's instruments
//!
//! The states of a channel's servers are those of [`ServerState`](crate::ServerState): `connecting`, `ready`, `transient_failure`,
//! `ejected`, `unhealthy`, `held` and `idle`.
//!
//! | name | kind | unit | labels | what |
//! |---|---|---|---|---|
//! | `tonic_etcd.channel.servers` | UpDownCounter | `{server}` | `grpc.target`, `state` | Servers of a channel, by state. |
//! | `tonic_etcd.channel.waiting` | UpDownCounter | `{call}` | `grpc.target` | Calls that wait for a server. |
//! | `tonic_etcd.channel.leaving_zone` | UpDownCounter | `{channel}` | `grpc.target` | Channels whose calls go to servers outside of their zones, because none of their own is ready. |
//! | `tonic_etcd.resolver.connected` | UpDownCounter | `{resolution}` | `service` | Services whose set of servers is confirmed by etcd at present. |
//! | `tonic_etcd.resolver.staleness` | Gauge | `s` | `service` | Time since etcd has last confirmed the set of servers; 0 while it is confirmed. |
//! | `tonic_etcd.resolver.relists` | Counter | `{list}` | `service` | Prefixes that were listed again because a watch could not be resumed. |
//! | `tonic_etcd.resolver.unreadable` | UpDownCounter | `{record}` | `service` | Records in etcd that cannot be read. |
//! | `tonic_etcd.resolver.held` | UpDownCounter | `{instance}` | `service` | Instances that etcd has lost in doubtful circumstances, and that are held. |
//! | `tonic_etcd.resolver.instances` | UpDownCounter | `{instance}` | `service`, `state` | Instances of a service, by state. |
//! | `tonic_etcd.resolver.changes` | Counter | `{change}` | `service` | Changes of instances that were reported. |
//! | `tonic_etcd.registrar.registered` | UpDownCounter | `{registration}` | `service`, `state` | Registrations, by state. |
//! | `tonic_etcd.registrar.leases_lost` | Counter | `{lease}` | none | Leases that ended while registrations needed them. |
//! | `tonic_etcd.registrar.keys_repaired` | Counter | `{key}` | `service` | Keys that were put again because someone had deleted or overwritten them. |
//! | `tonic_etcd.registrar.renewal.duration` | Histogram | `s` | none | Time from a renewal of a lease to the response of etcd. |
//! | `tonic_etcd.server.state` | UpDownCounter | `{server}` | `service`, `state` | Servers of `Serve`, by state. |
//! | `tonic_etcd.server.connections` | UpDownCounter | `{connection}` | `service` | Connections that servers of `Serve` have accepted and that are open. |

mod bounds;
pub(crate) mod grpc;
mod instrument;
pub(crate) mod own;
mod recorder;
mod series;

pub use crate::metrics::instrument::{Instrument, InstrumentKind};
pub use crate::metrics::recorder::{BoundInstrument, Metrics, Recorder};
pub use crate::metrics::series::Distribution;
pub(crate) use crate::metrics::series::{Bound, Bucketed, Counter, Histogram, UpDownCounter};

/// Returns all instruments: for adapters that describe them before the first value.
pub fn instruments() -> impl ExactSizeIterator<Item = &'static Instrument> {
    ALL.iter().copied()
}

static ALL: [&Instrument; 31] = [
    &grpc::ATTEMPT_STARTED,
    &grpc::ATTEMPT_DURATION,
    &grpc::ATTEMPT_SENT,
    &grpc::ATTEMPT_RECEIVED,
    &grpc::CALL_DURATION,
    &grpc::CALL_RETRIES,
    &grpc::CALL_TRANSPARENT_RETRIES,
    &grpc::CALL_HEDGES,
    &grpc::CALL_RETRY_DELAY,
    &grpc::DISCONNECTIONS,
    &grpc::CONNECTIONS_SUCCEEDED,
    &grpc::CONNECTIONS_FAILED,
    &grpc::OPEN_CONNECTIONS,
    &grpc::EJECTIONS_ENFORCED,
    &grpc::EJECTIONS_UNENFORCED,
    &own::CHANNEL_SERVERS,
    &own::CHANNEL_WAITING,
    &own::CHANNEL_LEAVING_ZONE,
    &own::RESOLVER_CONNECTED,
    &own::RESOLVER_STALENESS,
    &own::RESOLVER_RELISTS,
    &own::RESOLVER_UNREADABLE,
    &own::RESOLVER_HELD,
    &own::RESOLVER_INSTANCES,
    &own::RESOLVER_CHANGES,
    &own::REGISTRAR_REGISTERED,
    &own::REGISTRAR_LEASES_LOST,
    &own::REGISTRAR_KEYS_REPAIRED,
    &own::REGISTRAR_RENEWAL_DURATION,
    &own::SERVER_STATE,
    &own::SERVER_CONNECTIONS,
];
