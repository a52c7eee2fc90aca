//! The instruments of gRPC's clients, by the names of its gRFCs.

use crate::metrics::bounds::{Bounds, LATENCY, RETRIES, SIZE, TRANSPARENT_RETRIES};
use crate::metrics::{Instrument, InstrumentKind};

/// `pkg.Service/Method` of a generated client, else [`OTHER_METHOD`] (gRFC A66).
pub(crate) const METHOD: &str = "grpc.method";
/// The name of a channel as a URI: `etcd:///greeter` (gRFC A66).
pub(crate) const TARGET: &str = "grpc.target";
/// The code of the status as gRPC writes it: `OK`, `DEADLINE_EXCEEDED` (gRFC A66).
pub(crate) const STATUS: &str = "grpc.status";
/// The zone of a server (gRFC A78). Only where it is asked for.
pub(crate) const LOCALITY: &str = "grpc.lb.locality";
/// The address of a server. Only where it is asked for.
pub(crate) const SERVER: &str = "tonic_etcd.server";
/// Why a connection has ended (gRFC A94).
pub(crate) const DISCONNECT_ERROR: &str = "grpc.disconnect_error";
/// How a server was ejected (gRFC A91).
pub(crate) const DETECTION_METHOD: &str = "grpc.lb.outlier_detection.detection_method";
/// Why an ejection was not carried out (gRFC A91).
pub(crate) const UNENFORCED_REASON: &str = "grpc.lb.outlier_detection.unenforced_reason";
/// What calls without a generated client's `GrpcMethod` count as: names that a program makes up would be series without end.
pub(crate) const OTHER_METHOD: &str = "other";

pub(crate) static ATTEMPT_STARTED: Instrument = Instrument {
    name: "grpc.client.attempt.started",
    kind: InstrumentKind::Counter,
    unit: "{attempt}",
    description: "Attempts of calls that have begun, including those that have not ended.",
    labels: &[METHOD, TARGET],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: false,
};

pub(crate) static ATTEMPT_DURATION: Instrument = Instrument {
    name: "grpc.client.attempt.duration",
    kind: InstrumentKind::Histogram,
    unit: "s",
    description: "Time from the beginning of an attempt, the wait for a server included, to its end.",
    labels: &[METHOD, TARGET, STATUS],
    optional_labels: &[LOCALITY, SERVER],
    bounds: &LATENCY,
    is_experimental: false,
};

pub(crate) static ATTEMPT_SENT: Instrument = Instrument {
    name: "grpc.client.attempt.sent_total_compressed_message_size",
    kind: InstrumentKind::Histogram,
    unit: "By",
    description: "Bytes of all request messages of an attempt, compressed, without their prefixes.",
    labels: &[METHOD, TARGET, STATUS],
    optional_labels: &[LOCALITY, SERVER],
    bounds: &SIZE,
    is_experimental: false,
};

pub(crate) static ATTEMPT_RECEIVED: Instrument = Instrument {
    name: "grpc.client.attempt.rcvd_total_compressed_message_size",
    kind: InstrumentKind::Histogram,
    unit: "By",
    description: "Bytes of all response messages of an attempt, compressed, without their prefixes.",
    labels: &[METHOD, TARGET, STATUS],
    optional_labels: &[LOCALITY, SERVER],
    bounds: &SIZE,
    is_experimental: false,
};

pub(crate) static CALL_DURATION: Instrument = Instrument {
    name: "grpc.client.call.duration",
    kind: InstrumentKind::Histogram,
    unit: "s",
    description: "Time from the beginning of a call to its end, all attempts and pauses included.",
    labels: &[METHOD, TARGET, STATUS],
    optional_labels: &[],
    bounds: &LATENCY,
    is_experimental: false,
};

pub(crate) static CALL_RETRIES: Instrument = Instrument {
    name: "grpc.client.call.retries",
    kind: InstrumentKind::Histogram,
    unit: "{retry}",
    description: "Retries of a call; calls without one are not recorded.",
    labels: &[METHOD, TARGET],
    optional_labels: &[],
    bounds: &RETRIES,
    is_experimental: true,
};

pub(crate) static CALL_TRANSPARENT_RETRIES: Instrument = Instrument {
    name: "grpc.client.call.transparent_retries",
    kind: InstrumentKind::Histogram,
    unit: "{transparent_retry}",
    description: "Transparent retries of a call; calls without one are not recorded.",
    labels: &[METHOD, TARGET],
    optional_labels: &[],
    bounds: &TRANSPARENT_RETRIES,
    is_experimental: true,
};

pub(crate) static CALL_HEDGES: Instrument = Instrument {
    name: "grpc.client.call.hedges",
    kind: InstrumentKind::Histogram,
    unit: "{hedge}",
    description: "Hedges of a call; calls without one are not recorded.",
    labels: &[METHOD, TARGET],
    optional_labels: &[],
    bounds: &RETRIES,
    is_experimental: true,
};

pub(crate) static CALL_RETRY_DELAY: Instrument = Instrument {
    name: "grpc.client.call.retry_delay",
    kind: InstrumentKind::Histogram,
    unit: "s",
    description: "Time of a call in which none of its attempts was active; calls without any are not recorded.",
    labels: &[METHOD, TARGET],
    optional_labels: &[],
    bounds: &LATENCY,
    is_experimental: true,
};

pub(crate) static DISCONNECTIONS: Instrument = Instrument {
    name: "grpc.subchannel.disconnections",
    kind: InstrumentKind::Counter,
    unit: "{disconnection}",
    description: "Connections to servers that have ended.",
    labels: &[TARGET, DISCONNECT_ERROR],
    optional_labels: &[LOCALITY, SERVER],
    bounds: Bounds::NONE,
    is_experimental: true,
};

pub(crate) static CONNECTIONS_SUCCEEDED: Instrument = Instrument {
    name: "grpc.subchannel.connection_attempts_succeeded",
    kind: InstrumentKind::Counter,
    unit: "{attempt}",
    description: "Attempts to connect to a server that have succeeded.",
    labels: &[TARGET],
    optional_labels: &[LOCALITY, SERVER],
    bounds: Bounds::NONE,
    is_experimental: true,
};

pub(crate) static CONNECTIONS_FAILED: Instrument = Instrument {
    name: "grpc.subchannel.connection_attempts_failed",
    kind: InstrumentKind::Counter,
    unit: "{attempt}",
    description: "Attempts to connect to a server that have failed.",
    labels: &[TARGET],
    optional_labels: &[LOCALITY, SERVER],
    bounds: Bounds::NONE,
    is_experimental: true,
};

pub(crate) static OPEN_CONNECTIONS: Instrument = Instrument {
    name: "grpc.subchannel.open_connections",
    kind: InstrumentKind::UpDownCounter,
    unit: "{connection}",
    description: "Connections to servers that are open.",
    labels: &[TARGET],
    optional_labels: &[LOCALITY, SERVER],
    bounds: Bounds::NONE,
    is_experimental: true,
};

pub(crate) static EJECTIONS_ENFORCED: Instrument = Instrument {
    name: "grpc.lb.outlier_detection.ejections_enforced",
    kind: InstrumentKind::Counter,
    unit: "{ejection}",
    description: "Ejections of servers that were carried out.",
    labels: &[TARGET, DETECTION_METHOD],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: true,
};

pub(crate) static EJECTIONS_UNENFORCED: Instrument = Instrument {
    name: "grpc.lb.outlier_detection.ejections_unenforced",
    kind: InstrumentKind::Counter,
    unit: "{ejection}",
    description: "Ejections of servers that were due and not carried out.",
    labels: &[TARGET, DETECTION_METHOD, UNENFORCED_REASON],
    optional_labels: &[],
    bounds: Bounds::NONE,
    is_experimental: true,
};
