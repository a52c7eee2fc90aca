//! Metrics: which instruments there are, and where their values go.
//!
//! A [`Recorder`] takes the values. This crate has none of its own, and depends on no telemetry crate: the crate
//! `tonic-etcd-metrics` records into the facade [`metrics`](https://docs.rs/metrics), and `examples/observability` shows one for
//! OpenTelemetry. The builders of channels, resolvers, registrars and servers take a recorder, or [`Metrics`], which says which
//! optional ones are recorded too:
//!
//! ```
//! use tonic_etcd::metrics::Metrics;
//! use tonic_etcd::{BalancedChannel, Error, Registrar, Resolver};
//!
//! fn build(etcd: Vec<String>, metrics: Metrics) -> Result<(BalancedChannel, Registrar), Error> {
//!     let resolver = Resolver::builder(etcd.clone()).metrics(metrics.clone()).connect_lazy()?; // with its channels
//!     let registrar = Registrar::builder(etcd).metrics(metrics).connect_lazy()?; // with its servers (`Serve`)
//!     Ok((resolver.channel("greeter")?, registrar))
//! }
//! ```
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
//! attempt, which begins with it. One that never has a server ends with its call, and has empty strings for the labels of the server;
//! it has no [span](crate::spans). So a call that ends in the pause before a transparent retry counts one attempt more than servers
//! have seen.
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
//! | `tonic_etcd.channel.waiting` | UpDownCounter | `{call}` | `grpc.target` | Calls that wait for a server, or for their next transparent retry. |
//! | `tonic_etcd.channel.leaving_zone` | UpDownCounter | `{channel}` | `grpc.target` | Channels whose calls go to servers outside of their zones, because none of their own is ready. |
//! | `tonic_etcd.resolver.connected` | UpDownCounter | `{service}` | `service` | Services whose set of servers etcd confirms at present. |
//! | `tonic_etcd.resolver.staleness` | Gauge | `s` | `service` | Time since etcd has last confirmed the set of servers, or since the start; 0 while it confirms it. |
//! | `tonic_etcd.resolver.relists` | Counter | `{list}` | `service` | Lists after which a watch has begun anew because it could not be resumed, or etcd was replaced. |
//! | `tonic_etcd.resolver.unreadable` | UpDownCounter | `{record}` | `service` | Records of a service that cannot be read. |
//! | `tonic_etcd.resolver.held` | UpDownCounter | `{instance}` | `service` | Instances that etcd has lost in a doubtful way: channels hold those whose servers answer. |
//! | `tonic_etcd.resolver.instances` | UpDownCounter | `{instance}` | `service`, `state` | Known instances of a service, by state: current, cached or stale; those that drain: draining. |
//! | `tonic_etcd.resolver.changes` | Counter | `{change}` | `service` | Records of a service that have come, gone or changed. |
//! | `tonic_etcd.registrar.registered` | UpDownCounter | `{registration}` | `service`, `state` | Registrations that have not left, by state. |
//! | `tonic_etcd.registrar.leases_lost` | Counter | `{lease}` | none | Leases that have ended while registrations needed them. |
//! | `tonic_etcd.registrar.keys_repaired` | Counter | `{key}` | `service` | Keys that were put again because someone had deleted or overwritten them. |
//! | `tonic_etcd.registrar.renewal.duration` | Histogram | `s` | none | Time from a renewal of a lease to its success; renewals that fail are not recorded. |
//! | `tonic_etcd.server.state` | UpDownCounter | `{server}` | `service`, `state` | Servers of `Serve` that have not stopped, by state; one of several services counts in each. |
//! | `tonic_etcd.server.connections` | UpDownCounter | `{connection}` | `service` | Open connections of servers of `Serve`; those of a server of several services count in each. |
//!
//! The label `service` is the name of a [`Target`](crate::Target), without scheme and hosts. The label `state` has:
//!
//! | instrument | states |
//! |---|---|
//! | `tonic_etcd.resolver.instances` | `current`, `cached` and `stale`, as the [`ResolutionState`](crate::ResolutionState) says how they are known; `draining` are those of any of these that take no new calls. Their sum is that of the snapshot. |
//! | `tonic_etcd.registrar.registered` | those of [`RegistrationState`](crate::RegistrationState) but `closed`: `registering`, `registered`, `updating`, `renewing`, `lost`, `held_by_other`, `paused` |
//! | `tonic_etcd.server.state` | those of [`ServeState`](crate::ServeState) but `stopped`: `starting`, `serving`, `leaving`, `draining` |
//!
//! A resolver counts each service once for each tokio runtime, however many resolutions and channels share its watch. What is counted
//! at present falls to 0 at the end: of a resolution with its watch, of a registration once it has left, of a server once it has
//! stopped, of a channel's servers with its last clone, also while responses of it are still read. The staleness is recorded once a
//! second while it grows; of several watches of one service in a process, the one that was recorded last shows.
//!
//! # What to alert on
//!
//! `examples/observability` has rules for Prometheus (`prometheus/alerts.yml`) for most of these, with thresholds to begin with.
//! Names without `grpc.` are those above without `tonic_etcd.`.
//!
//! | alert | what it means | what to do |
//! |---|---|---|
//! | the share of `grpc.client.call.duration` with `UNAVAILABLE`, `DEADLINE_EXCEEDED`, `INTERNAL` and the like | Calls fail, and retries did not save them. | Look at the servers by state, and at [`CallError`](crate::CallError), the source of a status: it says whether the server sent it. |
//! | the sum of `channel.servers` in `ready`, `held` and `ejected` is 0, while attempts begin or `channel.waiting` is above 0 | No server can take a call. Callers that all wait begin no more attempts. | Look at `resolver.instances` (is any registered?) and the other states (can none be reached, is none healthy?). |
//! | `channel.servers` in `transient_failure` above 0 for longer than the time to live of the servers' leases | Servers are registered, and connections to them fail. | Check the addresses that they advertise, firewalls, and processes that hang; [`ServerStatus::last_error`](crate::ServerStatus::last_error) says why. |
//! | `channel.waiting` above 0 all the time | No server is connected, all are at their limits of calls, or all refuse calls. | Look at the servers by state; add servers, or [connections to each](crate::BalancedChannelBuilder::connections_per_server). |
//! | the share of `grpc.client.attempt.duration` with `UNAVAILABLE` | Servers refuse calls (`REFUSED_STREAM`, GOAWAY), or connections are lost, also where further attempts save the calls. | Where `grpc.client.call.transparent_retries` (experimental) grows too, servers refuse: [add servers](crate::BalancedChannel#when-servers-are-overloaded). Else look at the servers by state. |
//! | `resolver.staleness` above 60 | This process does not see etcd, and calls the servers that it knows. Those that have come since get no calls from it. | Check etcd, the network, and the user's role; [`Resolution::last_error`](crate::Resolution::last_error) and the log say why. |
//! | the sum of `resolver.instances` without `draining` below what the service needs, while `resolver.connected` is 1 | Too few servers are registered. | Look at the servers. |
//! | `resolver.held` above 0 at any time in the last minutes | etcd has lost most instances in a doubtful way. They are held for 60 s by default. | See [`MassLoss`](crate::MassLoss): look whether etcd was wiped or restored, and whether the servers register again. |
//! | `resolver.unreadable` above 0 | Servers are registered that get no calls from this crate. | The log names the keys. |
//! | `registrar.registered` in `lost`, `held_by_other` or `registering` above 0 for more than the time to live of the lease | A server runs that no client finds. | See [`RegistrationState::why`](crate::RegistrationState::why) and the log. |
//! | `registrar.leases_lost` grows | Renewals do not reach etcd in time, or someone revokes leases: for a time the servers were not found. | Check etcd's load, and `registrar.renewal.duration`: it should stay far below a sixth of the time to live. |
//! | `registrar.keys_repaired` grows steadily | Someone deletes or overwrites keys of servers that live. | Find out who: two programs may use one key. |
//! | `server.state` in `starting` above 0 for long | A check does not pass, or the address to register is not known. | See [`ServeState::Starting`](crate::ServeState::Starting) and the log. |
//! | `resolver.relists` grows steadily | etcd is compacted faster than watches follow, or ends them. | Keep more revisions (`--auto-compaction-retention`). |

mod bounds;
mod by_state;
pub(crate) mod grpc;
mod instrument;
pub(crate) mod own;
mod recorder;
mod series;

pub(crate) use crate::metrics::by_state::ByState;
pub use crate::metrics::instrument::{Instrument, InstrumentKind};
pub use crate::metrics::recorder::{BoundInstrument, Metrics, Recorder};
pub use crate::metrics::series::Distribution;
pub(crate) use crate::metrics::series::{Bound, Counter, Gauge, Histogram, UpDownCounter, seconds};

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
