//! The instruments of this crate's own.

use crate::metrics::bounds::{Bounds, LATENCY};
use crate::metrics::grpc::TARGET;
use crate::metrics::{Instrument, InstrumentKind};

/// A state, by the name of its public enum in lower snake case: `ready`, `current`, `held_by_other`.
pub(crate) const STATE: &str = "state";
/// The name of a service, as its resolver or registrar was given it, without scheme and hosts: `greeter`.
pub(crate) const SERVICE: &str = "service";

pub(crate) static CHANNEL_SERVERS: Instrument = Instrument {
    name: "tonic_etcd.channel.servers",
    kind: InstrumentKind::UpDownCounter,
    unit: "{server}",
    description: "Servers of a channel, by state.",
    labels: &[TARGET, STATE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static CHANNEL_WAITING: Instrument = Instrument {
    name: "tonic_etcd.channel.waiting",
    kind: InstrumentKind::UpDownCounter,
    unit: "{call}",
    description: "Calls that wait for a server, or for their next transparent retry.",
    labels: &[TARGET],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static CHANNEL_LEAVING_ZONE: Instrument = Instrument {
    name: "tonic_etcd.channel.leaving_zone",
    kind: InstrumentKind::UpDownCounter,
    unit: "{channel}",
    description: "Channels whose calls go to servers outside of their zones, because none of their own is ready.",
    labels: &[TARGET],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_CONNECTED: Instrument = Instrument {
    name: "tonic_etcd.resolver.connected",
    kind: InstrumentKind::UpDownCounter,
    unit: "{service}",
    description: "Services whose set of servers etcd confirms at present.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_STALENESS: Instrument = Instrument {
    name: "tonic_etcd.resolver.staleness",
    kind: InstrumentKind::Gauge,
    unit: "s",
    description: "Time since etcd has last confirmed the set of servers, or since the start; 0 while it confirms it.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_RELISTS: Instrument = Instrument {
    name: "tonic_etcd.resolver.relists",
    kind: InstrumentKind::Counter,
    unit: "{list}",
    description: "Lists after which a watch has begun anew because it could not be resumed, or etcd was replaced.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_UNREADABLE: Instrument = Instrument {
    name: "tonic_etcd.resolver.unreadable",
    kind: InstrumentKind::UpDownCounter,
    unit: "{record}",
    description: "Records of a service that cannot be read.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_HELD: Instrument = Instrument {
    name: "tonic_etcd.resolver.held",
    kind: InstrumentKind::UpDownCounter,
    unit: "{instance}",
    description: "Instances that etcd has lost in a doubtful way: channels hold those whose servers answer.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_INSTANCES: Instrument = Instrument {
    name: "tonic_etcd.resolver.instances",
    kind: InstrumentKind::UpDownCounter,
    unit: "{instance}",
    description: "Known instances of a service, by state: current, cached or stale; those that drain: draining.",
    labels: &[SERVICE, STATE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static RESOLVER_CHANGES: Instrument = Instrument {
    name: "tonic_etcd.resolver.changes",
    kind: InstrumentKind::Counter,
    unit: "{change}",
    description: "Records of a service that have come, gone or changed.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static REGISTRAR_REGISTERED: Instrument = Instrument {
    name: "tonic_etcd.registrar.registered",
    kind: InstrumentKind::UpDownCounter,
    unit: "{registration}",
    description: "Registrations that have not left, by state.",
    labels: &[SERVICE, STATE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static REGISTRAR_LEASES_LOST: Instrument = Instrument {
    name: "tonic_etcd.registrar.leases_lost",
    kind: InstrumentKind::Counter,
    unit: "{lease}",
    description: "Leases that have ended while registrations needed them.",
    labels: &[],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static REGISTRAR_KEYS_REPAIRED: Instrument = Instrument {
    name: "tonic_etcd.registrar.keys_repaired",
    kind: InstrumentKind::Counter,
    unit: "{key}",
    description: "Keys that were put again because someone had deleted or overwritten them.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static REGISTRAR_RENEWAL_DURATION: Instrument = Instrument {
    name: "tonic_etcd.registrar.renewal.duration",
    kind: InstrumentKind::Histogram,
    unit: "s",
    description: "Time from a renewal of a lease to its success; renewals that fail are not recorded.",
    labels: &[],
    optional_labels: &[],
    bounds: &LATENCY,
    is_experimental: false,
};

pub(crate) static SERVER_STATE: Instrument = Instrument {
    name: "tonic_etcd.server.state",
    kind: InstrumentKind::UpDownCounter,
    unit: "{server}",
    description: "Servers of `Serve` that have not stopped, by state; one of several services counts in each.",
    labels: &[SERVICE, STATE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static SERVER_CONNECTIONS: Instrument = Instrument {
    name: "tonic_etcd.server.connections",
    kind: InstrumentKind::UpDownCounter,
    unit: "{connection}",
    description: "Open connections of servers of `Serve`; those of a server of several services count in each.",
    labels: &[SERVICE],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};
