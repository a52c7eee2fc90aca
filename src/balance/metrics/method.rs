//! The numbers of one method of a channel.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tonic::Code;

use crate::balance::metrics::by_server::SeriesByServer;
use crate::balance::metrics::{MetricsContext, texts_of};
use crate::balance::pool::ready::ReadySubchannel;
use crate::balance::runtime::nanos::Nanos;
use crate::balance::status::code_name;
use crate::metrics::{Counter, Histogram, grpc};

/// There are so many status codes, from 0 on.
pub(super) const CODES: usize = 17;

/// What is counted of the calls of one method.
pub(crate) struct MethodMetrics {
    pub(super) context: Arc<MetricsContext>,
    /// Both parts of the label `grpc.method`. Without a service it is the method alone: `other`.
    pub(super) service: Box<str>,
    pub(super) method: Box<str>,
    /// Attempts that have begun.
    pub(super) started: Counter,
    /// Attempts and calls that have ended, by status: each is made by the first of them.
    pub(super) attempts: [OnceLock<Box<AttemptEnds>>; CODES],
    pub(super) calls: [OnceLock<Box<Histogram>>; CODES],
    /// Of calls that were made again.
    pub(super) again: OnceLock<Box<Again>>,
    /// The series of attempts that never had a server, where series have its labels.
    unserved: SeriesByServer,
    is_by_server: bool,
    /// Where the texts of the generated client lie that has called the method first.
    pub(super) texts: [usize; 4],
}

/// The values of one attempt that has ended.
#[derive(Clone, Copy)]
pub(super) struct AttemptNumbers {
    /// In nanoseconds.
    pub(super) duration: u64,
    /// Bytes of messages.
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Attempts that have ended with one status.
pub(super) struct AttemptEnds {
    pub(super) duration: Histogram,
    pub(super) sent: Histogram,
    pub(super) received: Histogram,
}

/// How calls were made again (gRFC A96).
pub(super) struct Again {
    pub(super) retries: Histogram,
    pub(super) transparent_retries: Histogram,
    pub(super) hedges: Histogram,
    pub(super) retry_delay: Histogram,
}

/// Returns what a lock holds, which `make` makes if it is empty. `make` runs outside of the lock, because it binds series of the
/// recorder's.
pub(super) fn get_or_make<T>(lock: &OnceLock<Box<T>>, make: impl FnOnce() -> T) -> &T {
    if let Some(value) = lock.get() {
        return value;
    }
    let value = Box::new(make());
    lock.get_or_init(move || value) // if another task is as early, its value stays
}

impl MethodMetrics {
    /// Binds the series of attempts that begin: this runs the recorder's code.
    pub(super) fn new(context: Arc<MetricsContext>, service: &str, method: &str) -> Self {
        let started = Counter::new(context.bind(&grpc::ATTEMPT_STARTED, &[(grpc::METHOD, &name(service, method))]));
        Self {
            is_by_server: context.is_by_server(),
            texts: texts_of(service, method),
            context,
            service: service.into(),
            method: method.into(),
            started,
            attempts: [const { OnceLock::new() }; CODES],
            calls: [const { OnceLock::new() }; CODES],
            again: OnceLock::new(),
            unserved: SeriesByServer::default(),
        }
    }

    /// The value of the label `grpc.method`.
    pub(super) fn name(&self) -> String {
        name(&self.service, &self.method)
    }

    /// The time since the channel's epoch.
    pub(super) fn now(&self) -> Nanos {
        Nanos::new(Instant::now().saturating_duration_since(self.context.epoch))
    }

    /// Counts the end of an attempt. `server` is who had it.
    #[inline]
    pub(super) fn attempt_ended(&self, code: Code, end: AttemptNumbers, server: Option<&ReadySubchannel>) {
        let ends = match self.attempts[code as usize].get() {
            Some(ends) => ends,
            None => self.first_attempt_ended(code),
        };
        ends.duration.record_nanos(end.duration);
        ends.sent.record_count(end.sent);
        ends.received.record_count(end.received);
        if self.is_by_server {
            let series = server.map_or(&self.unserved, |server| &server.subchannel.series);
            series.record(self, code, end, server);
        }
    }

    #[cold]
    fn first_attempt_ended(&self, code: Code) -> &AttemptEnds {
        get_or_make(&self.attempts[code as usize], || {
            let name = self.name();
            let labels = [(grpc::METHOD, &*name), (grpc::STATUS, code_name(code))];
            let histogram =
                |instrument| Histogram::new(instrument, self.context.bind_without_server(instrument, &labels));
            AttemptEnds {
                duration: histogram(&grpc::ATTEMPT_DURATION),
                sent: histogram(&grpc::ATTEMPT_SENT),
                received: histogram(&grpc::ATTEMPT_RECEIVED),
            }
        })
    }

    /// Counts the end of a call.
    #[inline]
    pub(super) fn call_ended(&self, code: Code, nanos: u64) {
        let calls = match self.calls[code as usize].get() {
            Some(calls) => calls,
            None => self.first_call_ended(code),
        };
        calls.record_nanos(nanos);
    }

    #[cold]
    fn first_call_ended(&self, code: Code) -> &Histogram {
        get_or_make(&self.calls[code as usize], || {
            let labels = [(grpc::METHOD, &*self.name()), (grpc::STATUS, code_name(code))];
            Histogram::new(&grpc::CALL_DURATION, self.context.bind(&grpc::CALL_DURATION, &labels))
        })
    }

    /// What is counted of calls that were made again.
    pub(super) fn again(&self) -> &Again {
        get_or_make(&self.again, || {
            let name = self.name();
            let histogram =
                |instrument| Histogram::new(instrument, self.context.bind(instrument, &[(grpc::METHOD, &*name)]));
            Again {
                retries: histogram(&grpc::CALL_RETRIES),
                transparent_retries: histogram(&grpc::CALL_TRANSPARENT_RETRIES),
                hedges: histogram(&grpc::CALL_HEDGES),
                retry_delay: histogram(&grpc::CALL_RETRY_DELAY),
            }
        })
    }
}

fn name(service: &str, method: &str) -> String {
    if service.is_empty() { method.into() } else { format!("{service}/{method}") }
}
