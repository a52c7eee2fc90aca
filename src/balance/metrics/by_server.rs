//! Series of attempts that have ended, with the labels of their server. Only where the user asks for those labels.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tonic::Code;

use crate::balance::metrics::method::{AttemptNumbers, MethodMetrics};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::status::code_name;
use crate::metrics::{Bound, grpc, seconds};

/// The series of one server, which go with it; or those of attempts without a server.
#[derive(Default)]
pub(crate) struct SeriesByServer(ArcSwap<Vec<Arc<Series>>>);

/// What one combination of labels records into.
struct Series {
    /// The address of the method's numbers, which live as long as the channel.
    method: usize,
    code: Code,
    /// A server that registers anew may be in another zone.
    zone: Box<str>,
    duration: Bound,
    sent: Bound,
    received: Bound,
}

impl SeriesByServer {
    pub(super) fn record(
        &self,
        method: &MethodMetrics,
        code: Code,
        end: AttemptNumbers,
        server: Option<&ReadySubchannel>,
    ) {
        let zone = server.and_then(|server| server.server.instance().zone()).unwrap_or_default();
        let key = std::ptr::from_ref(method).addr();
        let is_it = |series: &&Arc<Series>| series.method == key && series.code == code && *series.zone == *zone;
        let known = self.0.load().iter().find(is_it).cloned();
        let series = known.unwrap_or_else(|| self.add(method, code, zone, server));
        series.duration.record(seconds(end.duration));
        series.sent.record(end.sent as f64);
        series.received.record(end.received as f64);
    }

    /// Binds the series of other labels, outside of any lock: that runs the recorder's code. If another task is as early, both bind
    /// the same labels, and one of the two goes at once.
    #[cold]
    fn add(&self, method: &MethodMetrics, code: Code, zone: &str, server: Option<&ReadySubchannel>) -> Arc<Series> {
        let address = server.map(|server| server.subchannel.address().to_string()).unwrap_or_default();
        let name = method.name();
        let bind = |instrument| {
            let labels = [
                (grpc::METHOD, &*name),
                (grpc::STATUS, code_name(code)),
                (grpc::LOCALITY, zone),
                (grpc::SERVER, &*address),
            ];
            method.context.bind(instrument, &labels)
        };
        let new = Arc::new(Series {
            method: std::ptr::from_ref(method).addr(),
            code,
            zone: zone.into(),
            duration: bind(&grpc::ATTEMPT_DURATION),
            sent: bind(&grpc::ATTEMPT_SENT),
            received: bind(&grpc::ATTEMPT_RECEIVED),
        });
        self.0.rcu(|all| {
            // A server is in one zone at a time: the series of another one go.
            let others = all.iter().filter(|known| *known.zone == *zone && !known.is_same(&new));
            others.cloned().chain([new.clone()]).collect::<Vec<_>>()
        });
        new
    }
}

impl Series {
    fn is_same(&self, other: &Self) -> bool {
        self.method == other.method && self.code == other.code
    }
}
