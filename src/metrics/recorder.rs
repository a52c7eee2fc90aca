//! Where values go: a recorder of the user's, or of an adapter.

use std::fmt;
use std::sync::Arc;

use crate::metrics::Instrument;

/// Takes the metrics of channels, resolvers, registrars and servers. Adapters implement it: `tonic-etcd-metrics` for the facade
/// `metrics`, `examples/observability` for OpenTelemetry. One for StatsD (with Datadog's tags) over UDP:
///
/// ```
/// use std::net::UdpSocket;
/// use std::sync::Arc;
///
/// use tonic_etcd::metrics::{BoundInstrument, Instrument, InstrumentKind, Metrics, Recorder};
///
/// /// Connected, and set to be non-blocking: what cannot be sent at once is lost. Of a sum, that shows for good.
/// struct StatsD(Arc<UdpSocket>);
///
/// struct Series {
///     socket: Arc<UdpSocket>,
///     name: &'static str,
///     kind: InstrumentKind,
///     tags: String,
/// }
///
/// impl Recorder for StatsD {
///     fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument> {
///         let tags: Vec<String> = labels.iter().map(|(name, value)| format!("{name}:{value}")).collect();
///         let (socket, name, kind) = (self.0.clone(), instrument.name(), instrument.kind());
///         Box::new(Series { socket, name, kind, tags: tags.join(",") })
///     }
/// }
///
/// impl BoundInstrument for Series {
///     fn record(&self, value: f64) {
///         let (name, tags) = (self.name, &self.tags);
///         let line = match self.kind {
///             InstrumentKind::Counter => format!("{name}:{value}|c|#{tags}"),
///             InstrumentKind::UpDownCounter => format!("{name}:{value:+}|g|#{tags}"), // with a sign it is added
///             InstrumentKind::Gauge => format!("{name}:{value}|g|#{tags}"),
///             _ => format!("{name}:{value}|h|#{tags}"), // `Histogram`
///         };
///         let _ = self.socket.send(line.as_bytes());
///     }
/// }
///
/// # let socket = UdpSocket::bind("127.0.0.1:0")?;
/// # socket.connect("127.0.0.1:9")?;
/// # socket.set_nonblocking(true)?;
/// let metrics = Metrics::new(StatsD(Arc::new(socket))).experimental();
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
/// A panic in a recorder is caught, and that one recording is lost. A panic in [`bind`](Recorder::bind) leaves that one series
/// without a recorder; it is logged at ERROR. With `panic = "abort"` the process ends.
pub trait Recorder: Send + Sync + 'static {
    /// Binds an instrument to the values of its labels, in the order of [`Instrument::labels`] and then of those
    /// [`Instrument::optional_labels`] that were asked for. This is called once for each combination that a channel, a resolver,
    /// a registrar or a server uses, and not for each recording: it may allocate and lock.
    ///
    /// Two channels of one target bind the same labels: both then record into one series.
    fn bind(&self, instrument: &'static Instrument, labels: &[(&'static str, &str)]) -> Box<dyn BoundInstrument>;
}

/// One series: an instrument with its labels. It is dropped with the channel, resolver, registrar or server that it was bound for.
pub trait BoundInstrument: Send + Sync + 'static {
    /// Takes one value, of the meaning that [`InstrumentKind`](crate::metrics::InstrumentKind) says. Values of counters are whole
    /// numbers. It is called in the tasks of callers: it must not block.
    fn record(&self, value: f64);
}

/// Where metrics go, and which of them.
///
/// Each builder that takes one also takes a [`Recorder`] alone: then the instruments that are not experimental are recorded,
/// without optional labels.
#[derive(Clone)]
pub struct Metrics {
    pub(crate) recorder: Arc<dyn Recorder>,
    pub(crate) experimental: bool,
    pub(crate) locality: bool,
    pub(crate) server: bool,
}

impl Metrics {
    /// Records the instruments that are not experimental, without optional labels.
    pub fn new(recorder: impl Recorder) -> Self {
        Self { recorder: Arc::new(recorder), experimental: false, locality: false, server: false }
    }

    /// Records the experimental instruments too (gRFCs A91, A94, A96). Off by default, as gRFC A79 wants it: their names may
    /// change with their gRFCs, also in a minor release.
    #[must_use]
    pub fn experimental(mut self) -> Self {
        self.experimental = true;
        self
    }

    /// Adds the label `grpc.lb.locality`, the zone of the server, to the instruments that have it (gRFCs A78, A94). Off by
    /// default: it multiplies the series by the number of zones.
    #[must_use]
    pub fn locality_label(mut self) -> Self {
        self.locality = true;
        self
    }

    /// Adds the label `tonic_etcd.server`, the address of the server, to the instruments of attempts and subchannels. Off by default:
    /// it multiplies the series by the number of servers, and a fleet whose addresses change leaves series behind.
    #[must_use]
    pub fn server_label(mut self) -> Self {
        self.server = true;
        self
    }
}

impl<R: Recorder> From<R> for Metrics {
    fn from(recorder: R) -> Self {
        Self::new(recorder)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("experimental", &self.experimental)
            .field("locality_label", &self.locality)
            .field("server_label", &self.server)
            .finish_non_exhaustive()
    }
}
